"""The overload valve: whether a batch is stored now or, because the database is slow, spooled.

Measured, not guessed. A web process opens its valve when two batches in a row took longer to store
than FLEET_VALVE_SLOW_MS, when one waited as long for a lock, or twice as long for its turn
(FLEET_VALVE_STORES at a time, so that the threads that answer polls stay free). It then spools
for a while, lets one batch through to see, and closes again when that one was quick. FLEET_VALVE
overrules it: ``open`` spools everything, ``shut`` nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog
from django.conf import settings
from django.db import OperationalError

from telemetry.ingest.decode import IngestError

logger = structlog.get_logger(__name__)
HOLD_S: Final = 10.0
"""How long an open valve stays so before it is tried: two rounds of the drainer."""
SLOW_IN_A_ROW: Final = 2
"""One slow batch may be a checkpoint; two are a state."""
ROW_ALLOWANCE_S: Final = 0.0001
"""What a row may take on top: ten times what it takes, so that a large batch is not a slow one."""
_WAITED_TOO_LONG: Final = frozenset({"55P03", "57014"})
"""PostgreSQL: lock_not_available, query_canceled."""


class Valve:
    """The state of one process; safe in threads. ``clock`` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._slow_count = 0
        self._opened_until_s: float | None = None
        self._is_trying = False

    @property
    def is_open(self) -> bool:
        """Whether batches are spooled; also while one is let through to see."""
        return self._opened_until_s is not None

    def may_store(self) -> bool:
        """Whether the next batch goes the straight way; of an open valve one at a time may try."""
        with self._lock:
            if self._opened_until_s is None:
                return True
            if self._is_trying or self._clock() < self._opened_until_s:
                return False
            self._is_trying = True
            return True

    def stored(self, took_s: float, *, row_count: int) -> None:
        """A batch went the straight way and took so long."""
        is_slow = took_s > settings.FLEET_VALVE_SLOW_MS / 1000 + row_count * ROW_ALLOWANCE_S
        with self._lock:
            was_trying, self._is_trying = self._is_trying, False
            self._slow_count = self._slow_count + 1 if is_slow else 0
            if is_slow and (was_trying or self._slow_count >= SLOW_IN_A_ROW):
                self._open("slow")
            elif was_trying and self._opened_until_s is not None:
                self._opened_until_s = None
                logger.info("valve_closed")

    def failed(self) -> None:
        """A batch went the straight way and failed for a reason of its own: nothing was learnt."""
        with self._lock:
            self._is_trying = False

    def trip(self, cause: str) -> None:
        """Open at once: a batch could not get through."""
        with self._lock:
            self._is_trying = False
            self._open(cause)

    def _open(self, cause: str) -> None:
        if self._opened_until_s is None:
            logger.warning("valve_opened", cause=cause)
        self._opened_until_s = self._clock() + HOLD_S


@dataclass(frozen=True, slots=True)
class Ways[T]:
    """The two ways of one batch."""

    store: Callable[[], T]
    spool: Callable[[], T]
    row_count: int


class _Process:
    """The valve and the turns of this process."""

    valve = Valve()
    turns = threading.BoundedSemaphore(1)
    turn_count = 1


def patience_ms() -> int:
    """How long a batch waits for a lock before it is spooled; 0: as long as it takes."""
    return settings.FLEET_VALVE_SLOW_MS if settings.FLEET_VALVE == "auto" else 0


def pass_batch[T](ways: Ways[T]) -> T:
    """Send a batch one of its two ways.

    Errors: IngestError unavailable when it can go neither; whatever the ways raise.
    """
    if settings.FLEET_VALVE == "open":
        return ways.spool()
    is_auto = settings.FLEET_VALVE == "auto"
    valve = _Process.valve
    if is_auto and not valve.may_store():
        return ways.spool()
    turns = _turns()
    if not turns.acquire(timeout=2 * settings.FLEET_VALVE_SLOW_MS / 1000):
        if not is_auto:
            raise IngestError("unavailable", "all turns are taken", retry_after_s=5)
        valve.trip("no turn")
        return ways.spool()
    began_s = time.monotonic()
    try:
        outcome = ways.store()
    except BaseException as error:
        if not is_auto or not _waited_too_long(error):
            valve.failed()
            raise
        valve.trip("lock")
    else:
        valve.stored(time.monotonic() - began_s, row_count=ways.row_count)
        return outcome
    finally:
        turns.release()
    return ways.spool()


def _turns() -> threading.BoundedSemaphore:
    count = settings.FLEET_VALVE_STORES
    if _Process.turn_count != count:
        _Process.turn_count, _Process.turns = count, threading.BoundedSemaphore(count)
    return _Process.turns


def _waited_too_long(error: BaseException) -> bool:
    if not isinstance(error, OperationalError):
        return False
    return getattr(error.__cause__, "sqlstate", None) in _WAITED_TOO_LONG
