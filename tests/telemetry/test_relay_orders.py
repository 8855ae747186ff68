"""What people do with relays: look, test, replay, discard; each in words, with an audit row."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from fleet.lib.clock import now
from fleet.models import ChangeRecord
from telemetry.health import relays_probe
from telemetry.models import DeadLetter, RelayCursor, RelayDestination
from telemetry.relay import dispatch
from telemetry.relay.cursor import make_cursors
from telemetry.relay.dispatch import due_cursors, relay_all
from telemetry.relay.feed import feed
from telemetry.relay.letters import forget_letters
from telemetry.relay.replay import ask_replay, discard
from telemetry.relay.state import RelayState, states
from telemetry.relay.tasks import keep_relay_books, number_feed, relay
from telemetry.relay.test import SPAN_NAME, TestReport
from telemetry.relay.test import test_destination as try_collector
from tests.telemetry import builders as make
from tests.telemetry.flaky_receiver import Fault, FlakyReceiver, allow_here, receiver
from tests.telemetry.relay_helpers import (
    balance,
    collector,
    cursor_of,
    fill,
    go,
    go_until_idle,
    install_ids,
)

__all__ = ["receiver"]
pytestmark = [pytest.mark.django_db, pytest.mark.both_engines]
committed = pytest.mark.django_db(transaction=True)


def refused(receiver: FlakyReceiver, count: int = 3) -> RelayDestination:
    """A collector with so many dead letters of one span each."""
    destination = collector(receiver.url)
    receiver.judge = lambda _request: Fault(status=400)
    for at in range(count):
        fill(1, start=at)
        go(destination)
    receiver.judge = None
    receiver.requests.clear()
    assert DeadLetter.objects.count() == count
    return destination


def state(destination: RelayDestination) -> RelayState:
    return states([RelayDestination.objects.get(pk=destination.pk)])[0]


# -------------------------------------------------------------------------------------- replay


def test_letters_are_sent_again_once_each(receiver: FlakyReceiver) -> None:
    destination = refused(receiver)
    letters = list(DeadLetter.objects.all())
    assert ask_replay(letters, actor="ann", reason="mended") == 3
    assert ask_replay(letters, actor="ann", reason="again") == 0
    go_until_idle(destination)
    go_until_idle(destination)
    cursor = cursor_of(destination)
    assert (cursor.sent_count, cursor.dead_count, balance(cursor)) == (3, 0, 3)
    assert set(receiver.acknowledged.values()) == {1}
    assert len(receiver.acknowledged) == 3
    assert not DeadLetter.objects.filter(replayed_at=None).exists()
    assert not DeadLetter.objects.exclude(body=b"").exists()
    record = ChangeRecord.objects.get(action="deadletter.replay")
    assert (record.actor, record.reason) == ("ann", "mended")
    assert '"letters":3' in record.pre_json


def test_a_letter_that_is_refused_again_waits_for_the_next_order(receiver: FlakyReceiver) -> None:
    destination = refused(receiver, 2)
    receiver.faults = [Fault(status=422)]
    ask_replay(DeadLetter.objects.all(), actor="ann", reason="x")
    go_until_idle(destination)
    left = DeadLetter.objects.get(replayed_at=None)
    assert (left.status, left.replay_asked_at, left.attempt_count) == (422, None, 1)
    cursor = cursor_of(destination)
    assert (cursor.sent_count, cursor.dead_count) == (1, 1)


def test_a_replay_waits_with_everything_else_while_the_receiver_is_away(
    receiver: FlakyReceiver,
) -> None:
    destination = refused(receiver, 2)
    ask_replay(DeadLetter.objects.all(), actor="ann", reason="x")
    receiver.faults = [Fault(status=503), Fault(loses_answer=True)]
    go(destination)
    go(destination)
    assert DeadLetter.objects.filter(replayed_at=None).count() == 2
    go_until_idle(destination)
    assert set(receiver.acknowledged.values()) == {1}
    assert cursor_of(destination).sent_count == 2


def test_discarded_letters_are_gone_and_audited(receiver: FlakyReceiver) -> None:
    destination = refused(receiver)
    assert discard(DeadLetter.objects.all()[:2], actor="ann", reason="old") == 2
    assert DeadLetter.objects.count() == 1
    assert ChangeRecord.objects.get(action="deadletter.discard").reason == "old"
    assert cursor_of(destination).dead_count == 3


def test_old_letters_go(receiver: FlakyReceiver) -> None:
    refused(receiver, 2)
    DeadLetter.objects.filter(pk=DeadLetter.objects.all()[0].pk).update(
        at=now() - timedelta(days=365)
    )
    assert forget_letters() == 1


def test_an_erasure_takes_the_letters_of_its_install(receiver: FlakyReceiver) -> None:
    from telemetry.store.erase import erase_install
    from tests.builders import make_install

    destination = collector(receiver.url)
    one, two = install_ids(2)
    for install_id in (one, two):
        make_install(install_id=install_id, machine_id=f"{install_id.int:064x}")
    receiver.judge = lambda _request: Fault(status=400)
    for install_id in (one, two):
        make.push(make.model_call(1, span_id=str(install_id)), install_id=install_id)
        go(destination)
    erase_install(one, actor="ann", reason="asked for")
    assert DeadLetter.objects.count() == 1


# --------------------------------------------------------------------------------- test button


def test_the_test_button_sends_one_span_that_says_what_it_is(receiver: FlakyReceiver) -> None:
    destination = collector(receiver.url)
    report = try_collector(destination, actor="ann")
    assert report.is_ok
    assert [step.mark for step in report.steps] == ["ok"] * 4
    request = ExportTraceServiceRequest.FromString(receiver.requests[0].body)
    span = request.resource_spans[0].scope_spans[0].spans[0]
    assert (span.name, len(receiver.taken)) == (SPAN_NAME, 1)
    destination.refresh_from_db()
    assert (destination.test_error, destination.tested_at is None) == ("", False)
    assert ChangeRecord.objects.get(action="relay.test").actor == "ann"


def test_a_collector_without_traces_gets_an_empty_request(receiver: FlakyReceiver) -> None:
    destination = collector(receiver.url, sends_traces=False, sends_logs=True)
    assert try_collector(destination).is_ok
    assert (receiver.requests[0].path, receiver.requests[0].body) == ("/v1/logs", b"")


@pytest.mark.parametrize(
    ("fault", "at", "words"),
    [
        (Fault(status=401), "answer", "look at the headers"),
        (Fault(status=404), "answer", "No OTLP receiver at this address"),
        (Fault(status=308), "answer", "redirects"),
        (Fault(status=503), "answer", "503"),
        (Fault(status=400), "answer", "400"),
        (Fault(rejected=1, message="who are you"), "answer", "who are you"),
        (Fault(cut_request=3), "connection", "cut the connection"),
    ],
)
def test_the_test_button_explains_what_is_wrong(
    receiver: FlakyReceiver,
    fault: Fault,
    at: str,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FLEET_OTLP_HDR_KEY", "zzTOPsecretzz")
    destination = collector(receiver.url, headers_env={"x-key": "FLEET_OTLP_HDR_KEY"})
    receiver.faults = [fault]
    report = try_collector(destination)
    assert failed_step(report) == at
    assert words in report.error
    assert "zzTOP" not in str(report)
    destination.refresh_from_db()
    assert destination.test_error == report.error


def failed_step(report: TestReport) -> str:
    assert not report.is_ok
    return next(step.name for step in report.steps if step.mark == "bad")


@pytest.mark.parametrize(
    ("values", "at", "words"),
    [
        ({"endpoint": "https://127.0.0.1.nip.io@x"}, "address", "login"),
        ({"endpoint": "http://169.254.169.254"}, "address", "not on the list"),
        ({"endpoint": "https://nowhere.invalid"}, "connection", "not known"),
        ({"headers_env": {"a": "FLEET_OTLP_HDR_NONE"}}, "headers", "FLEET_OTLP_HDR_NONE"),
    ],
)
def test_the_test_button_works_before_a_collector_is_saved(
    values: dict[str, Any],
    at: str,
    words: str,
    settings: Any,  # noqa: ANN401 -- pytest-django's
) -> None:
    allow_here(settings)
    given = {"name": "x", "endpoint": "http://127.0.0.1:1", "since_at": now()} | values
    report = try_collector(RelayDestination(**given))
    assert failed_step(report) == at
    assert words in report.error
    assert [step.mark for step in report.steps][-1] == "skipped"
    assert not ChangeRecord.objects.exists()


# --------------------------------------------------------------------------------------- state


def test_the_state_says_how_it_stands_and_what_to_do(receiver: FlakyReceiver) -> None:
    destination = collector(receiver.url)
    fill(3)
    go(destination)
    assert (state(destination).word, state(destination).lag_s) == ("ok", 0.0)
    receiver.faults = [Fault(status=503, body=b"") for _ in range(6)]
    fill(2, start=3)
    go(destination)
    found = state(destination)
    assert (found.word, found.waiting_count, found.is_bad) == ("retrying", 2, False)
    for _ in range(5):
        go(destination)
    found = state(destination)
    assert (found.word, found.is_bad, found.breaker) == ("failing", True, "open")
    assert "503" in found.text
    assert found.mend
    probe = relays_probe()
    assert (probe.state, "503" in probe.detail) == ("warn", True)
    go_until_idle(destination)
    assert relays_probe().state == "ok"
    RelayDestination.objects.update(is_enabled=False)
    assert state(destination).word == "off"
    assert relays_probe().detail == "No collector"


def test_the_state_says_how_much_of_a_back_fill_is_left(receiver: FlakyReceiver) -> None:
    from telemetry.models import FeedEntry, IngestBatch, ModelCall

    fill(3)
    feed()
    stamp = now() - timedelta(days=2)
    for model in (FeedEntry, IngestBatch, ModelCall):
        model.objects.update(received_at=stamp)
    destination = collector(receiver.url, since_at=now() - timedelta(days=1))
    fill(2, start=3)
    go_until_idle(destination)
    RelayDestination.objects.update(since_at=now() - timedelta(days=3))
    receiver.faults = [Fault(status=503)]
    go(destination)
    found = state(destination)
    assert (found.left_count, found.waiting_count) == (3, 3)
    RelayCursor.objects.update(failure_count=0)
    assert state(destination).word == "catching_up"


# ------------------------------------------------------------------------------ tasks, command


@committed
def test_one_that_hangs_does_not_hold_the_others(
    receiver: FlakyReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "LOOK_EVERY_S", 0.02)
    good = collector(receiver.url, "good")
    with FlakyReceiver() as other:
        other.judge = lambda _request: Fault(hangs=True)
        stuck = collector(other.url, "stuck")
        fill(3)
        feed()
        task = threading.Thread(target=closing, args=(lambda: relay_all(budget_s=3.0),))
        task.start()
        try:
            wait_for(lambda: cursor_of(good).sent_count == 3)
            wait_for(lambda: bool(other.requests))
            fill(3, start=3)
            feed()
            wait_for(lambda: cursor_of(good).sent_count == 6)
            assert cursor_of(stuck).sent_count == 0
            assert state(good).lag_s == 0.0
            assert (state(stuck).lag_s or 0.0) > 0.0
        finally:
            other.judge = None
            other.release()
            task.join(60)
        wait_for(lambda: relay_all(budget_s=5.0).is_idle and cursor_of(stuck).sent_count == 6)
        assert set(other.acknowledged.values()) == {1}


def closing(run: Callable[[], object]) -> None:
    """For a thread: its connection is closed at the end."""
    try:
        run()
    finally:
        connection.close()


def wait_for(is_so: Any, most_s: float = 30.0) -> None:  # noqa: ANN401 -- a question
    ends_at_s = time.monotonic() + most_s
    while not is_so():
        assert time.monotonic() < ends_at_s
        time.sleep(0.02)


@committed
def test_tasks_run_twice_and_in_parallel_send_everything_once(receiver: FlakyReceiver) -> None:
    destinations = [collector(receiver.url, name, sends_logs=True) for name in "abc"]
    for at in range(0, 40, 4):
        fill(4, start=at)
    runs = (number_feed, relay, relay, number_feed)
    tasks = [threading.Thread(target=closing, args=(run,)) for run in runs]
    for task in tasks:
        task.start()
    for task in tasks:
        task.join()
    number_feed()
    relay()
    relay()
    assert [cursor_of(destination).sent_count for destination in destinations] == [40] * 3
    assert set(receiver.acknowledged.values()) == {3}
    assert len(receiver.acknowledged) == 40
    assert keep_relay_books() == "dropped 0 feed entries, 0 letters"


def test_a_cursor_is_due_when_it_has_something_to_do_and_may(receiver: FlakyReceiver) -> None:
    destination = collector(receiver.url)
    assert make_cursors() == 0
    fill(1)
    go_until_idle(destination)
    assert due_cursors(now()) == []
    fill(1, start=1)
    feed()
    key = cursor_of(destination).pk
    assert due_cursors(now()) == [key]
    RelayCursor.objects.update(open_until=now() + timedelta(minutes=1))
    assert due_cursors(now()) == []
    RelayCursor.objects.update(open_until=None, lease_until=now() + timedelta(minutes=1))
    assert due_cursors(now()) == []
    RelayCursor.objects.update(lease_until=None)
    RelayDestination.objects.update(is_enabled=False)
    assert due_cursors(now()) == []


def test_a_replay_makes_a_cursor_due(receiver: FlakyReceiver) -> None:
    destination = refused(receiver, 1)
    go_until_idle(destination)
    assert due_cursors(now()) == []
    ask_replay(DeadLetter.objects.all(), actor="ann", reason="x")
    assert due_cursors(now()) == [cursor_of(destination).pk]


def command(*words: str, **options: object) -> str:
    out = StringIO()
    call_command("telemetry_relay", *words, stdout=out, **options)
    return out.getvalue()


@committed
def test_the_command_lists_tests_sends_and_replays(receiver: FlakyReceiver) -> None:
    assert "No collector" in command()
    destination = collector(receiver.url, "main one")
    assert "Taken: 200" in command("test", "main one")
    fill(3)
    said = command("run-once", "--follow", "--rounds", "1")
    assert "numbered 1 batches, sent 3 records" in said
    assert "main one traces: ok. Keeps up. (sent 3" in said
    receiver.faults = [Fault(status=400)]
    fill(1, start=3)
    command("run-once")
    with pytest.raises(CommandError, match="--reason"):
        command("replay", "main one")
    assert "1 dead letters will be sent again" in command("replay", "main one", reason="mended")
    RelayCursor.objects.update(open_until=None)
    assert "sent 4" in command("run-once")
    assert "0 dead letters discarded" in command("discard", "main one", reason="none left")
    assert cursor_of(destination).dead_count == 0


def test_the_command_says_what_is_wrong(receiver: FlakyReceiver) -> None:
    collector(receiver.url, "main one")
    with pytest.raises(CommandError, match="there are: main one"):
        command("test", "other")
    receiver.faults = [Fault(status=401)]
    with pytest.raises(CommandError, match="did not take the test"):
        command("test", "main one")
