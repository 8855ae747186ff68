"""What is traced: requests by their route, Celery tasks by their name, and both's statements.

Closed sets, as with the metrics: routes of the URLconf, verbs, statuses, names of tasks and of
classes, counts and times. No address, no query, no header, no argument, no SQL.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

from celery import Task
from celery.signals import (
    before_task_publish,
    task_postrun,
    task_prerun,
    worker_process_shutdown,
    worker_shutdown,
)
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from django.http import HttpRequest

from fleet.lib.addresses import is_trusted_peer
from fleet.watch import tracing
from fleet.watch.figures import METHODS
from fleet.watch.tracing import Recorded


@dataclass(slots=True)
class _Statements:
    """Of the span that is going on."""

    count: int = 0
    took_s: float = 0.0


_STATEMENTS: Final[ContextVar[_Statements | None]] = ContextVar("fleet_statements", default=None)


class TracedRequest:
    """The span of one request; ``end`` says how it went."""

    def __init__(self, recorded: Recorded | None) -> None:
        self._recorded: Final = recorded

    def end(self, *, route: str, method: str, status: int) -> None:
        """It was answered."""
        if self._recorded is None:
            return
        verb = method if method in METHODS else "_OTHER"
        self._recorded.name(f"{verb} {route}")
        self._recorded.say(
            {"http.request.method": verb, "http.route": route, "http.response.status_code": status}
        )
        if status >= 500:
            self._recorded.fail(str(status))


@contextmanager
def traced_request(request: HttpRequest) -> Iterator[TracedRequest]:
    """Record a request. Its parent counts only when a proxy of ours names it."""
    if not tracing.is_on():
        yield TracedRequest(None)
        return
    parent = request.META.get("HTTP_TRACEPARENT", "") if is_trusted_peer(request) else ""
    with _counted("request", "server", str(parent)) as recorded:
        yield TracedRequest(recorded)


@contextmanager
def _counted(name: str, kind: tracing.Kind, parent: str) -> Iterator[Recorded | None]:
    """A span that knows how many statements ran inside and how long they took."""
    statements = _Statements()
    with tracing.span(name, kind, parent=parent) as recorded:
        token = _STATEMENTS.set(statements)
        try:
            yield recorded
        finally:
            _STATEMENTS.reset(token)
            if recorded is not None:
                recorded.say(
                    {
                        "fleet.db.statements": statements.count,
                        "fleet.db.seconds": round(statements.took_s, 6),
                    }
                )


def _count(
    execute: Callable[..., object],
    sql: str,
    params: object,
    many: bool,  # noqa: FBT001  # Django's signature
    context: dict[str, Any],  # Any: Django's
) -> object:
    """Django's wrapper of a statement: counted and timed, not looked at."""
    statements = _STATEMENTS.get()
    if statements is None:
        return execute(sql, params, many, context)
    began_s = time.perf_counter()
    try:
        return execute(sql, params, many, context)
    finally:
        statements.count += 1
        statements.took_s += time.perf_counter() - began_s


def _watch(connection: BaseDatabaseWrapper) -> None:
    if _count not in connection.execute_wrappers:
        connection.execute_wrappers.append(_count)


def connect() -> None:
    """Listen to Django's connections and Celery's signals; called once by the app, if traced."""
    if not tracing.is_on():
        return
    uid = "fleet.traced"
    connection_created.connect(_on_connection, weak=False, dispatch_uid=uid)
    for connection in connections.all(initialized_only=True):
        _watch(connection)
    before_task_publish.connect(_on_publish, weak=False, dispatch_uid=uid)
    task_prerun.connect(_on_prerun, weak=False, dispatch_uid=uid)
    task_postrun.connect(_on_postrun, weak=False, dispatch_uid=uid)
    worker_process_shutdown.connect(_on_stop, weak=False, dispatch_uid=uid)
    worker_shutdown.connect(_on_stop, weak=False, dispatch_uid=uid)


def _on_connection(*, connection: BaseDatabaseWrapper, **_kwargs: object) -> None:
    _watch(connection)


def _on_publish(*, headers: dict[str, Any] | None = None, **_kwargs: object) -> None:
    parent = tracing.current_parent()
    if parent and headers is not None:
        headers[tracing.PARENT] = parent


_going_on: dict[str, AbstractContextManager[Recorded | None]] = {}
_recorded: dict[str, Recorded | None] = {}
"""By task id: a worker's process runs one at a time, a pool of threads several."""


def _on_prerun(*, task_id: str, task: Task[Any, Any], **_kwargs: object) -> None:
    if task.request.is_eager:
        return
    parent = str(task.request.get(tracing.PARENT) or "")
    span = _counted(f"task {task.name}", "consumer", parent)
    _recorded[task_id] = span.__enter__()
    _going_on[task_id] = span


def _on_postrun(
    *, task_id: str, task: Task[Any, Any], state: str | None, retval: object, **_kwargs: object
) -> None:
    span, recorded = _going_on.pop(task_id, None), _recorded.pop(task_id, None)
    if span is None:
        return
    if recorded is not None:
        recorded.say({"celery.task": task.name, "celery.state": state or "UNKNOWN"})
        if state == "FAILURE":
            recorded.fail(type(retval).__name__)
    span.__exit__(None, None, None)


def _on_stop(**_kwargs: object) -> None:
    tracing.stop()
