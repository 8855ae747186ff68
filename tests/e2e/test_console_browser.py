"""What an operator sees and does, in a real browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Page, expect
from pytest_django.live_server_helper import LiveServer

from fleet.models import ChangeRecord, EnrollmentToken, Pin, PolicyRevision
from tests import builders
from tests.e2e.console import PASSWORD, Console, make_operator
from tests.e2e.fleet_rows import IMAGE, SCRIPT, pages, seed

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]
AXE = Path(__file__).parent / "vendor" / "axe.min.js"


@pytest.fixture
def console(page: Page, live_server: LiveServer) -> Iterator[Console]:
    made = Console(page, live_server.url)
    yield made
    # Whatever the test was about: no CSP violation, script error or failed request on the way.
    assert made.faults == []


def signed_in(console: Console) -> Console:
    console.sign_in(make_operator())
    return console


def test_login_leads_to_the_overview(console: Console) -> None:
    make_operator("olga")
    console.open("/login/")
    console.page.fill("#id_username", "olga")
    console.page.fill("#id_password", PASSWORD)
    console.page.click("button[type=submit]")
    expect(console.page.locator("#header-inner h1")).to_contain_text("Overview")


def test_fresh_console_says_how_to_enroll(console: Console) -> None:
    signed_in(console).open("/")
    expect(console.page.get_by_text("No install has enrolled yet")).to_be_visible()
    console.page.get_by_role("link", name="Create enrollment token").click()
    expect(console.page.locator("#header-inner h1")).to_contain_text("Enrollment tokens")


def test_every_page_opens_without_a_fault_and_shows_hostile_names_as_text(
    console: Console,
) -> None:
    seeded = seed()
    signed_in(console)
    for name, path in pages(seeded).items():
        console.open(path)
        assert console.faults == [], name
        assert console.page.locator("script", has_text="alert(1)").count() == 0, name
        assert console.page.locator("img[src=x]").count() == 0, name


def test_overview_shows_numbers_charts_and_hostile_names(console: Console) -> None:
    seed()
    signed_in(console).open("/?range=7d")
    expect(console.page.get_by_text("Runs and failures").first).to_be_visible()
    expect(console.page.locator("dl .hf-card", has_text="Success rate")).to_contain_text("50")
    expect(console.page.get_by_role("heading", name="Policy state")).to_be_visible()
    expect(console.page.get_by_text("1 install drifted")).to_be_visible()
    expect(console.page.get_by_text(IMAGE).first).to_be_attached()
    assert console.page.locator("svg[role=img] > title").count() > 8


def test_range_and_group_stay_in_the_address(console: Console) -> None:
    seeded = seed()
    signed_in(console).open("/?range=7d")
    console.page.select_option("#hf-group", str(seeded.group_id))
    console.page.wait_for_url(re.compile(rf"range=7d&group={seeded.group_id}"))
    console.page.get_by_role("link", name=re.compile("30.d")).click()
    console.page.wait_for_url(re.compile(rf"range=30d&group={seeded.group_id}"))


def test_token_is_shown_once_with_its_command(console: Console) -> None:
    signed_in(console).open("/fleet/enrollmenttoken/add/")
    console.page.fill("#id_reason", "Two laptops")
    console.page.get_by_role("button", name="Create enrollment token").click()
    command = console.page.locator("#hf-command").inner_text()
    assert re.match(r"hermes-telemetry enroll http://\S+ hfe_\w+\.[0-9a-f]{64}$", command)
    console.open("/fleet/enrollmenttoken/")
    secret = command.rpartition("_")[2][:40]
    assert secret not in console.page.content()
    assert EnrollmentToken.objects.get().reason == "Two laptops"


def test_pin_editor_shows_the_input_of_the_typed_key(console: Console) -> None:
    signed_in(console).open("/fleet/pin/add/")
    page = console.page
    page.fill("#id_key", "telemetry.retention_days")
    expect(page.locator("#id_value_telemetry__retention_days")).to_be_visible()
    page.fill("#id_key", "telemetry.consent_state")
    expect(page.locator("#id_value_telemetry__consent_state")).to_be_visible()
    expect(page.locator("#id_value_telemetry__retention_days")).to_be_hidden()
    page.fill("#id_key", "model.default")
    expect(page.locator("#id_value_json")).to_be_visible()


def test_pin_with_a_wrong_value_says_why_at_its_input(console: Console) -> None:
    signed_in(console).open("/fleet/pin/add/")
    console.page.fill("#id_key", "telemetry.retention_days")
    console.page.fill("#id_value_telemetry__retention_days", "0")
    console.page.fill("#id_reason", "why not")
    console.page.get_by_role("button", name="Save", exact=True).click()
    expect(console.page.get_by_text("Use a number from 1 to 3650.")).to_be_visible()
    assert not Pin.objects.exists()


def test_pin_is_edited_planned_and_published(console: Console) -> None:
    builders.make_install()
    signed_in(console).open("/fleet/pin/add/")
    page = console.page
    page.fill("#id_key", "telemetry.trajectories.enabled")
    page.locator("label", has_text="On (true)").locator("visible=true").click()
    page.fill("#id_reason", "A study")
    page.get_by_role("button", name="Save", exact=True).click()
    console.open("/publish/")
    expect(page.get_by_text("This loosens the policy")).to_be_visible()
    page.fill("#hf-reason", "The study begins")
    page.get_by_role("button", name="Publish revision #1").click()
    expect(page.get_by_text("In force")).to_be_visible()
    revision = PolicyRevision.objects.get()
    assert (revision.reason, revision.created_by) == ("The study begins", "operator")
    assert ChangeRecord.objects.filter(object_type="pin", action="create").exists()


def test_health_page_names_what_is_down_with_its_mend(console: Console) -> None:
    signed_in(console).open("/health/")
    row = console.page.get_by_role("row", name=re.compile("Worker"))
    expect(row).to_contain_text("Not connected")
    expect(row).to_contain_text("celery -A fleet.celery worker")


def test_no_page_is_wider_than_a_phone(console: Console) -> None:
    seeded = seed()
    signed_in(console).use(phone=True)
    wide = {}
    for name, path in pages(seeded).items():
        console.open(path)
        if console.overflow_px() > 0:
            wide[name] = console.overflow_px()
    assert wide == {}


def test_chart_text_is_readable_on_a_phone(console: Console) -> None:
    seed()
    signed_in(console).use(phone=True)
    console.open("/")
    height_px = console.page.evaluate(
        "document.querySelector('.hf-narrow .hf-tick').getBoundingClientRect().height"
    )
    assert height_px >= 11


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_serious_fault(console: Console, theme: Literal["light", "dark"]) -> None:
    seeded = seed()
    signed_in(console).use(theme=theme)
    found = {}
    for name, path in pages(seeded).items():
        console.open(path)
        console.page.evaluate(AXE.read_text(encoding="utf-8"))
        violations = console.page.evaluate(
            "axe.run(document, {resultTypes: ['violations']}).then(r => r.violations"
            ".filter(v => ['serious', 'critical'].includes(v.impact))"
            ".map(v => v.id + ': ' + v.nodes.slice(0, 2).map(n => n.html.slice(0, 160))))"
        )
        if violations:
            found[name] = violations
    assert found == {}


def test_demo_console_is_marked(console: Console, settings: pytest.FixtureRequest) -> None:
    settings.FLEET_DEMO = True  # type: ignore[attr-defined]  # pytest-django's wrapper
    signed_in(console).open("/")
    expect(console.page.get_by_text("DEMO data")).to_be_visible()


def test_keys_that_nobody_pinned_are_folded_away_and_open_by_keyboard(console: Console) -> None:
    seeded = seed()
    signed_in(console).open(f"/fleet/install/{seeded.install_id}/change/")
    page = console.page
    expect(page.get_by_role("region", name="Pinned keys")).to_contain_text("retention_days")
    unpinned = page.get_by_role("region", name="Keys that are not pinned")
    expect(unpinned).to_be_hidden()
    page.get_by_text(re.compile("Defaults of .* keys that are not pinned")).press("Enter")
    expect(unpinned).to_contain_text("telemetry.trajectories.enabled")


def test_hostile_install_page_shows_its_name_as_text(console: Console) -> None:
    seeded = seed()
    signed_in(console).open(f"/fleet/install/{seeded.install_id}/change/")
    expect(console.page.get_by_text(SCRIPT).first).to_be_visible()
