"""The host's ``state.db``, read and never written: its sessions and their messages.

Another program's live file: opened ``mode=ro`` and ``query_only``, in transactions of one
statement, by the columns that are there, and only those of a closed list. Nothing is held but one
message and a page of row numbers, however long a session is.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

STATE_DB: Final = "state.db"
BUSY_TIMEOUT_S: Final = 5.0
"""The host holds its write lock for milliseconds; longer means that it hangs."""
MAX_FIELD_BYTES: Final = 1 << 20
"""The redactor takes a second for this much. A longer field is counted, never loaded."""
MAX_FACT_CHARS: Final = 1_000
"""No role, tool name or id of the host comes near; what does is no name."""
MAX_DEPTH: Final = 50
"""Python's own stack is the next limit."""
TOO_LONG: Final = "[too-long]"
PAGE_SESSIONS: Final = 200
PAGE_IDS: Final = 20_000
"""Row numbers held at once; for each page SQLite goes through the session's index again."""
STRUCTURED: Final = "\x00json:"
"""The host's mark of content that is a list of parts."""

Kind = Literal["text", "time", "count", "content"]
SESSION_COLUMNS: Final[dict[str, Kind]] = {
    "id": "text",
    "source": "text",
    "model": "text",
    "started_at": "time",
    "ended_at": "time",
    "message_count": "count",
    "tool_call_count": "count",
}
"""All that is read of a session without its content: no user, chat, place or prompt."""
MESSAGE_COLUMNS: Final[dict[str, Kind]] = {
    "id": "count",
    "role": "text",
    "name": "text",
    "tool_name": "text",
    "tool_call_id": "text",
    "timestamp": "time",
    "token_count": "count",
    "finish_reason": "text",
    "effect_disposition": "text",
    "active": "count",
    "compacted": "count",
    "content": "content",
    "reasoning": "content",
    "reasoning_content": "content",
    "reasoning_details": "content",
    "tool_calls": "content",
}
_CONTINUATION: Final = bytes(range(0x80, 0xC0))


@dataclass(frozen=True, slots=True)
class Session:
    """A session: its row number and `SESSION_COLUMNS`, with ``title`` where it was asked for."""

    rowid: int
    facts: dict[str, object]


@dataclass(frozen=True, slots=True)
class Fields:
    """A row's fields that hold something; ``long``: characters of those that are not loaded."""

    fields: dict[str, object]
    long: dict[str, int] = field(default_factory=dict)


def connect(path: Path) -> sqlite3.Connection:
    """A connection to another program's live database that cannot write.

    Text that is no UTF-8 is read with replacement marks. Never ``immutable``, which would miss what
    is still in the WAL. Errors: sqlite3.Error.
    """
    connection = sqlite3.connect(
        path.absolute().as_uri() + "?mode=ro",
        uri=True,
        timeout=BUSY_TIMEOUT_S,
        isolation_level=None,
    )
    try:
        connection.text_factory = tolerant_text
        connection.execute("PRAGMA query_only = 1")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def tolerant_text(raw: bytes) -> str:
    """Stored text, with replacement marks where it is no UTF-8: a ``text_factory``."""
    return raw.decode("utf-8", "replace")


def columns_of(connection: sqlite3.Connection, table: str) -> frozenset[str]:
    """The columns a table has in this version of its program; empty without the table."""
    found = connection.execute("SELECT name FROM pragma_table_info(?)", (table,))
    return frozenset(row[0] for row in found)


def sessions(
    connection: sqlite3.Connection, *, since_s: float | None, with_title: bool
) -> Iterator[Session]:
    """Sessions that began in the window, oldest row first. Errors: sqlite3.Error.

    A session without a readable start is in no window.
    """
    wanted: dict[str, Kind] = {**SESSION_COLUMNS, **({"title": "content"} if with_title else {})}
    present = columns_of(connection, "sessions")
    kinds = {name: kind for name, kind in wanted.items() if name in present}
    if not kinds:
        return
    sql = f"SELECT rowid FROM sessions WHERE rowid > ? ORDER BY rowid LIMIT {PAGE_SESSIONS}"
    last = -(2**63)
    while page := connection.execute(sql, (last,)).fetchall():
        for (last,) in page:
            row = _row(connection, "sessions", last, kinds)
            if row is None:
                continue
            start_s = row.fields.get("started_at")
            if since_s is None or (isinstance(start_s, (int, float)) and start_s >= since_s):
                yield Session(last, {name: row.fields.get(name) for name in wanted})


def session_at(connection: sqlite3.Connection, session_id: str) -> Session | None:
    """A session by its id, with its title; None without it. Errors: sqlite3.Error."""
    found = connection.execute("SELECT rowid FROM sessions WHERE id = ?", (session_id,)).fetchone()
    wanted: dict[str, Kind] = {**SESSION_COLUMNS, "title": "content"}
    present = columns_of(connection, "sessions")
    kinds = {name: kind for name, kind in wanted.items() if name in present}
    row = None if found is None else _row(connection, "sessions", found[0], kinds)
    return None if row is None else Session(found[0], dict(row.fields))


