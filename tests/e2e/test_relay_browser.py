"""Collectors, streams and alerts in a real browser, with a real receiver behind them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Literal

import pytest
from django.test import Client, override_settings
from playwright.sync_api import Page, expect
from pytest_django.live_server_helper import LiveServer

from fleet.lib.clock import now
from fleet.models import ChangeRecord
from telemetry.models import AlertEvent, DeadLetter, RelayDestination, Stream
from telemetry.relay.tasks import number_feed, relay
from tests import builders
from tests.e2e.console import Console, make_operator
from tests.e2e.fleet_rows import LONG, SCRIPT
from tests.telemetry import builders as make
from tests.telemetry import receivers
from tests.telemetry.receivers import Http, Post, Say

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]
AXE = Path(__file__).parent / "vendor" / "axe.min.js"
COLLECTORS = "/telemetry/relaydestination/"


@pytest.fixture(autouse=True)
def allowed() -> Iterator[None]:
    with override_settings(FLEET_OTLP_HOSTS=["127.0.0.0/8"], FLEET_OTLP_PLAIN_HTTP=True):
        yield


@pytest.fixture
def http() -> Iterator[Http]:
    with receivers.http() as made:
        yield made


@pytest.fixture
def console(page: Page, live_server: LiveServer) -> Iterator[Console]:
    made = Console(page, live_server.url)
    operator = make_operator()
    made.sign_in(operator)
    # The first page of a process imports and compiles everything: not in the browser's time.
    client = Client()
    client.force_login(operator)
    client.get(COLLECTORS + "add/")
    yield made
    assert made.faults == []


def keep_picture(console: Console, name: str) -> None:
    """For whoever wants to look: set HF_PICTURES to a folder."""
    if folder := os.environ.get("HF_PICTURES"):
        console.page.screenshot(path=f"{folder}/{name}.png", full_page=True)


def violations(console: Console) -> list[object]:
    console.page.evaluate(AXE.read_text(encoding="utf-8"))
    found: list[object] = console.page.evaluate(
        "axe.run(document, {resultTypes: ['violations']}).then(r => r.violations"
        ".filter(v => ['serious', 'critical'].includes(v.impact))"
        ".map(v => v.id + ': ' + v.nodes.slice(0, 2).map(n => n.html.slice(0, 160))))"
    )
    return found


def add_collector(console: Console, endpoint: str, name: str = "Grafana") -> None:
    console.open(COLLECTORS + "add/")
    console.page.get_by_label("Name", exact=False).first.fill(name)
    console.page.get_by_label("Address").fill(endpoint)
    console.page.get_by_label("Reason").fill("Traces for the platform team")
    console.page.get_by_role("button", name="Save").click()
    expect(console.page.get_by_text("Added. Test it")).to_be_visible()


def push_rows(count: int) -> None:
    builders.make_install(install_id=make.INSTALL, hostname="build-3")
    make.push(make.run(), *(make.tool_call(seq) for seq in range(2, count + 1)))
    number_feed()


def test_a_collector_is_added_tested_and_its_lag_falls(console: Console, http: Http) -> None:
    add_collector(console, http.url)
    console.page.get_by_role("button", name="Test").click()
    expect(console.page.get_by_text("The collector took the test signal.")).to_be_visible()
    expect(console.page.get_by_text("Taken: 200 to /v1/traces.")).to_be_visible()
    keep_picture(console, "collector-tested")
    assert {post.path for post in http.posts} == {"/v1/traces"}
    relay()  # from here on its place in the feed is known, and what waits behind it
    push_rows(30)
    traces = console.page.locator("[data-hf-live] tr", has_text="Traces")
    expect(traces.locator("td").nth(2)).not_to_have_text("0")
    keep_picture(console, "collector-waiting")
    http.posts.clear()
    for _round in range(5):
        relay()
    expect(traces.locator("td").nth(2)).to_have_text("0")
    expect(traces.locator("td").nth(3)).not_to_have_text("0")
    expect(traces.get_by_text("keeps up")).to_be_visible()
    assert any(post.path == "/v1/traces" for post in http.posts)
    keep_picture(console, "collector-sent")
    assert ChangeRecord.objects.filter(action="collector.add").exists()


def test_a_collector_that_fails_is_explained(console: Console) -> None:
    with receivers.http() as gone:
        endpoint = gone.url
    add_collector(console, endpoint)
    console.page.get_by_role("button", name="Test").click()
    said = "Is the collector running, is the port right?"
    expect(console.page.get_by_text(said).first).to_be_visible()
    push_rows(3)
    relay()
    expect(console.page.locator("[data-hf-live]").get_by_text(said).first).to_be_visible()
    keep_picture(console, "collector-failing")
    assert violations(console) == []


def test_a_refused_address_is_explained_in_the_form(console: Console) -> None:
    console.open(COLLECTORS + "add/")
    console.page.get_by_label("Name", exact=False).first.fill("Inside")
    console.page.get_by_label("Address").fill("http://10.1.2.3:4318")
    console.page.get_by_label("Name of header 1").fill("Authorization")
    console.page.get_by_label("Variable of header 1").fill("Bearer abc.def")
    console.page.get_by_label("Reason").fill("x")
    console.page.get_by_role("button", name="Save").click()
    expect(console.page.get_by_text("FLEET_OTLP_HOSTS")).to_be_visible()
    expect(console.page.get_by_text("write the NAME of a variable")).to_be_visible()
    assert "Bearer abc.def" not in console.page.content()
    assert violations(console) == []
    keep_picture(console, "collector-refused")


def test_a_dead_letter_is_sent_again(console: Console, http: Http) -> None:
    http.answer = lambda post: Say(400 if post.path == "/v1/traces" else 200)
    add_collector(console, http.url)
    push_rows(5)
    for _round in range(8):
        relay()
        RelayDestination.objects.get().cursors.update(open_until=None)
    assert DeadLetter.objects.exists()
    http.answer = lambda _post: Say()
    console.page.reload()
    keep_picture(console, "collector-dead")
    console.page.get_by_role("link", name="send again or discard").click()
    console.page.locator("table a").filter(has_text=re.compile("ago|just now")).first.click()
    keep_picture(console, "letter")
    console.page.get_by_role("button", name="Send again…").click()
    console.page.get_by_label("Reason").fill("The collector takes it now")
    keep_picture(console, "letter-confirm")
    console.page.get_by_role("button", name="Send again").click()
    expect(console.page.get_by_text("1 letter is sent again.")).to_be_visible()
    for _round in range(3):
        relay()
    console.page.reload()
    expect(console.page.locator("table").get_by_text("sent again").first).to_be_visible()
    keep_picture(console, "letters")


def some_of_all() -> dict[str, str]:
    """Paths by name, with long and hostile words behind them."""
    collector = RelayDestination.objects.create(
        name=LONG[:80],
        endpoint="https://otlp.example.com",
        since_at=now(),
        headers_env={"Authorization": "FLEET_OTLP_HDR_GRAFANA"},
    )
    collector.cursors.create(
        signal="traces",
        position=0,
        sent_count=1_204_331,
        dead_count=7,
        retry_count=12,
        failure_count=6,
        last_error=f"The receiver answered 503: {SCRIPT}"[:300],
        last_error_at=now(),
        open_until=now() + timedelta(minutes=4),
    )
    stream = Stream.objects.create(
        name="SIEM",
        kind="webhook",
        endpoint="https://hooks.slack.com/services/${FLEET_HOOK_SLACK}",
        secret_env="FLEET_HOOK_SIEM",
        failure_count=6,
        last_error="Nothing listens at siem.example.com:443."[:300],
        last_error_at=now(),
        sent_count=431,
    )
    letter = DeadLetter.objects.create(
        destination=collector,
        signal="traces",
        record_count=512,
        body=b"x",
        body_bytes=80_112,
        status=400,
        error=SCRIPT,
        at=now(),
    )
    for key, severity in (("probe:disk", "bad"), ("install_silent", "warn"), (LONG[:80], "info")):
        AlertEvent.objects.create(
            key=key, state="raised", severity=severity, text=f"{key}: {SCRIPT}", at=now(), count=3
        )
    alert = AlertEvent.objects.latest("pk")
    return {
        "collectors": COLLECTORS,
        "collector": f"{COLLECTORS}{collector.pk}/change/",
        "collector-add": COLLECTORS + "add/",
        "streams": "/telemetry/stream/",
        "stream": f"/telemetry/stream/{stream.pk}/change/",
        "stream-add": "/telemetry/stream/add/",
        "letters": "/telemetry/deadletter/",
        "letter-page": f"/telemetry/deadletter/{letter.pk}/change/",
        "alerts": "/telemetry/alertevent/",
        "alert": f"/telemetry/alertevent/{alert.pk}/change/",
    }


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_page_is_accessible(console: Console, theme: Literal["light", "dark"]) -> None:
    paths = some_of_all()
    console.use(theme=theme)
    for name, path in paths.items():
        console.open(path)
        keep_picture(console, f"{name}-{theme}")
        assert violations(console) == [], name
        assert console.overflow_px() <= 0, name


def test_every_page_fits_a_phone(console: Console) -> None:
    paths = some_of_all()
    console.use(phone=True)
    for name, path in paths.items():
        console.open(path)
        keep_picture(console, f"{name}-phone")
        assert console.overflow_px() <= 0, name
        assert violations(console) == [], name


def test_a_stream_s_form_shows_what_its_kind_needs(console: Console, http: Http) -> None:
    console.open("/telemetry/stream/add/")
    page = console.page
    expect(page.get_by_label("Signed with")).to_be_visible()
    page.get_by_label("Kind").select_option("syslog")
    expect(page.get_by_label("Signed with")).to_be_hidden()
    page.get_by_label("Kind").select_option("webhook")
    page.get_by_label("Name", exact=False).first.fill("SIEM")
    page.get_by_label("Address").fill(http.url + "/hook")
    page.get_by_label("Reason").fill("Audit goes to the SIEM")
    page.get_by_role("button", name="Save").click()
    page.get_by_role("button", name="Test").click()
    expect(page.get_by_text("The receiver took the test record.")).to_be_visible()
    posts: list[Post] = http.posts
    assert [post.path for post in posts] == ["/hook"]
    keep_picture(console, "stream-tested")
