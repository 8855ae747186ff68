"""Runs that nobody ended reach the collector: found, sent once, repeated after a death."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from fleet.lib.clock import now
from fleet.models import Erasure
from telemetry.models import DeadLetter, FeedEntry, IngestBatch, RelayCursor, RelayDestination, Run
from telemetry.relay import unfinished
from telemetry.relay.cursor import Lost
from telemetry.relay.dispatch import due_cursors
from tests.telemetry import builders as make
from tests.telemetry.flaky_receiver import Fault, FlakyReceiver, receiver
from tests.telemetry.relay_helpers import balance, collector, cursor_of, go, go_until_idle

__all__ = ["receiver"]
pytestmark = [pytest.mark.django_db, pytest.mark.both_engines]
OLD = timedelta(hours=30)


def leave_open(*names: str, **values: Any) -> None:  # noqa: ANN401 -- a builder's overrides
    """A batch of runs that began and were never heard of again, a day and more ago."""
    at_ns = make.recent_ns(OLD.total_seconds())
    opened = {"start_ns": at_ns, "end_ns": None, "end_reason": None}
    make.push(*(make.run(at, run_id=name, **opened) for at, name in enumerate(names)), **values)
    for model in (Run, IngestBatch, FeedEntry):
        model.objects.update(received_at=now() - OLD)


def look_again() -> None:
    """As if an hour had passed."""
    for cursor in RelayCursor.objects.all():
        cursor.sending["lost"]["looked"] = (now() - timedelta(hours=2)).isoformat()
        RelayCursor.objects.filter(pk=cursor.pk).update(sending=cursor.sending, open_until=None)


def names_of(receiver: FlakyReceiver) -> list[str]:
    """The runs that arrived, by their attribute, in their order."""
    return [
        pair.value.string_value
        for request in receiver.requests
        for resource in ExportTraceServiceRequest.FromString(request.body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
        for pair in span.attributes
        if pair.key == "hermes.run_id"
    ]


def test_a_run_that_nobody_ended_is_sent_once(receiver: FlakyReceiver) -> None:
    destination = collector(receiver.url)
    leave_open("lost")
    go_until_idle(destination)
    look_again()
    go_until_idle(destination)
    cursor = cursor_of(destination)
    assert names_of(receiver) == ["lost"]
    assert (cursor.sent_count, balance(cursor)) == (1, 1)
    assert set(receiver.acknowledged.values()) == {1}


def test_the_look_is_made_once_an_hour_though_nothing_comes_in(receiver: FlakyReceiver) -> None:
    destination = collector(receiver.url)
    go_until_idle(destination)
    cursor = cursor_of(destination)
    assert due_cursors(now()) == []
    assert due_cursors(now() + unfinished.EVERY) == [cursor.pk]
    leave_open("lost")
    RelayCursor.objects.update(position=FeedEntry.objects.count())
    look_again()
    assert due_cursors(now()) == [cursor.pk]


def test_a_run_that_is_young_waits_and_one_that_ends_is_sent_as_it_ended(
    receiver: FlakyReceiver,
) -> None:
    destination = collector(receiver.url)
    at_ns = make.recent_ns()
    make.push(make.run(1, run_id="young", start_ns=at_ns, end_ns=None, end_reason=None))
    leave_open("late")
    Run.objects.filter(run_id="young").update(received_at=now())
    go_until_idle(destination)
    assert names_of(receiver) == ["late"]
    start_ns = Run.objects.get(run_id="late").start_ns
    make.push(make.run(2, run_id="late", start_ns=start_ns))
    look_again()
    go_until_idle(destination)
    # It ended after all: its span comes again, under the same id.
    assert names_of(receiver) == ["late", "late"]
    assert set(receiver.acknowledged.values()) == {2}


@pytest.mark.parametrize(
    ("faults", "sent"),
    [
        ([Fault(loses_answer=True)], 0),
        ([Fault(cut_answer=9)], 0),
        ([Fault(), Fault(status=503)], 2),
    ],
)
def test_what_was_not_acknowledged_goes_out_again_under_the_same_ids(
    receiver: FlakyReceiver, faults: list[Fault], sent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unfinished, "MAX_RUNS", 2)
    destination = collector(receiver.url)
    leave_open("a", "b", "c", "d", "e")
    receiver.faults = list(faults)
    go(destination)
    cursor = cursor_of(destination)
    assert (cursor.sent_count, cursor.retry_count) == (sent, 1)
    lost = Lost.from_json(cursor.sending["lost"])
    assert [one.run_id for one in lost.due] == list("abcde")[sent:]
    assert due_cursors(now() + timedelta(minutes=10)) == [cursor.pk]
    go_until_idle(destination)
    bodies = [request.ids for request in receiver.requests]
    assert bodies[sent // 2] == bodies[sent // 2 + 1]
    assert set(receiver.acknowledged.values()) == {1}
    assert len(receiver.acknowledged) == 5
    assert cursor_of(destination).sent_count == 5


def test_a_refused_body_becomes_a_letter_and_too_large_a_one_is_halved(
    receiver: FlakyReceiver,
) -> None:
    destination = collector(receiver.url)
    leave_open("a", "b", "c", "d")
    receiver.max_records = 1
    go_until_idle(destination)
    cursor = cursor_of(destination)
    assert (cursor.sent_count, len(receiver.acknowledged)) == (4, 4)
    assert cursor.dead_count == 0
    leave_open("e")
    receiver.faults = [Fault(status=400)]
    RelayCursor.objects.update(sending={}, position=0)
    go_until_idle(destination)
    cursor.refresh_from_db()
    letter = DeadLetter.objects.get()
    assert (cursor.dead_count, cursor.sent_count) == (letter.record_count, 9 - letter.record_count)
    assert Lost.from_json(cursor.sending["lost"]).due == []


def test_an_erased_installs_and_another_groups_runs_stay(receiver: FlakyReceiver) -> None:
    destination = collector(receiver.url, group_ids=[7])
    leave_open("other", group_id=8)
    leave_open("mine", group_id=7, install_id=UUID(int=9))
    leave_open("erased", group_id=7, install_id=UUID(int=10))
    Erasure.objects.create(pk=UUID(int=10), requested_by="x", reason="y", requested_at=now())
    go_until_idle(destination)
    assert names_of(receiver) == ["mine"]
    cursor = cursor_of(destination)
    assert (cursor.sent_count, Lost.from_json(cursor.sending["lost"]).due) == (1, [])


def test_a_run_that_is_too_old_counts_as_expired(receiver: FlakyReceiver) -> None:
    destination = collector(receiver.url, max_age_h=2)
    leave_open("lost")
    go_until_idle(destination)
    expired = cursor_of(destination).expired_count
    assert (names_of(receiver), expired > 0) == ([], True)
    look_again()
    go_until_idle(destination)
    assert cursor_of(destination).expired_count == expired


def test_of_a_time_set_back_only_what_lies_between_is_looked_at() -> None:
    at = now()
    first = Lost().since(at)
    assert first.ranges == [(at.isoformat(), "")]
    earlier = at - timedelta(days=1)
    assert first.since(earlier).ranges == [(earlier.isoformat(), "")]
    later = (at + timedelta(hours=5)).isoformat()
    looked = Lost(ranges=[(later, "")], first=at.isoformat())
    assert looked.since(earlier).ranges == [(earlier.isoformat(), at.isoformat()), (later, "")]
    ahead = at + timedelta(days=1)
    assert looked.since(earlier).since(ahead).ranges == [(ahead.isoformat(), "")]


def test_what_was_set_back_is_looked_at_once(receiver: FlakyReceiver) -> None:
    destination = collector(receiver.url, since_at=now() - timedelta(hours=28))
    leave_open("before")
    go_until_idle(destination)
    assert names_of(receiver) == []
    RelayDestination.objects.update(since_at=now() - timedelta(days=3))
    go_until_idle(destination)
    look_again()
    go_until_idle(destination)
    assert names_of(receiver) == ["before"]
    lost = Lost.from_json(cursor_of(destination).sending["lost"])
    assert len(lost.ranges) == 1
