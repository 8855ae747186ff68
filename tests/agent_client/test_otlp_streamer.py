from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from agent_client.emitter import Emitter
from agent_client.otlp.drain import DrainReport
from agent_client.otlp.streamer import MAX_RETRY_S, Streamer, start_streamer
from agent_client.push import Timing
from tests.agent_client.builders import (
    finish,
    model_call,
    run_event,
    start,
    store_events,
    wait_until,
)
from tests.agent_client.otlp_homes import configure
from tests.agent_client.otlp_receiver import TRACES, Fault, OtlpReceiver


class Drains:
    """A drain that only counts, and ends as it is told to, one after the other."""

    def __init__(self, *reports: DrainReport) -> None:
        self.reports = list(reports)
        self.count = 0

    def __call__(self, home: Path, *, timing: Timing) -> DrainReport:
        self.count += 1
        return self.reports.pop(0) if self.reports else DrainReport("sent", 0)


LATER = DrainReport("later", 5)


def quick(home: Path, **how: object) -> Streamer:
    return Streamer(home, gather_s=0.0, retry_s=0.001, **how)  # type: ignore[arg-type]  # of a test


def test_what_is_recorded_arrives_while_the_host_lives(tmp_path: Path, emitter: Emitter) -> None:
    with OtlpReceiver() as receiver:
        configure(tmp_path, receiver.url)
        streamer = quick(tmp_path)
        emitter.subscribe(streamer.wake)
        emitter.emit(run_event())
        wait_until(lambda: len(receiver.spans) == 1)
        emitter.emit(model_call())
        wait_until(lambda: len(receiver.spans) == 2)
        assert receiver.span_arrivals == 2
        assert streamer.stop()


def test_what_lay_there_before_goes_too(
    tmp_path: Path, emitter: Emitter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent_client.otlp.streamer.GATHER_S", 0.0)
    store_events(tmp_path, run_event(), model_call())
    with OtlpReceiver() as receiver:
        configure(tmp_path, receiver.url)
        streamer = start_streamer(tmp_path, emitter)
        wait_until(lambda: len(receiver.spans) == 2)
        assert streamer.stop()


def test_it_starts_no_thread_before_there_is_something(tmp_path: Path) -> None:
    streamer = quick(tmp_path, drain=Drains())
    assert streamer._thread is None
    assert streamer.stop()
    streamer.wake()
    assert streamer._thread is None  # it has been stopped


def test_batches_that_come_together_are_one_drain(tmp_path: Path) -> None:
    drains = Drains()
    streamer = Streamer(tmp_path, drain=drains, gather_s=0.05)
    for _ in range(100):
        streamer.wake()
    wait_until(lambda: drains.count == 1)
    assert streamer.stop()
    assert drains.count == 1


def test_a_drain_that_failed_is_tried_again_without_a_new_batch(tmp_path: Path) -> None:
    drains = Drains(LATER, LATER)
    streamer = quick(tmp_path, drain=drains)
    streamer.wake()
    wait_until(lambda: drains.count == 3)
    assert streamer.stop()
    assert streamer._failures == 0


def test_a_drain_that_raises_does_not_end_the_thread(tmp_path: Path) -> None:
    counted = Drains()

    def failing(home: Path, *, timing: Timing) -> DrainReport:
        counted(home, timing=timing)
        raise RuntimeError("broken")

    streamer = quick(tmp_path, drain=failing)
    streamer.wake()
    wait_until(lambda: counted.count >= 2)
    assert streamer.stop()


@pytest.mark.parametrize(
    ("last", "failures", "least_s", "most_s"),
    [
        (None, 1, 15, 30),
        (LATER, 1, 15, 30),
        (LATER, 3, 60, 120),
        (LATER, 500, MAX_RETRY_S / 2, MAX_RETRY_S),
        (DrainReport("later", 5, retry_after_s=3600.0), 1, 3600, 3600),
        (DrainReport("closed", 3), 500, 60, 60),
    ],
)
def test_the_wait_follows_from_how_the_last_drain_ended(
    tmp_path: Path, last: DrainReport | None, failures: int, least_s: float, most_s: float
) -> None:
    streamer = Streamer(tmp_path)
    streamer.last, streamer._failures = last, failures
    assert least_s <= streamer._delay_s() <= most_s


def test_stopping_ends_a_wait_inside_a_drain(tmp_path: Path) -> None:
    waiting = threading.Event()

    def waits(home: Path, *, timing: Timing) -> DrainReport:
        waiting.set()
        timing.sleep(60)
        raise AssertionError("the wait was not ended")

    streamer = quick(tmp_path, drain=waits)
    streamer.wake()
    assert waiting.wait(5)
    assert streamer.stop()


def test_a_collector_that_hangs_costs_the_recorder_nothing(
    tmp_path: Path, emitter: Emitter
) -> None:
    with OtlpReceiver() as receiver:
        configure(tmp_path, receiver.url)
        receiver.faults = [Fault(TRACES, "slow")]
        streamer = quick(tmp_path)
        emitter.subscribe(streamer.wake)
        emitter.emit(run_event())
        wait_until(lambda: bool(receiver.requests))
        began_s = time.monotonic()
        for number in range(200):
            emitter.emit(model_call(number))
        assert emitter.flush(5)
        assert time.monotonic() - began_s < 5
        assert emitter.stats().written == 201
        assert not streamer.stop(0.0)  # it is inside a read, and a daemon: the host goes on


FORKING = """
from agent_client import config
from agent_client.otlp.state import otlp_state
from agent_client.otlp.streamer import Streamer
from tests.agent_client.builders import wait_until
is_sent = lambda: otlp_state(home, config.load(home)).cursor == expected
emitter = Emitter(home)
expected = 1
streamer = Streamer(home, gather_s=0.0, retry_s=0.01)
emitter.subscribe(streamer.wake)
emitter.emit(run_event())
wait_until(is_sent)
child = os.fork()
expected = 2
if not child:
    assert streamer.stop()  # it has no thread of its own yet
    emitter.emit(model_call())
    wait_until(is_sent)
    os._exit(0)
_, status = os.waitpid(child, 0)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def test_a_forked_child_streams_with_a_thread_of_its_own(tmp_path: Path) -> None:
    with OtlpReceiver() as receiver:
        configure(tmp_path, receiver.url)
        finish(start(tmp_path, FORKING))
        assert len(receiver.spans) == receiver.span_arrivals == 2
