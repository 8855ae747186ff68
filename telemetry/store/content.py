"""store_content(): sessions and messages of the trajectories plane, each once, in their own tables.

Row by row through the ORM: a session makes a hundred messages in an hour, and what counts here is
that no error says what was being stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import batched
from typing import Final

from django.db import DatabaseError, OperationalError

from fleet.lib.clock import ns_to_datetime
from telemetry.models.content import ContentMessage, ContentSession
from telemetry.store.copy import CopyCounts, Stamp
from telemetry.store.partitions import Partition

CHUNK: Final = 200
"""Rows of one statement: SQLite takes a bounded number of parameters."""


@dataclass(frozen=True, slots=True)
class StoredSession:
    """A session's facts as they are stored: scrubbed."""

    session_id: str
    start_ns: int
    seq: int
    source: str | None
    model: str | None
    title: str | None
    ended_ns: int | None
    message_count: int | None
    tool_call_count: int | None


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message as it is stored: scrubbed, its content as JSON text."""

    session_id: str
    start_ns: int
    message_id: int
    names: Mapping[str, str]
    token_count: int | None
    content_json: str | None
    reasoning_json: str | None
    tool_calls_json: str | None


@dataclass(slots=True)
class Content:
    """The accepted content of one batch; ``hit_count`` values had to be changed."""

    sessions: list[StoredSession] = field(default_factory=list)
    messages: list[StoredMessage] = field(default_factory=list)
    hit_count: int = 0

    def partitions(self) -> set[Partition]:
        """The day partitions its rows need."""
        named: tuple[tuple[str, Iterable[StoredSession | StoredMessage]], ...] = (
            (ContentSession._meta.db_table, self.sessions),
            (ContentMessage._meta.db_table, self.messages),
        )
        return {
            Partition(ns_to_datetime(row.start_ns).date(), table)
            for table, rows in named
            for row in rows
        }


def store_content(content: Content, stamp: Stamp) -> tuple[CopyCounts, dict[str, int]]:
    """Store a batch's content; what became of it, and the accepted by kind.

    Must run inside the install's transaction: nobody else writes its rows in between.
    Errors: OperationalError, DatabaseError, neither with a word of what was stored.
    """
    with _silent():
        fresh, later, unchanged = _store_sessions(content.sessions, stamp)
        new = _store_messages(content.messages, stamp)
    accepted = {"session": fresh + later, "message": new}
    duplicate = unchanged + len(content.messages) - new
    counts = CopyCounts(fresh + new, later, duplicate)
    return counts, {kind: number for kind, number in accepted.items() if number}


@contextmanager
def _silent() -> Iterator[None]:
    """A database names the row it refuses; its message would carry content into the logs."""
    try:
        yield
    except OperationalError:
        raise OperationalError("the content could not be stored now") from None
    except DatabaseError as error:
        raise DatabaseError(f"the content was refused: {type(error).__name__}") from None


def _store_sessions(rows: Iterable[StoredSession], stamp: Stamp) -> tuple[int, int, int]:
    """Sessions inserted, replaced by a later copy, and left as they were."""
    best: dict[tuple[datetime, str], StoredSession] = {}
    given = 0
    for row in rows:
        given += 1
        key = (ns_to_datetime(row.start_ns), row.session_id)
        if key not in best or row.seq > best[key].seq:
            best[key] = row
    held: dict[tuple[datetime, str], ContentSession] = {}
    for some in batched(best, CHUNK):
        found = ContentSession.objects.filter(
            install_id=stamp.install_id,
            start_at__in={at for at, _ in some},
            session_id__in={session_id for _, session_id in some},
        )
        held.update({(row.start_at, row.session_id): row for row in found.defer("title")})
    fresh = [_session(row, stamp) for key, row in best.items() if key not in held]
    later = [row for key, row in best.items() if key in held and row.seq > held[key].seq]
    ContentSession.objects.bulk_create(fresh, batch_size=CHUNK)
    for row in later:
        made = _session(row, stamp)
        ContentSession.objects.filter(
            install_id=stamp.install_id, start_at=made.start_at, session_id=made.session_id
        ).update(**{name: getattr(made, name) for name in _REPLACED})
    return len(fresh), len(later), given - len(fresh) - len(later)


_REPLACED: Final = (
    *("seq", "source", "model", "title", "ended_at", "message_count", "tool_call_count"),
    *("batch_id", "received_at"),
)


def _session(row: StoredSession, stamp: Stamp) -> ContentSession:
    return ContentSession(
        install_id=stamp.install_id,
        start_at=ns_to_datetime(row.start_ns),
        session_id=row.session_id,
        seq=row.seq,
        source=row.source,
        model=row.model,
        title=row.title,
        ended_at=None if row.ended_ns is None else ns_to_datetime(row.ended_ns),
        message_count=row.message_count,
        tool_call_count=row.tool_call_count,
        batch_id=stamp.batch_id,
        received_at=stamp.received_at,
    )


def _store_messages(rows: Iterable[StoredMessage], stamp: Stamp) -> int:
    """Messages inserted: a message is written once in its session, and never changes."""
    first: dict[tuple[datetime, str, int], StoredMessage] = {}
    for row in rows:
        first.setdefault((ns_to_datetime(row.start_ns), row.session_id, row.message_id), row)
    inserted = 0
    for some in batched(first, CHUNK):
        held = set(
            ContentMessage.objects.filter(
                install_id=stamp.install_id,
                start_at__in={at for at, _, _ in some},
                message_id__in={number for _, _, number in some},
            ).values_list("start_at", "session_id", "message_id")
        )
        made = [_message(first[key], stamp) for key in some if key not in held]
        ContentMessage.objects.bulk_create(made)
        inserted += len(made)
    return inserted


def _message(row: StoredMessage, stamp: Stamp) -> ContentMessage:
    return ContentMessage(
        install_id=stamp.install_id,
        start_at=ns_to_datetime(row.start_ns),
        session_id=row.session_id,
        message_id=row.message_id,
        **row.names,
        token_count=row.token_count,
        content_json=row.content_json,
        reasoning_json=row.reasoning_json,
        tool_calls_json=row.tool_calls_json,
        batch_id=stamp.batch_id,
        received_at=stamp.received_at,
    )
