"""How periodic tasks went: noted when one ends, written at most every few seconds a task.

The fastest run every two seconds; a write for each would cost more than many of them do. A failure
is written at once. What was noted and not written is written when the process stops; a kill loses
counts of a few seconds and nothing else.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import structlog
from celery import Task, current_app
from celery.signals import task_postrun, task_prerun, worker_process_shutdown, worker_shutdown
from django.db import Error
from django.db.models import F

from fleet.lib.clock import now
from fleet.models import TaskRun
from fleet.watch.life import Paced

logger = structlog.get_logger(__name__)
WRITE_EVERY_S: Final = 10.0


@dataclass(slots=True)
class _Noted:
    """Of one task in this process, since the last write."""

    started_at: datetime
    ended_at: datetime
    took_ms: int
    error_kind: str = ""
    error_at: datetime | None = None
    has_failed: bool = False
    run_count: int = 0
    failure_count: int = 0


class Runs:
    """Notes runs and writes them. Never raises: a task must not fail for its bookkeeping."""

    def __init__(
        self, names: Callable[[], frozenset[str]], *, write_every_s: float = WRITE_EVERY_S
    ) -> None:
        self._names: Final = names
        self._write_every_s: Final = write_every_s
        self._lock: Final = threading.Lock()
        self._begun: dict[str, tuple[datetime, float]] = {}
        self._noted: dict[str, _Noted] = {}
        self._due_s: dict[str, float] = {}

    def begin(self, task_id: str, task: str) -> None:
        """A run begins."""
        if task in self._names():
            with self._lock:
                self._begun[task_id] = now(), time.monotonic()

    def end(self, task_id: str, task: str, error: BaseException | None) -> None:
        """A run has ended; of an error only the name of its class is kept."""
        with self._lock:
            begun = self._begun.pop(task_id, None)
            if begun is None:
                return
            started_at, started_s = begun
            noted = self._noted.setdefault(task, _Noted(started_at, started_at, 0))
            noted.started_at, noted.ended_at = started_at, now()
            noted.took_ms = int((time.monotonic() - started_s) * 1000)
            noted.run_count += 1
            noted.has_failed = error is not None
            if error is not None:
                noted.failure_count += 1
                noted.error_kind, noted.error_at = type(error).__name__[:100], noted.ended_at
            if error is None and time.monotonic() < self._due_s.get(task, 0.0):
                return
        self._write(task)

    def flush(self) -> None:
        """Write what was noted."""
        for task in list(self._noted):
            self._write(task)

    def _write(self, task: str) -> None:
        with self._lock:
            noted = self._noted.pop(task, None)
            self._due_s[task] = time.monotonic() + self._write_every_s
        if noted is None:
            return
        try:
            _write(task, noted)
        except Error as error:
            logger.warning("task_run_not_noted", task=task, kind=type(error).__name__)


def _write(task: str, noted: _Noted) -> None:
    """One statement, two the first time."""
    last: dict[str, Any] = {  # Any: values of fields
        "started_at": noted.started_at,
        "ended_at": noted.ended_at,
        "took_ms": noted.took_ms,
        "has_failed": noted.has_failed,
    }
    if noted.failure_count:
        last |= {"error_kind": noted.error_kind, "error_at": noted.error_at}
    added = {
        "run_count": F("run_count") + noted.run_count,
        "failure_count": F("failure_count") + noted.failure_count,
    }
    rows = TaskRun.objects.filter(pk=task)
    if not rows.update(**last, **added):
        # Two workers may both be the first: each adds to the row that one of them made.
        TaskRun.objects.bulk_create([TaskRun(task=task, **last)], ignore_conflicts=True)
        rows.update(**last, **added)


def periodic_names() -> frozenset[str]:
    """The tasks of the beat schedule."""
    return frozenset(entry["task"] for entry in current_app.conf.beat_schedule.values())


_runs: Final = Runs(periodic_names)
_life: Final = Paced("worker")


def connect() -> None:
    """Listen to Celery's signals; called once by the app."""
    task_prerun.connect(_on_prerun, weak=False, dispatch_uid="fleet.runs")
    task_postrun.connect(_on_postrun, weak=False, dispatch_uid="fleet.runs")
    worker_process_shutdown.connect(_on_stop, weak=False, dispatch_uid="fleet.runs")
    worker_shutdown.connect(_on_stop, weak=False, dispatch_uid="fleet.runs")


def _on_prerun(*, task_id: str, task: Task[Any, Any], **_kwargs: object) -> None:
    if not task.request.is_eager:
        _runs.begin(task_id, task.name)


def _on_postrun(
    *, task_id: str, task: Task[Any, Any], state: str | None, retval: object, **_kwargs: object
) -> None:
    if task.request.is_eager:
        return
    error = retval if state == "FAILURE" and isinstance(retval, BaseException) else None
    _runs.end(task_id, task.name, error)
    _life()


def _on_stop(**_kwargs: object) -> None:
    _runs.flush()
