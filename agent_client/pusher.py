"""The background push of a long-lived host: one thread that calls ``push_once`` again and again.

Never on the host's path: nothing here is called by a hook but ``start``, which costs a thread
once. It sends nothing before enrollment; it notices an enrollment, a pin or a withdrawal at the
next round because ``push_once`` decides from the files each time.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from agent_client import config
from agent_client.guard import never_raise
from agent_client.push import (
    CHANCE,
    EXIT_CLOSED,
    EXIT_CREDENTIAL,
    EXIT_LATER,
    PushResult,
    Timing,
    push_once,
)

MAX_BATCHES: Final = 20
"""A round sends at most 100,000 rows, then lets the machine breathe."""
IDLE_ROUNDS: Final = 5
"""Where nothing may leave, the files are looked at this many times less often."""


class _StoppedError(Exception):
    """The host is going: the wait inside a push ends now."""


class BackgroundPusher:
    """Pushes one home every ``telemetry.export.console.interval_s`` seconds until stopped.

    ``start`` is idempotent and may be called again after a fork. Never raises.
    """

    def __init__(
        self,
        home: Path | None = None,
        *,
        push: Callable[..., PushResult] = push_once,
        interval_s: float | None = None,
    ) -> None:
        self._home = home
        self._push = push
        self._interval_s = interval_s
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._pid = 0
        self.last: PushResult | None = None

    def start(self) -> None:
        """Start the thread, unless it runs in this very process."""
        if self._thread is not None and self._pid == os.getpid() and self._thread.is_alive():
            return
        self._pid = os.getpid()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hermes-telemetry-push", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float = 2.0) -> bool:
        """End the thread; whether it ended in time. What was not sent is sent next time."""
        self._stopping.set()
        if self._thread is None or self._pid != os.getpid():
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        # A fleet that starts together (a reboot, a roll-out) must not push together.
        delay_s = CHANCE() * self._interval()
        while not self._stopping.wait(delay_s):
            self._round()
            delay_s = self._delay_s()

    @never_raise("pusher")
    def _round(self) -> None:
        timing = Timing(sleep=self._pause)
        if self.last is not None and self.last.exit_code == EXIT_LATER:
            # A fleet that tries five times in seven seconds at each round comes back in a surge:
            # an eighth of it would be waiting just then. One try a round keeps the fleet's phases.
            timing = replace(timing, max_attempts=1)
        try:
            self.last = self._push(self._home, timing=timing, max_batches=MAX_BATCHES)
        except _StoppedError:
            return

    def _pause(self, seconds: float) -> None:
        if self._stopping.wait(seconds):
            raise _StoppedError

    def _delay_s(self) -> float:
        interval_s, last = self._interval(), self.last
        if last is None:
            return interval_s
        if last.exit_code in {EXIT_CLOSED, EXIT_CREDENTIAL}:
            return interval_s * IDLE_ROUNDS
        return max(interval_s, last.retry_after_s)

    def _interval(self) -> float:
        if self._interval_s is not None:
            return self._interval_s
        value = config.load(self._home).get("telemetry.export.console.interval_s")
        return float(value) if isinstance(value, int) else 60.0
