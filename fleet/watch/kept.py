"""Kept: a value that is read in a thread of its own, kept a while, and never waited for long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog
from django.db import connections

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Seen[T]:
    """The newest value there is, and its age; ``is_late``: a newer one was wanted and did not come.

    Before the first one, ``value`` is None and ``age_s`` infinite.
    """

    value: T | None
    age_s: float
    is_late: bool


class Kept[T]:
    """What ``read`` gives, at most ``keep_s`` old while reading takes less than ``wait_s``.

    One reader at a time: a database that hangs costs one thread, not one a request. The reader's
    own database connection is closed after each read, so that none is held for a look a minute.
    """

    def __init__(self, read: Callable[[], T], *, keep_s: float, wait_s: float) -> None:
        self._read: Final = read
        self._keep_s: Final = keep_s
        self._wait_s: Final = wait_s
        self._lock: Final = threading.Lock()
        self._done: threading.Event | None = None
        self._value: T | None = None
        self._at_s = float("-inf")

    def __call__(self) -> Seen[T]:
        """The value. Never raises: what ``read`` raises is logged, and counts as not come."""
        with self._lock:
            age_s = time.monotonic() - self._at_s
            if age_s <= self._keep_s:
                return Seen(self._value, age_s, is_late=False)
            done = self._done
            if done is None:
                done = self._done = threading.Event()
                began_s = time.monotonic()
                threading.Thread(
                    target=self._renew, args=(done, began_s), name="watch", daemon=True
                ).start()
        done.wait(self._wait_s)
        with self._lock:
            age_s = time.monotonic() - self._at_s
            return Seen(self._value, age_s, is_late=age_s > self._keep_s + self._wait_s)

    def forget(self) -> None:
        """Read anew at the next call."""
        with self._lock:
            self._at_s = float("-inf")

    def _renew(self, done: threading.Event, began_s: float) -> None:
        try:
            value = self._read()
        except Exception as error:  # noqa: BLE001 -- whatever it was, whoever asks is told "late"
            logger.warning("watch_read_failed", kind=type(error).__name__)
        else:
            with self._lock:
                self._value, self._at_s = value, began_s
        finally:
            connections.close_all()
            with self._lock:
                self._done = None
            done.set()
