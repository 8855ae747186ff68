from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from agent_client.push import EXIT_LATER, PushResult, Timing
from agent_client.push_send import MAX_ATTEMPTS
from agent_client.pusher import IDLE_ROUNDS, BackgroundPusher
from tests.agent_client.homes import enrolled, record
from tests.agent_client.loopback_console import LoopbackConsole


class Recorder:
    """A push that only counts; ``reached`` is set at the wanted round."""

    def __init__(self, rounds: int = 1) -> None:
        self.rounds = rounds
        self.count = 0
        self.reached = threading.Event()

    def __call__(self, home: Path | None, *, timing: Timing, max_batches: int) -> PushResult:
        self.count += 1
        if self.count >= self.rounds:
            self.reached.set()
        return PushResult("nothing", 0)


def test_it_pushes_what_is_recorded_without_being_asked(tmp_path: Path) -> None:
    record(tmp_path)
    with LoopbackConsole() as console:
        enrolled(tmp_path, console)
        pusher = BackgroundPusher(tmp_path, interval_s=0.01)
        pusher.start()
        deadline = threading.Event()
        for _ in range(500):
            if len(console.rows) == 3:
                break
            deadline.wait(0.01)
        assert pusher.stop()
        assert len(console.rows) == 3


def test_while_the_console_is_away_a_round_tries_once(tmp_path: Path) -> None:
    attempts: list[int] = []
    reached = threading.Event()
    answers = [PushResult("later", EXIT_LATER, "network")] * 2 + [PushResult("nothing", 0)] * 2

    def away(home: Path | None, *, timing: Timing, max_batches: int) -> PushResult:
        attempts.append(timing.max_attempts)
        if len(attempts) >= len(answers):
            reached.set()
        return answers[min(len(attempts), len(answers)) - 1]

    pusher = BackgroundPusher(tmp_path, push=away, interval_s=0.001)
    pusher.start()
    assert reached.wait(5)
    assert pusher.stop()
    assert attempts[:4] == [MAX_ATTEMPTS, 1, 1, MAX_ATTEMPTS]


def test_starting_twice_runs_one_thread(tmp_path: Path) -> None:
    push = Recorder(3)
    pusher = BackgroundPusher(tmp_path, push=push, interval_s=0.001)
    pusher.start()
    thread = pusher._thread
    pusher.start()
    assert pusher._thread is thread
    assert push.reached.wait(5)
    assert pusher.stop()


def test_a_push_that_fails_does_not_end_the_thread(tmp_path: Path) -> None:
    counted = Recorder(2)

    def failing(home: Path | None, *, timing: Timing, max_batches: int) -> PushResult:
        counted(home, timing=timing, max_batches=max_batches)
        raise RuntimeError("broken")

    pusher = BackgroundPusher(tmp_path, push=failing, interval_s=0.001)
    pusher.start()
    assert counted.reached.wait(5)
    assert pusher.stop()


def test_stopping_ends_a_wait_inside_a_push(tmp_path: Path) -> None:
    waiting = threading.Event()

    def waits(home: Path | None, *, timing: Timing, max_batches: int) -> PushResult:
        waiting.set()
        timing.sleep(60)
        raise AssertionError("the wait was not ended")

    pusher = BackgroundPusher(tmp_path, push=waits, interval_s=0.001)
    pusher.start()
    assert waiting.wait(5)
    assert pusher.stop()


@pytest.mark.parametrize(
    ("last", "delay_s"),
    [
        (None, 10.0),
        (PushResult("pushed", 0), 10.0),
        (PushResult("later", 5, retry_after_s=90.0), 90.0),
        (PushResult("not_enrolled", 4), 10.0 * IDLE_ROUNDS),
    ],
)
def test_the_wait_follows_from_how_the_last_push_ended(
    tmp_path: Path, last: PushResult | None, delay_s: float
) -> None:
    pusher = BackgroundPusher(tmp_path, interval_s=10.0)
    pusher.last = last
    assert pusher._delay_s() == delay_s


def test_the_interval_is_the_configured_one(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("telemetry: {export: {console: {interval_s: 7}}}\n")
    assert BackgroundPusher(tmp_path)._interval() == 7.0


def test_a_forked_child_has_no_thread_to_wait_for(tmp_path: Path) -> None:
    pusher = BackgroundPusher(tmp_path, push=Recorder(), interval_s=0.001)
    pusher.start()
    pusher._pid = os.getpid() + 1  # what a child sees
    assert pusher.stop()
