"""What ``emit`` promises: everything is taken, nothing is raised, every loss is counted."""

from __future__ import annotations

import json
import marshal
import threading
import time
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

import agent_client
from agent_client import emitter as emitter_module
from agent_client import subscribers
from agent_client.contract.events import Event, RunEvent
from agent_client.emitter import MAX_RINGS, Emitter, Stats
from agent_client.guard import faults
from agent_client.recovery import recover
from agent_client.spool import MAX_PAYLOAD_BYTES
from tests.agent_client.builders import (
    call_ids,
    error_event,
    ledger,
    log_records,
    model_call,
    query,
    run_event,
    span_ids,
    tool_call,
    wait_until,
)

Events = list[dict[str, object]]


class Word(StrEnum):
    MODEL = "model-of-an-enumeration"


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


def nested(depth: int) -> object:
    found: object = 1
    for _ in range(depth):
        found = [found]
    return found


def endless() -> list[object]:
    found: list[object] = []
    found.append(found)
    return found


def threads_of_ours() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("hermes-telemetry")]


def test_every_kind_of_event_becomes_its_row(emitter: Emitter, tmp_path: Path) -> None:
    for event in (run_event(), model_call(), tool_call(), error_event()):
        emitter.emit(event)
    assert emitter.flush()
    assert query(tmp_path, "SELECT run_id, end_reason, seq FROM tel_runs") == [
        ("run-0", "completed", 1)
    ]
    for table, span_id, seq in (
        ("tel_model_calls", "call-0", 2),
        ("tel_tool_calls", "tool-0", 3),
        ("tel_error_events", "error-0", 4),
    ):
        assert query(tmp_path, f"SELECT span_id, seq FROM {table}") == [(span_id, seq)]


def test_a_mapping_is_taken_like_the_event_it_spells(emitter: Emitter, tmp_path: Path) -> None:
    emitter.emit(MappingProxyType(model_call(1).to_dict()))
    assert emitter.flush()
    assert span_ids(tmp_path) == ["call-1"]


def test_a_subclass_of_str_is_stored_as_its_text(emitter: Emitter, tmp_path: Path) -> None:
    emitter.emit(model_call(model=Word.MODEL))
    assert emitter.flush()
    assert query(tmp_path, "SELECT model FROM tel_model_calls") == [("model-of-an-enumeration",)]


@pytest.mark.parametrize(("value", "kind"), [(endless(), "list"), (object(), "object")])
def test_a_value_that_has_no_bytes_is_replaced_by_its_types_name(
    emitter: Emitter, tmp_path: Path, value: object, kind: str
) -> None:
    emitter.emit(model_call(model=value))
    assert emitter.flush()
    assert query(tmp_path, "SELECT model FROM tel_model_calls") == [(kind,)]


def test_an_unknown_kind_is_logged_and_not_indexed(emitter: Emitter, tmp_path: Path) -> None:
    emitter.emit({"event": "of_tomorrow", "value": 1, "inner": {"a": 1}})
    assert emitter.flush()
    (record,) = log_records(tmp_path)
    assert (record["event"], record["value"], record["inner"]) == ("of_tomorrow", 1, "dict")
    assert ledger(tmp_path) == (1, {})


NOT_INDEXED: list[Any] = [  # hostile on purpose
    run_event(start_ns=2**64),
    run_event(start_ns=-1),
    run_event(start_ns=10**5000),
    run_event(end_ns=float("nan")),
    run_event(platform="x" * 10_000),
    run_event(platform="\ud800"),
    run_event(platform=nested(1500)),
    run_event(platform={b"bytes": 1}),
    run_event(platform=1j),
    run_event(platform=b"bytes"),
    run_event(run_id=None),
    {"event": "run", "run_id": "r", "start_ns": Unprintable()},
    {"event": "run", "run_id": "r", "start_ns": 10**5000},
]


@pytest.mark.parametrize("event", NOT_INDEXED, ids=range(len(NOT_INDEXED)))
def test_a_bad_value_is_logged_counted_and_loses_no_neighbour(
    emitter: Emitter, tmp_path: Path, event: Event
) -> None:
    for taken in (model_call(1), event, model_call(2)):
        emitter.emit(taken)
    assert emitter.flush()
    assert span_ids(tmp_path) == call_ids(1, 3)
    assert query(tmp_path, "SELECT count(*) FROM tel_runs") == [(0,)]
    assert ledger(tmp_path) == (3, {"invalid": 1})
    assert len(log_records(tmp_path)) == 3


REFUSED: list[Any] = [  # hostile on purpose
    object(),
    None,
    7,
    "text",
    Unprintable(),
    {Unprintable(): 1},
]


