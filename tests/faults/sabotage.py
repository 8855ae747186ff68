"""Kills a console's process at a marked point: for child processes of the tests, never for ours.

The points are told by what the process does to its database and to its answer, so that nothing of
the product has to know of them. Which point is armed stands in a file (FAULTS_ARM): the first
process that comes to it removes the file and dies by SIGKILL.

    begin      a transaction begins                 ledger     the ledger row is about to be written
    commit     the batch is about to be committed   committed  it is, nobody knows of it yet
    answering  the answer is made, not a byte sent  half       half of the answer was sent
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

POINTS = ("begin", "ledger", "commit", "committed", "answering", "half")
LEDGER = "telemetry_ingestbatch"
_IS_BATCH = "_faults_is_batch"


def die() -> None:
    """End this process as a power cut would."""
    os.kill(os.getpid(), signal.SIGKILL)


def reach(point: str) -> None:
    """Come to a point: die there if it is the armed one."""
    armed = Path(os.environ["FAULTS_ARM"])
    try:
        if armed.read_text() != point:
            return
        armed.unlink()
    except FileNotFoundError:
        return
    die()


def _is_upkeep() -> bool:
    """Whether this is a thread of the console's own, beside those that serve requests."""
    return threading.current_thread().name in {"polls", "life"}


def on_commit(before: Callable[[bool], None], after: Callable[[bool], None]) -> None:
    """Call ``before`` and ``after`` around each real commit; told whether a batch is in it."""
    real = BaseDatabaseWrapper.commit

    def commit(self: BaseDatabaseWrapper) -> None:
        is_batch = getattr(self, _IS_BATCH, False)
        before(is_batch)
        real(self)
        setattr(self, _IS_BATCH, False)
        after(is_batch)

    BaseDatabaseWrapper.commit = commit  # type: ignore[method-assign]  # in this process only


def mark_points() -> None:
    """Put the points into this process's database connections."""
    real_autocommit = BaseDatabaseWrapper.set_autocommit

    def set_autocommit(self: BaseDatabaseWrapper, autocommit: bool, **more: bool) -> None:
        real_autocommit(self, autocommit, **more)
        if not autocommit and not _is_upkeep():
            reach("begin")

    BaseDatabaseWrapper.set_autocommit = set_autocommit  # type: ignore[assignment]  # as above
    on_commit(
        lambda is_batch: reach("commit") if is_batch else None,
        lambda is_batch: reach("committed") if is_batch else None,
    )
    connection_created.connect(_watch_statements, weak=False)


def _watch_statements(connection: BaseDatabaseWrapper, **_: object) -> None:
    def watch(execute: Any, sql: Any, params: Any, many: bool, context: Any) -> Any:  # noqa: ANN401 -- Django's hook
        if isinstance(sql, str) and sql.startswith("INSERT") and LEDGER in sql:
            setattr(connection, _IS_BATCH, True)
            reach("ledger")
        return execute(sql, params, many, context)

    connection.execute_wrappers.append(watch)


if "FAULTS_ARM" in os.environ:
    mark_points()
