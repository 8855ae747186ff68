"""Reading content and erasing an install, in a real browser."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Page, expect
from pytest_django.live_server_helper import LiveServer

from fleet.models import ChangeRecord, Erasure, Install
from tests import builders
from tests.e2e.console import Console, make_operator
from tests.e2e.fleet_rows import IMAGE, LONG, SCRIPT
from tests.telemetry import builders as make
from tests.telemetry import content_rows as content

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]
AXE = Path(__file__).parent / "vendor" / "axe.min.js"
PATH = f"/content/{make.INSTALL}/?session={content.SESSION}"
REASON = "Incident 4711: why did it fail?"


@pytest.fixture
def console(page: Page, live_server: LiveServer) -> Iterator[Console]:
    made = Console(page, live_server.url)
    yield made
    assert made.faults == []


def with_content(host: str = "build-3") -> None:
    builders.make_install(install_id=make.INSTALL, hostname=host)
    call = {"function": {"name": "terminal", "arguments": '{"command": "make test"}'}}
    content.push(
        content.session(title=IMAGE),
        content.message(1, content="Why does the build fail?"),
        content.message(
            2, role="assistant", content=SCRIPT, reasoning=LONG * 20, tool_calls=[call]
        ),
        content.message(3, role="tool", tool_name="terminal", content="line\n" * 60),
    )
    make.push(make.run(run_id="r-1", session_id=content.SESSION))


def read(console: Console) -> None:
    console.open(PATH)
    console.page.get_by_label("Reason").fill(REASON)
    console.page.get_by_role("button", name="Show the content").click()
    expect(console.page.get_by_text("Why does the build fail?")).to_be_visible()


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


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_content_is_shown_after_a_reason_and_as_text(
    console: Console, theme: Literal["light", "dark"]
) -> None:
    with_content()
    console.sign_in(make_operator())
    console.use(theme=theme)
    console.open(PATH)
    expect(console.page.get_by_text("Why do you read this?")).to_be_visible()
    assert violations(console) == []
    keep_picture(console, f"reason-{theme}")
    read(console)
    expect(console.page.get_by_text(SCRIPT)).to_be_visible()
    assert violations(console) == []
    keep_picture(console, f"content-{theme}")
    assert ChangeRecord.objects.get(action="read_content").reason == REASON


def test_content_and_erasing_fit_a_phone(console: Console) -> None:
    with_content(LONG)
    console.sign_in(make_operator())
    console.use(phone=True)
    read(console)
    assert console.overflow_px() <= 0
    keep_picture(console, "content-phone")
    console.open(f"/erase/{make.INSTALL}/")
    assert console.overflow_px() <= 0
    keep_picture(console, "erase-phone")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_an_install_is_erased_from_its_page(
    console: Console, theme: Literal["light", "dark"]
) -> None:
    with_content()
    console.sign_in(make_operator())
    console.use(theme=theme)
    console.open(f"/fleet/install/{make.INSTALL}/change/")
    keep_picture(console, f"install-{theme}")
    console.page.get_by_role("link", name="Erase…").click()
    assert violations(console) == []
    keep_picture(console, f"erase-{theme}")
    console.page.get_by_label("Type its name").fill("build-3")
    console.page.get_by_label("Reason").fill("asked for by its owner")
    console.page.get_by_role("button", name="Erase").click()
    expect(console.page.get_by_role("link", name="Download the signed report")).to_be_visible()
    assert violations(console) == []
    keep_picture(console, f"erased-{theme}")
    assert Erasure.objects.get().is_done
    assert not Install.objects.exists()