@pytest.mark.parametrize("event", REFUSED, ids=range(len(REFUSED)))
def test_what_is_no_event_is_refused_and_counted(
    emitter: Emitter, tmp_path: Path, event: Event
) -> None:
    for taken in (model_call(1), event, model_call(2)):
        emitter.emit(taken)
    emitter.close()
    assert span_ids(tmp_path) == call_ids(1, 3)
    assert ledger(tmp_path) == (2, {"encode": 1})
    assert emitter.stats() == Stats(3, 0, 2, {"encode": 1, "too_large": 0, "overflow": 0})


@pytest.mark.parametrize(
    "event",
    [
        run_event(platform="x" * MAX_PAYLOAD_BYTES),
        {str(number): "x" * 1000 for number in range(100)},
    ],
    ids=["typed", "mapping"],
)
def test_an_event_beyond_the_bound_is_refused_and_counted(
    emitter: Emitter, tmp_path: Path, event: Event
) -> None:
    emitter.emit(event)
    emitter.emit(model_call(1))
    emitter.emit(event)
    emitter.close()
    assert ledger(tmp_path) == (1, {"too_large": 2})


def test_a_refusal_alone_reaches_the_books_at_close(emitter: Emitter, tmp_path: Path) -> None:
    emitter.emit(object())  # type: ignore[arg-type]  # hostile on purpose
    emitter.close()
    assert ledger(tmp_path) == (0, {"encode": 1})


def test_a_disabled_emitter_makes_no_file_and_no_thread(tmp_path: Path) -> None:
    before = threads_of_ours()
    silent = Emitter(tmp_path, enabled=False)
    silent.emit(run_event())
    assert silent.flush()
    silent.close()
    assert list(tmp_path.iterdir()) == []
    assert threads_of_ours() == before
    assert silent.stats().emitted == 0


def test_an_emitter_nothing_was_emitted_to_makes_no_file(tmp_path: Path) -> None:
    quiet = Emitter(tmp_path)
    assert quiet.flush()
    quiet.close()
    assert list(tmp_path.iterdir()) == []


def test_the_writer_is_one_named_daemon_thread_started_by_the_first_event(
    tmp_path: Path,
) -> None:
    made = Emitter(tmp_path)
    before = threads_of_ours()
    made.flush()
    assert threads_of_ours() == before
    made.emit(run_event())
    thread = made._thread
    assert thread is not None
    made.emit(run_event(1))
    assert made._thread is thread
    assert (thread.name, thread.daemon) == ("hermes-telemetry-writer", True)
    made.close()
    assert not thread.is_alive()


def test_emit_returns_in_microseconds(emitter: Emitter) -> None:
    event = model_call()
    emitter.emit(event)
    spent_ns = []
    for _ in range(5000):
        before = time.perf_counter_ns()
        emitter.emit(event)
        spent_ns.append(time.perf_counter_ns() - before)
    assert sorted(spent_ns)[2500] < 100_000  # some 5 µs on an idle machine


