"""The operations page in a real browser: what it says, and that it can be read everywhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Literal

import pytest
from django.test import Client
from playwright.sync_api import Page, expect
from pytest_django.live_server_helper import LiveServer

from fleet.celery import app
from fleet.lib.clock import now
from fleet.models import ProcessSeen, TaskRun
from fleet.watch import life
from tests.e2e.console import Console, make_operator

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]
AXE = Path(__file__).parent / "vendor" / "axe.min.js"
OPERATIONS = "/operations/"


@pytest.fixture
def console(page: Page, live_server: LiveServer) -> Iterator[Console]:
    made = Console(page, live_server.url)
    operator = make_operator()
    made.sign_in(operator)
    # The first page of a process imports and compiles everything: not in the browser's time.
    client = Client()
    client.force_login(operator)
    client.get(OPERATIONS)
    yield made
    assert made.faults == []


def a_working_console() -> None:
    """Processes on two hosts, one of them left behind, and tasks of every state."""
    for kind in ("web", "worker", "beat"):
        life.show(kind)
    ProcessSeen.objects.create(
        key="worker@" + "w" * 60, kind="worker", hostname="w" * 60, version="0.0.9", at=now()
    )
    moment = now()
    for index, entry in enumerate(app.conf.beat_schedule.values()):
        ended = moment - timedelta(hours=9 if index == 3 else 0, seconds=index)
        TaskRun.objects.create(
            task=entry["task"],
            started_at=ended,
            ended_at=ended,
            took_ms=index * 7,
            run_count=index * 1234,
            failure_count=index == 2,
            has_failed=index == 2,
            error_kind="OperationalError" if index == 2 else "",
            error_at=ended if index == 2 else None,
        )


def violations(console: Console) -> list[object]:
    console.page.evaluate(AXE.read_text(encoding="utf-8"))
    found: list[object] = console.page.evaluate(
        "axe.run(document, {resultTypes: ['violations']}).then(r => r.violations"
        ".filter(v => ['serious', 'critical'].includes(v.impact))"
        ".map(v => v.id + ': ' + v.nodes.slice(0, 2).map(n => n.html.slice(0, 160))))"
    )
    return found


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("phone", [False, True], ids=["wide", "phone"])
def test_operations_can_be_read_everywhere(
    console: Console, theme: Literal["light", "dark"], phone: bool
) -> None:
    a_working_console()
    console.use(theme=theme, phone=phone)
    console.open(OPERATIONS)
    if folder := os.environ.get("HF_PICTURES"):
        name = f"operations-{theme}-{'phone' if phone else 'wide'}"
        console.page.screenshot(path=f"{folder}/{name}.png", full_page=True)
    assert console.overflow_px() <= 0
    assert violations(console) == []
    main = console.page.get_by_role("region", name="Processes")
    expect(main.get_by_text("Other version")).to_have_count(1)
    tasks = console.page.get_by_role("region", name="Periodic tasks")
    expect(tasks.get_by_text("OperationalError")).to_be_visible()
    expect(tasks.get_by_text("Late", exact=True)).to_have_count(1)


def test_a_new_console_says_what_is_not_there_yet(console: Console) -> None:
    console.open(OPERATIONS)
    if folder := os.environ.get("HF_PICTURES"):
        console.page.screenshot(path=f"{folder}/operations-new.png", full_page=True)
    expect(console.page.get_by_text("Not seen")).to_have_count(3)
    expect(console.page.get_by_text("None has run yet")).to_have_count(1)
    expect(console.page.get_by_text("Run: manage.py backup FOLDER")).to_have_count(1)
    assert violations(console) == []
