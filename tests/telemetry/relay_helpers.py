"""Collectors, rows and rounds for the relay's tests."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django.db import connection

from telemetry.models import RelayCursor, RelayDestination
from telemetry.relay import rounds
from telemetry.relay.cursor import make_cursors
from telemetry.relay.feed import feed
from tests.telemetry import builders as make

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def collector(url: str, name: str = "here", **values: Any) -> RelayDestination:  # noqa: ANN401 -- a builder's overrides
    """A collector of everything that there is; traces only unless a test says more."""
    given: dict[str, Any] = {"sends_metrics": False, "sends_logs": False, "since_at": LONG_AGO}
    made = RelayDestination.objects.create(name=name, endpoint=url, **(given | values))
    make_cursors()
    return made


def cursor_of(destination: RelayDestination, signal: str = "traces") -> RelayCursor:
    return RelayCursor.objects.get(destination=destination, signal=signal)


def fill(count: int, *, start: int = 0, **values: Any) -> None:  # noqa: ANN401 -- as above
    """One batch of model calls of a run."""
    calls = [
        make.model_call(seq, span_id=f"s-{seq}", run_id="run-1")
        for seq in range(start + 1, start + count + 1)
    ]
    assert make.push(*calls, **values).receipt["accepted"]


def go(destination: RelayDestination, signal: str = "traces", **values: Any) -> rounds.Round:  # noqa: ANN401 -- as above
    """Number what there is and run a cursor's next round, as if every pause were over."""
    feed()
    cursor = cursor_of(destination, signal)
    RelayCursor.objects.filter(pk=cursor.pk).update(open_until=None)
    return rounds.run_cursor(cursor.pk, **values)


def go_until_idle(destination: RelayDestination, signal: str = "traces", most: int = 200) -> None:
    for _ in range(most):
        if go(destination, signal).is_idle:
            return
    raise AssertionError(f"never idle: {cursor_of(destination, signal).last_error}")


def balance(cursor: RelayCursor) -> int:
    """Records that were taken out of the feed, by what became of them."""
    return cursor.sent_count + cursor.rejected_count + cursor.dead_count + cursor.expired_count


def install_ids(count: int) -> list[UUID]:
    return [UUID(int=make.INSTALL.int + at) for at in range(count)]


def close() -> None:
    """End this thread's connection."""
    connection.close()
