"""OTLP export of a long-lived host: each durable batch wakes a thread that drains what is pending.

A batch only wakes: what is sent comes from the durable cursor, so that nothing depends on this
process, and what it could not send the next one does. The recorder hands batches over on a queue
of its own and never waits. The gate is read anew each round.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from agent_client.emitter import Emitter
from agent_client.guard import never_raise
from agent_client.otlp.drain import DrainReport, drain
from agent_client.push import CHANCE, EXIT_CLOSED, EXIT_OK, EXIT_PARTIAL, Timing
from agent_client.subscribers import Batch

GATHER_S: Final = 5.0
"""After the first batch more may come: a turn's calls travel together, as in a batch processor."""
RETRY_S: Final = 30.0
"""After a failure, doubled each time up to MAX_RETRY_S, with full jitter."""
MAX_RETRY_S: Final = 600.0
CLOSED_ROUNDS: Final = 2
"""Where nothing may leave, the files are looked at once a minute: they may be pinned open."""


class _StoppedError(Exception):
    """The host is going: the wait inside a drain ends now."""


class Streamer:
    """Drains one home whenever something has been recorded. Never raises.

    ``wake`` may be called from any thread, in a forked child too: the child starts a thread of its
    own with its first batch.
    """

    def __init__(
        self,
        home: Path,
        *,
        drain: Callable[..., DrainReport] = drain,
        gather_s: float | None = None,
        retry_s: float = RETRY_S,
    ) -> None:
        self._home = home
        self._drain = drain
        self._gather_s = GATHER_S if gather_s is None else gather_s
        self._retry_s = retry_s
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._guard = threading.Lock()
        self._stopping = threading.Event()
        self._pending = threading.Event()
        self._thread: threading.Thread | None = None
        self._failures = 0
        self.last: DrainReport | None = None

    @never_raise("otlp.wake")
    def wake(self, _events: Batch | None = None) -> None:
        """Something is durable: drain it soon."""
        if self._pid != os.getpid():
            self._begin()
        self._pending.set()
        with self._guard:
            if self._thread is None and not self._stopping.is_set():
                thread = threading.Thread(
                    target=self._run, name="hermes-telemetry-otlp", daemon=True
                )
                thread.start()
                self._thread = thread

    def stop(self, timeout_s: float = 2.0) -> bool:
        """End the thread; whether it ended in time. What was not sent the next process sends."""
        if self._pid != os.getpid():
            return True
        self._stopping.set()
        self._pending.set()
        with self._guard:
            thread = self._thread
        if thread is None:
            return True
        thread.join(timeout_s)
        return not thread.is_alive()

    def _run(self) -> None:
        while True:
            self._pending.wait()
            if self._stopping.wait(self._gather_s):
                return
            self._pending.clear()
            self._round()
            if self._failures:
                self._pending.set()  # there is something left; it goes when the wait is over
                if self._stopping.wait(self._delay_s()):
                    return

    @never_raise("otlp.round")
    def _round(self) -> None:
        self._failures += 1
        try:
            self.last = self._drain(self._home, timing=Timing(sleep=self._pause))
        except _StoppedError:
            return
        if self.last.exit_code in {EXIT_OK, EXIT_PARTIAL}:
            self._failures = 0

    def _pause(self, seconds: float) -> None:
        if self._stopping.wait(seconds):
            raise _StoppedError

    def _delay_s(self) -> float:
        """How long to leave a collector alone that did not take what is there."""
        if self.last is not None and self.last.exit_code == EXIT_CLOSED:
            return self._retry_s * CLOSED_ROUNDS
        asked_s = self.last.retry_after_s if self.last is not None else 0.0
        longest_s = min(MAX_RETRY_S, self._retry_s * 2.0 ** min(self._failures - 1, 16))
        return max(asked_s, longest_s * (0.5 + CHANCE() / 2))


def start_streamer(home: Path, emitter: Emitter) -> Streamer:
    """A streamer that hears of each batch the emitter has made durable, and of what lies there."""
    streamer = Streamer(home)
    emitter.subscribe(streamer.wake)
    streamer.wake()
    return streamer
