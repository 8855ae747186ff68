"""The real client against a console that says when: it waits as long, and nothing is lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.test import override_settings
from pytest_django.live_server_helper import LiveServer

from agent_client import enroll, push
from agent_client.push_send import Timing
from fleet.api import buckets
from fleet.enroll import mint_token
from telemetry.api import limits
from telemetry.models import ModelCall, Run
from tests.agent_client.summaries import run_of

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.both_engines]


@pytest.fixture
def home(tmp_path: Path, live_server: LiveServer) -> Path:
    _, text = mint_token(actor="operator")
    enroll.enroll(tmp_path, live_server.url, text)
    return tmp_path


class Waits:
    """What the client waited, in seconds; the console's buckets see that time pass."""

    def __init__(self) -> None:
        self.found_s: list[float] = []

    def sleep(self, wait_s: float) -> None:
        self.found_s.append(wait_s)
        for moments in (buckets._LOCAL._empty_at_s, limits._HOLDS._until_s):
            for key in list(moments):
                moments[key] -= wait_s  # type: ignore[index]  # keys of its own

    def timing(self) -> Timing:
        return Timing(sleep=self.sleep)


@override_settings(REDIS_URL="", FLEET_RATE_INSTALL_ROWS_PER_MIN=3)
def test_a_limited_agent_waits_exactly_once_and_everything_arrives(home: Path) -> None:
    waits = Waits()
    run_of(home, 1)
    assert push.push_once(home, timing=waits.timing()).status == "pushed"
    run_of(home, 2)
    result = push.push_once(home, timing=waits.timing())
    assert (result.status, result.pending) == ("pushed", 0)
    assert (Run.objects.count(), ModelCall.objects.count()) == (2, 2)
    assert len(waits.found_s) == 1
    assert waits.found_s[0] > 1


@override_settings(REDIS_URL="", FLEET_RATE_INSTALL_BYTES_PER_MIN=500)
def test_a_wait_longer_than_a_push_ends_it_and_holds_the_next(home: Path) -> None:
    waits = Waits()
    for number in range(40):
        run_of(home, number)
    push.push_once(home, timing=waits.timing())
    run_of(home, 41)
    later = push.push_once(home, timing=waits.timing())
    assert (later.exit_code, later.status) == (push.EXIT_LATER, "later")
    assert later.retry_after_s > 60
    assert push.push_once(home, timing=waits.timing()).reason == "asked_to_wait"
    waits.sleep(later.retry_after_s)
    assert push.push_once(home, timing=waits.timing(), force=True).status == "pushed"
    assert Run.objects.count() == 41
