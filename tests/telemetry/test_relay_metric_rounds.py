"""Metrics go out once a minute, say everything anew, and keep their start through a death."""

from __future__ import annotations

from datetime import timedelta

import pytest

from fleet.lib.clock import now
from telemetry.models import DeadLetter, RelayCursor
from telemetry.relay.dispatch import due_cursors
from telemetry.rollup.fill import fill_round
from tests.telemetry import builders as make
from tests.telemetry.flaky_receiver import Fault, FlakyReceiver, receiver
from tests.telemetry.relay_helpers import collector, cursor_of, go

__all__ = ["receiver"]
pytestmark = [pytest.mark.django_db, pytest.mark.both_engines]


def test_metrics_are_sent_each_minute(receiver: FlakyReceiver) -> None:
    destination = collector(receiver.url, sends_traces=False, sends_metrics=True)
    key = cursor_of(destination, "metrics").pk
    assert due_cursors(now()) == [key]
    go(destination, "metrics")
    make.push(make.run(), make.model_call(2))
    fill_round()
    assert due_cursors(now()) == []
    assert due_cursors(now() + timedelta(seconds=61)) == [key]
    assert go(destination, "metrics").record_count > 0
    names = set(receiver.requests[-1].ids)
    assert b"hermes.run.count" in names
    cursor = cursor_of(destination, "metrics")
    assert (cursor.position, cursor.failure_count) == (2, 0)
    assert cursor.sent_count > 0


def test_a_body_that_is_lost_is_made_up_for_by_the_next(receiver: FlakyReceiver) -> None:
    destination = collector(receiver.url, sends_traces=False, sends_metrics=True)
    go(destination, "metrics")
    make.push(make.run())
    fill_round()
    for fault in (Fault(loses_answer=True), Fault(status=503), Fault(status=400)):
        receiver.faults = [fault]
        assert go(destination, "metrics").record_count == 0
    cursor = cursor_of(destination, "metrics")
    assert (cursor.retry_count, DeadLetter.objects.count()) == (3, 0)
    assert due_cursors(now() + timedelta(hours=1)) == [cursor.pk]
    assert go(destination, "metrics").record_count > 0


def test_a_receiver_without_metrics_is_marked(receiver: FlakyReceiver) -> None:
    destination = collector(receiver.url, sends_traces=False, sends_metrics=True)
    make.push(make.run())
    fill_round()
    receiver.paths.discard("/v1/metrics")
    go(destination, "metrics")
    go(destination, "metrics")
    asked = len(receiver.requests)
    assert cursor_of(destination, "metrics").not_offered_at is not None
    go(destination, "metrics")
    assert len(receiver.requests) == asked
    RelayCursor.objects.update(not_offered_at=now() - timedelta(hours=2))
    receiver.paths.add("/v1/metrics")
    assert go(destination, "metrics").record_count > 0
