"""Whether this process should be sent requests: it lives, its database answers, its tables fit."""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import Final

from django.db import DatabaseError, connection
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder

from fleet.watch.kept import Kept

KEEP_S: Final = 1.0
"""Probes of several load balancers a second cost one look a second."""
WAIT_S: Final = 2.0
"""Longer than a busy database takes for its smallest query, shorter than a probe waits."""
STOPPING: Final = "This process is stopping."
NO_ANSWER: Final = "The database does not answer."
PENDING: Final = "The tables do not fit this version: migrations are to be applied."


class _Process:
    """What the web server told us about this process."""

    stopping = threading.Event()


def note_stopping() -> None:
    """From now on this process is not ready; safe in the handler of a signal."""
    _Process.stopping.set()


def is_stopping() -> bool:
    """Whether this process was told to stop."""
    return _Process.stopping.is_set()


def fault() -> str:
    """Why this process is not ready; "" when it is. Never raises, and waits 2 seconds at most."""
    if is_stopping():
        return STOPPING
    seen = _kept()
    return NO_ANSWER if seen.is_late or seen.value is None else seen.value


def forget() -> None:
    """Look anew at the next call."""
    _kept.forget()


def look() -> str:
    """Why the database will not do, looked up now; "" when it will. Never raises DatabaseError."""
    try:
        applied = set(MigrationRecorder(connection).applied_migrations())
    except DatabaseError:
        return NO_ANSWER
    return PENDING if _needed() - applied else ""


_kept: Final = Kept(look, keep_s=KEEP_S, wait_s=WAIT_S)


@lru_cache(maxsize=1)
def _needed() -> frozenset[tuple[str, str]]:
    """The migrations that this code comes with; they do not change while it runs."""
    return frozenset(MigrationLoader(None).disk_migrations or ())
