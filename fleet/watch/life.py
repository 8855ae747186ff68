"""Signs of life of this process: kind, host and version, one row a kind and host."""

from __future__ import annotations

import socket
import threading
import time
from typing import Final

import structlog
from django.db import Error, connection

from fleet.lib.clock import now
from fleet.models import ProcessSeen
from fleet.watch.gauges import build

logger = structlog.get_logger(__name__)
EVERY_S: Final = 30.0


def show(kind: str) -> None:
    """Write down that a process of this kind and version runs on this host. One statement.

    Errors: django.db.Error.
    """
    host = socket.gethostname()[:255]
    ProcessSeen.objects.bulk_create(
        [
            ProcessSeen(
                key=f"{kind}@{host}", kind=kind, hostname=host, version=build()[0][:64], at=now()
            )
        ],
        update_conflicts=True,
        unique_fields=["key"],
        update_fields=["version", "at"],
    )


class Paced:
    """Shows life from wherever work is done, at most every ``EVERY_S``. Never raises."""

    def __init__(self, kind: str) -> None:
        self._kind: Final = kind
        self._due_s = float("-inf")

    def __call__(self) -> None:
        """Show it, when it is due."""
        if time.monotonic() < self._due_s:
            return
        self._due_s = time.monotonic() + EVERY_S
        try:
            show(self._kind)
        except Error as error:
            logger.warning("life_not_shown", kind=type(error).__name__)


class Life:
    """A thread that shows life until it is stopped: for a process that may have nothing to do."""

    def __init__(self, kind: str) -> None:
        self._show: Final = Paced(kind)
        self._stopped: Final = threading.Event()
        self._thread: Final = threading.Thread(target=self._run, name="life", daemon=True)

    def start(self) -> None:
        """Begin, after the fork."""
        self._thread.start()

    def stop(self) -> None:
        """End; what is being written may end by itself."""
        self._stopped.set()

    def join(self, timeout_s: float) -> bool:
        """Wait until it has ended; whether it has."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._show()
            # No connection is held for a word every half minute.
            connection.close()
            self._stopped.wait(EVERY_S)