def message_at(connection: sqlite3.Connection, rowid: int) -> Fields | None:
    """A message by its row number; None without it. Errors: sqlite3.Error."""
    present = columns_of(connection, "messages")
    kinds = {name: kind for name, kind in MESSAGE_COLUMNS.items() if name in present}
    return _row(connection, "messages", rowid, kinds)


def messages(connection: sqlite3.Connection, session: Session) -> Iterator[Fields]:
    """A session's messages in the order they were stored. Errors: sqlite3.Error."""
    present = columns_of(connection, "messages")
    kinds = {name: kind for name, kind in MESSAGE_COLUMNS.items() if name in present}
    if "session_id" not in present or not kinds:
        return
    for rowid in _message_rows(connection, session.rowid):
        row = _row(connection, "messages", rowid, kinds)
        if row is not None:  # else the host has deleted it meanwhile
            yield row


def _message_rows(connection: sqlite3.Connection, session_rowid: int) -> Iterator[int]:
    last = -(2**63)
    # The + keeps SQLite on the index of sessions: by row number it would read the whole table.
    sql = (
        "SELECT rowid FROM messages WHERE session_id = (SELECT id FROM sessions WHERE rowid = ?) "
        f"AND +rowid > ? ORDER BY +rowid LIMIT {PAGE_IDS}"
    )
    while page := connection.execute(sql, (session_rowid, last)).fetchall():
        yield from (row[0] for row in page)
        if len(page) < PAGE_IDS:
            return
        last = page[-1][0]


def _row(
    connection: sqlite3.Connection, table: str, rowid: int, kinds: Mapping[str, Kind]
) -> Fields | None:
    """A row's fields but those that are too long to be loaded; None without the row."""
    sql = f"SELECT {', '.join(kinds)} FROM {table} WHERE rowid = ?"
    previous = connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_FIELD_BYTES)
    try:
        row = connection.execute(sql, (rowid,)).fetchone()
        return None if row is None else Fields(_fields(kinds, row))
    except sqlite3.DataError:
        return _by_field(connection, table, rowid, kinds)
    finally:
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, previous)


def _by_field(
    connection: sqlite3.Connection, table: str, rowid: int, kinds: Mapping[str, Kind]
) -> Fields:
    values: list[object] = []
    long: dict[str, int] = {}
    for name in kinds:
        try:
            row = connection.execute(
                f"SELECT {name} FROM {table} WHERE rowid = ?", (rowid,)
            ).fetchone()
            values.append(None if row is None else row[0])
        except sqlite3.DataError:
            values.append(TOO_LONG)
            long[name] = _count_chars(connection, table, name, rowid)
    return Fields(_fields(kinds, values), long)


def _count_chars(connection: sqlite3.Connection, table: str, name: str, rowid: int) -> int:
    """Characters of a stored text, in pieces."""
    count = 0
    with connection.blobopen(table, name, rowid, readonly=True) as text:
        while piece := text.read(1 << 16):
            count += len(piece.translate(None, _CONTINUATION))
    return count


def _fields(kinds: Mapping[str, Kind], values: Sequence[object]) -> dict[str, object]:
    return {
        name: _fitted(kind, value, name)
        for (name, kind), value in zip(kinds.items(), values, strict=True)
        if value is not None
    }


def _fitted(kind: Kind, value: object, name: str) -> object:
    """A stored value as what its column is for: SQLite holds any type in any column."""
    if kind == "time":
        return _seconds(value)
    if kind == "count":
        number = _number(value)
        return int(number) if number is not None and number == int(number) else None
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    if kind == "text":
        return text if len(text) <= MAX_FACT_CHARS else TOO_LONG
    return _structured(text, name)


def _structured(text: str, name: str) -> object:
    """Content as the host means it: its lists of parts are stored as JSON."""
    is_marked = text.startswith(STRUCTURED)
    if not is_marked and name != "reasoning_details":
        return text
    try:
        parsed: object = json.loads(text.removeprefix(STRUCTURED) if is_marked else text)
    except (ValueError, RecursionError):
        return text
    return parsed if isinstance(parsed, (list, dict)) and not _is_deep(parsed) else text


def _is_deep(value: object) -> bool:
    """Whether it nests further than anything the host means."""
    level: list[object] = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, (list, dict))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True


def _number(value: object) -> int | float | None:
    if isinstance(value, int):
        return value
    try:
        number = float(value)  # type: ignore[arg-type]  # what float() cannot take it refuses
    except (TypeError, ValueError):
        return None
    return number if abs(number) < 2**63 else None  # NaN and the infinities are below nothing


def _seconds(value: object) -> float | int | None:
    """Seconds since the epoch, also of a number or an ISO time that is stored as text."""
    number = _number(value)
    if number is not None or not isinstance(value, str):
        return number
    from datetime import UTC, datetime  # every start of the agent would pay for it

    try:
        at = datetime.fromisoformat(value)
    except ValueError:
        return None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