def test_eight_threads_lose_and_double_nothing(emitter: Emitter, tmp_path: Path) -> None:
    def work(first: int) -> None:
        for number in range(first, first + 400):
            emitter.emit(model_call(number))

    threads = [threading.Thread(target=work, args=(400 * index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert emitter.flush(20)
    assert sorted(span_ids(tmp_path)) == sorted(call_ids(0, 3200))
    assert len(log_records(tmp_path)) == 3200


def test_first_events_of_many_threads_at_once_share_one_spool(
    emitter: Emitter, tmp_path: Path
) -> None:
    barrier = threading.Barrier(16)

    def work(number: int) -> None:
        event = model_call(number)
        barrier.wait()
        # Half go the slow way, which opens the spool by itself.
        emitter.emit(event if number % 2 else event.to_dict())

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list((tmp_path / "telemetry" / "spool").iterdir())) == 1
    assert emitter.flush()
    assert sorted(span_ids(tmp_path)) == sorted(call_ids(0, 16))


def test_the_events_of_one_thread_keep_their_order(emitter: Emitter, tmp_path: Path) -> None:
    for number in range(1000):
        event = model_call(number)
        emitter.emit(event if number % 3 else event.to_dict())
    assert emitter.flush(20)
    assert span_ids(tmp_path) == call_ids(0, 1000)


def test_threads_that_come_and_go_use_the_same_rings_again(
    emitter: Emitter, tmp_path: Path
) -> None:
    for number in range(100):
        thread = threading.Thread(target=emitter.emit, args=(model_call(number),))
        thread.start()
        thread.join()
    assert len(emitter._rings()) <= 2
    assert emitter.flush()
    assert span_ids(tmp_path) == call_ids(0, 100)


def test_more_threads_than_rings_share_one(emitter: Emitter, tmp_path: Path) -> None:
    barrier = threading.Barrier(20)

    def work(number: int) -> None:
        emitter.emit(model_call(number))
        barrier.wait(20)
        emitter.emit(model_call(100 + number))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(emitter._rings()) == MAX_RINGS + 1
    assert emitter.flush()
    expected = call_ids(0, 20) + call_ids(100, 120)
    assert sorted(span_ids(tmp_path)) == sorted(expected)


def test_a_subscriber_gets_every_event_once_it_is_durable(emitter: Emitter, tmp_path: Path) -> None:
    seen: Events = []

    def listen(events: Events) -> None:
        stored = set(span_ids(tmp_path))
        seen.extend(event for event in events if event["span_id"] in stored)

    emitter.subscribe(listen)
    emitter.subscribe(listen)
    for number in range(600):
        emitter.emit(model_call(number))
    assert emitter.flush()
    wait_until(lambda: len(seen) >= 600)
    assert [event["span_id"] for event in seen] == call_ids(0, 600)


def test_a_subscriber_that_raises_is_called_again(emitter: Emitter) -> None:
    calls: list[int] = []

    def broken(events: Events) -> None:
        calls.append(len(events))
        raise RuntimeError("mine")

    emitter.subscribe(broken)
    for number in range(2):
        emitter.emit(model_call(number))
        assert emitter.flush()
        wait_until(lambda number=number: len(calls) == number + 1)  # type: ignore[misc]  # bound now
    assert faults()["subscriber:RuntimeError"] >= 2


def test_a_subscriber_that_stalls_holds_up_nobody(
    emitter: Emitter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscribers, "SUBSCRIBER_BATCHES", 2)
    release, seen = threading.Event(), list[int]()
    emitter.subscribe(lambda _: release.wait(20))
    emitter.subscribe(lambda events: seen.append(len(events)))
    for number in range(2000):
        emitter.emit(model_call(number))
    assert emitter.flush(20)
    (stalled, _) = emitter._subscribers.values()
    assert stalled.dropped_batches > 0
    emitter.close()
    release.set()
    assert len(span_ids(tmp_path)) == 2000


def test_a_subscriber_can_leave(emitter: Emitter) -> None:
    seen: list[int] = []

    def listen(events: Events) -> None:
        seen.append(len(events))

    emitter.subscribe(listen)
    emitter.unsubscribe(listen)
    emitter.unsubscribe(listen)
    emitter.emit(run_event())
    assert emitter.flush()
    assert seen == []


def test_closing_twice_is_harmless_and_the_counts_stay(emitter: Emitter, tmp_path: Path) -> None:
    emitter.emit(run_event())
    emitter.close()
    emitter.close()
    emitter.emit(run_event(1))
    assert emitter.stats() == Stats(1, 0, 1, {"encode": 0, "too_large": 0, "overflow": 0})
    assert list((tmp_path / "telemetry" / "spool").iterdir()) == []


def test_an_event_emitted_while_closing_is_not_thrown_away_with_the_spool(
    emitter: Emitter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flush_and_one_more(timeout_s: float = 5.0) -> bool:
        is_empty = Emitter.flush(emitter, timeout_s)
        emitter._local.lease.ring.append(marshal.dumps((0, late.to_dict()), 2))
        return is_empty

    late = model_call(2)
    emitter.emit(model_call(1))
    with monkeypatch.context() as patch:
        patch.setattr(emitter, "flush", flush_and_one_more)
        emitter.close()
    recover(tmp_path)
    assert span_ids(tmp_path) == call_ids(1, 3)


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """HERMES_HOME is the test's, and the process-wide emitter is new."""
    monkeypatch.setenv("HERMES_HOME", str(tmp_path))
    monkeypatch.setenv("HERMES_MANAGED_DIR", str(tmp_path / "managed"))
    emitter_module.set_emitter(None)
    yield tmp_path
    emitter_module.get_emitter().close()
    emitter_module.set_emitter(None)


def test_the_packages_emit_records_in_hermes_home(own_home: Path) -> None:
    agent_client.emit(model_call(1))
    assert agent_client.flush()
    assert span_ids(own_home) == ["call-1"]
    assert agent_client.status().written == 1
    assert emitter_module.get_emitter() is emitter_module.get_emitter()


def test_the_packages_emit_honours_telemetry_local(own_home: Path) -> None:
    (own_home / "config.yaml").write_text("telemetry:\n  local: false\n")
    agent_client.emit(model_call(1))
    assert agent_client.flush()
    assert not (own_home / "telemetry" / "spool").exists()
    assert not (own_home / "telemetry" / "events.jsonl").exists()


def test_the_package_has_no_other_names() -> None:
    with pytest.raises(AttributeError, match="no attribute 'emitt'"):
        agent_client.emitt  # noqa: B018  # type: ignore[attr-defined]  # the point of the test


def test_the_log_is_a_line_of_json_for_each_event(emitter: Emitter, tmp_path: Path) -> None:
    emitter.emit(RunEvent("r", start_ns=1, platform="é\n"))
    assert emitter.flush()
    (line,) = (tmp_path / "telemetry" / "events.jsonl").read_text("ascii").splitlines()
    record = json.loads(line)
    assert (record["event"], record["platform"], record["seq"]) == ("run", "é\n", 1)
    assert (tmp_path / "telemetry" / "events.jsonl").stat().st_mode & 0o777 == 0o600
