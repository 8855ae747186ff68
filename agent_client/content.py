"""The trajectories plane's batches: the host's messages past a cursor, scrubbed in strict mode.

Each message is a line of its own, before it the facts of its session, once a batch. Only a push
whose gate is open asks for them; what a line cannot hold leaves its length in its place.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

from agent_client.contract.content import MESSAGE, SESSION
from agent_client.contract.redact import redact_message, redact_record, redact_text
from agent_client.contract.wire import MAX_LINE_BYTES
from agent_client.encoding import dumps
from agent_client.export import REDACTOR_MISSING, Batch, is_redactor_missing
from agent_client.hostdb import STATE_DB, Fields, Session, connect, message_at
from agent_client.hostdb import session_at as session_of
from agent_client.store import StoreError

MAX_BATCH_MESSAGES: Final = 500
MAX_BATCH_BYTES: Final = 4_000_000
"""The console scrubs a batch again before it answers: some seconds for as much."""
_CONTENT: Final = ("content", "reasoning", "reasoning_content", "reasoning_details", "tool_calls")


def last_message(home: Path) -> int | None:
    """The row number of the newest message; 0 without any, None when that cannot be read now.

    Never raises. Not to know is not zero, nor is a database that is away for a moment: a push that
    began there would send what was said before the consent.
    """
    rows = _ask(home, "SELECT max(rowid) FROM messages", 0)
    return rows[0][0] or 0 if rows else None


def count_messages(home: Path, after: int) -> int:
    """Messages past a cursor; 0 when nothing can be read. Never raises."""
    rows = _ask(home, "SELECT count(*) FROM messages WHERE rowid > ?", after)
    return rows[0][0] if rows else 0


def content_batch(home: Path, after: int, *, max_messages: int, pii: bool) -> Batch | None:
    """The next messages past a cursor as one batch; None when there are none.

    Errors: StoreError when the redactor cannot run or ``state.db`` cannot be read now.
    """
    if is_redactor_missing():
        raise StoreError(REDACTOR_MISSING)
    if not (home / STATE_DB).is_file():
        return None
    try:
        with closing(connect(home / STATE_DB)) as connection:
            while True:
                batch, last = _batch(connection, after, max_messages, pii=pii)
                if batch is not None or last == after:
                    return batch
                # Messages without a session: what stands behind them must not wait for ever.
                after = last
    except (sqlite3.Error, OSError) as error:
        why = type(error).__name__
        raise StoreError(f"the agent's {STATE_DB} cannot be read ({why})") from None


def _batch(
    connection: sqlite3.Connection, after: int, max_messages: int, *, pii: bool
) -> tuple[Batch | None, int]:
    """The batch, if there is anything to tell, and the last message that was looked at."""
    lines: list[str] = []
    counts: dict[str, int] = {}
    size, first, last = 0, 0, after
    told: set[str] = set()
    for rowid, session_id in _places(connection, after, max_messages):
        last = last if lines else rowid
        made = list(_lines(connection, rowid, session_id, told, pii=pii))
        added = sum(len(line) + 1 for _, line in made)
        if lines and size + added > MAX_BATCH_BYTES:
            break
        if made:
            told.add(session_id)
        for kind, line in made:
            lines.append(line)
            counts[kind] = counts.get(kind, 0) + 1
        size += added
        first, last = first or rowid, rowid
    if not lines:
        return None, last
    body = ("\n".join(lines) + "\n").encode("ascii")
    return Batch(body, first, last, len(lines), counts), last


def _places(connection: sqlite3.Connection, after: int, max_messages: int) -> list[tuple[int, str]]:
    found = connection.execute(
        "SELECT rowid, session_id FROM messages WHERE rowid > ? ORDER BY rowid LIMIT ?",
        (after, max_messages),
    )
    return [(rowid, str(session_id)) for rowid, session_id in found]


def _lines(
    connection: sqlite3.Connection, rowid: int, session_id: str, told: set[str], *, pii: bool
) -> Iterator[tuple[str, str]]:
    """The message's line, behind its session's where the batch has not told it yet."""
    session, message = session_of(connection, session_id), message_at(connection, rowid)
    if session is None or message is None:
        return  # the host has deleted it meanwhile
    if session_id not in told:
        yield SESSION, _session_line(session, rowid, pii=pii)
    yield MESSAGE, _message_line(message, session, rowid, pii=pii)


def _session_line(session: Session, seq: int, *, pii: bool) -> str:
    facts = {name: value for name, value in session.facts.items() if value is not None}
    title = facts.pop("title", None)
    record = redact_record({"_kind": SESSION, "seq": seq, **facts})
    if title is not None:
        record["title"] = redact_text(str(title), strict=True, pii=pii)
    return dumps(record)


def _message_line(message: Fields, session: Session, rowid: int, *, pii: bool) -> str:
    fields = {name: value for name, value in message.fields.items() if value is not None}
    fields.setdefault("timestamp", session.facts.get("started_at"))
    made = redact_message(fields, include_content=True, pii=pii)
    made |= {name: _too_long(count) for name, count in message.long.items() if name in _CONTENT}
    record = {"_kind": MESSAGE, **made, "session_id": session.facts.get("id"), "id": rowid}
    line = dumps(redact_ids(record))
    if len(line) <= MAX_LINE_BYTES:
        return line
    # The console takes lines of 1 MiB; the longest field makes room first.
    for name in sorted(_CONTENT, key=lambda one: -len(dumps(record.get(one)))):
        if record.get(name) is not None:
            record[name] = _too_long(len(dumps(record[name])))
            line = dumps(redact_ids(record))
            if len(line) <= MAX_LINE_BYTES:
                break
    return line


def redact_ids(record: dict[str, object]) -> dict[str, object]:
    """The record with its session's id scrubbed as every id is."""
    return {**record, **redact_record({"session_id": record["session_id"]})}


def _too_long(count: int) -> str:
    return f"[too-long: {count} characters]"


def _ask(home: Path, sql: str, value: int) -> list[tuple[int, ...]]:
    path = home / STATE_DB
    try:
        if not path.is_file():
            return []
        with closing(connect(path)) as connection:
            return connection.execute(sql, (value,) if "?" in sql else ()).fetchall()
    except (sqlite3.Error, OSError):
        return []
