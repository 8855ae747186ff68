"""From rings to disk, exactly once: append to the log, index into SQLite, move the cursors.

Under one lock an appender (1) indexes what the log holds past the database's
``log_offset`` (left by a process that died between the two), (2) skips frames
whose ring cursor says they are stored, (3) appends the rest to ``events.jsonl``
and (4) commits rows, ring cursors, ``seq`` and ``log_offset`` in one
transaction. The log is the truth and the database its index: dying after (3)
is repaired by (1), dying before it leaves the frames in their ring.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import marshal
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agent_client import schema
from agent_client.contract.events import EVENT_TYPES, fault_of
from agent_client.contract.tables import BY_EVENT, EVENT_TABLES, RUNS, Table
from agent_client.files import open_private, telemetry_dir
from agent_client.guard import note_fault
from agent_client.spool import Chunk
from agent_client.store import (
    DATABASE,
    LOG,
    add_to_state,
    connect,
    database_path,
    get_state,
    make_folder,
    put_state,
)

KINDS: Final = tuple(EVENT_TYPES)
"""A frame names its kind by position here; append only, or old spools read as other kinds."""
UNREADABLE: Final = "unreadable"
"""Stands in the log for an event that cannot be written down; counted as invalid."""
LOCK: Final = "journal.lock"
BAD_DATABASE: Final = ("malformed", "not a database", "corrupt")


@dataclass(frozen=True, slots=True)
class Intake:
    """A chunk of one ring with the ring's count of refused events."""

    chunk: Chunk
    refused: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Line:
    ring_id: str
    k: int
    n: int
    event: dict[str, object]
    seq: int = 0


def decode(payload: bytes) -> dict[str, object]:
    """The event of a frame's payload, ``{"event": …}``.

    Errors: ValueError, EOFError, TypeError when it is not one; the frame's
    checksum has been verified, so marshal reads only what a recorder wrote.
    """
    kind, body = marshal.loads(payload)  # noqa: S302  # checksummed, and from a 0700 folder
    if isinstance(body, dict):
        return body
    name = KINDS[kind]
    columns = BY_EVENT[name].column_names()
    return {"event": name, **dict(zip(columns, body, strict=True))}


_INHERITED: list[sqlite3.Connection] = []
"""A forked child's copies of its parent's connections: SQLite allows neither use nor close."""


class Journal:
    """The writing end of one home; used by one thread at a time.

    Errors: ``write`` raises OSError or sqlite3.Error when nothing was committed;
    call again with the same intakes, what was stored is not stored twice.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
        self._log_fd = -1
        self._lock_fd = -1

    def close(self) -> None:
        """Close files; the next write opens them again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._close_files()

    def forget(self) -> None:
        """Drop handles without closing the database, as a forked child must.

        The files are closed: an inherited descriptor would hold the parent's lock past its death.
        """
        if self._connection is not None:
            _INHERITED.append(self._connection)  # else the last reference goes, and that closes it
        self._connection = None
        with contextlib.suppress(OSError):
            self._close_files()

    def _close_files(self) -> None:
        fds, self._log_fd, self._lock_fd = (self._log_fd, self._lock_fd), -1, -1
        for fd in fds:
            if fd >= 0:
                os.close(fd)

    @contextlib.contextmanager
    def locked(self) -> Iterator[sqlite3.Connection]:
        """The journal's lock and one IMMEDIATE transaction with the log caught up."""
        self._open_files()
        fcntl.flock(self._lock_fd, fcntl.LOCK_EX)
        try:
            connection = self._database()
            connection.execute("BEGIN IMMEDIATE")
            try:
                self._catch_up(connection)
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise
        except sqlite3.DatabaseError as error:
            self._set_aside_if_corrupt(error)
            raise
        finally:
            fcntl.flock(self._lock_fd, fcntl.LOCK_UN)

    def write(self, intakes: Sequence[Intake]) -> list[dict[str, object]]:
        """Store what is not stored yet, in emit order; returns those events, durable.

        Errors: OSError, sqlite3.Error (see the class).
        """
        with self.locked() as connection:
            lines = self._fresh_lines(connection, intakes)
            self.append(connection, lines)
        return [line.event for line in lines]

    def append_events(
        self, connection: sqlite3.Connection, events: Iterable[dict[str, object]]
    ) -> None:
        """Log and index events that come from no ring (orphan runs, reconciled costs)."""
        self.append(connection, [_Line("", -1, 0, event) for event in events])

    def append(self, connection: sqlite3.Connection, lines: list[_Line]) -> None:
        """Append to the log, then index; inside ``locked``. A failed append is cut off again."""
        if not lines:
            return
        seq = _state_int(connection, "seq")
        encoded = []
        for line in lines:
            seq += 1
            line.seq = seq
            encoded.append(_encode(line))
        before = os.fstat(self._log_fd).st_size
        try:
            _write_all(self._log_fd, self._separator(before) + b"".join(encoded))
        except OSError:
            # We hold the lock, so every byte past `before` is ours and half-written.
            with contextlib.suppress(OSError):
                os.ftruncate(self._log_fd, before)
            raise
        for line in lines:
            _index(connection, line)
        _put_int(connection, "seq", seq)
        _put_int(connection, "log_offset", os.fstat(self._log_fd).st_size)

    def rebuild(self) -> int:
        """Empty the tables and index the whole log again, to the same rows; returns lines read.

        One transaction: a reader sees the old rows or the new ones. Rows from before the log's
        first line (of a first-version database, or of a log that was cut) are nowhere else, so
        they stay. The ledger is no index and stays too. Errors: as ``write``.
        """
        with self.locked() as connection:
            first_seq = self._first_seq()
            if first_seq is None:
                return 0
            for table in EVENT_TABLES:
                connection.execute(f"DELETE FROM {table.name} WHERE seq >= ?", (first_seq,))
            connection.execute("DELETE FROM tel_open_runs")
            # Else the errors' own numbers would go on from where they were.
            connection.execute("DELETE FROM sqlite_sequence WHERE name LIKE 'tel!_%' ESCAPE '!'")
            rings = connection.execute("SELECT * FROM tel_rings").fetchall()
            invalid = _state_int(connection, "loss.invalid")
            _put_int(connection, "log_offset", 0)
            read = self._catch_up(connection)
            connection.execute("DELETE FROM tel_rings")
            connection.executemany("INSERT INTO tel_rings VALUES (?, ?, ?, ?, ?, ?)", rings)
            _put_int(connection, "loss.invalid", invalid)
            return read

    def _first_seq(self) -> int | None:
        size = os.fstat(self._log_fd).st_size
        lines = map(_parse, _lines_from(self._log_fd, 0, size))
        return next((line.seq for line in lines if line is not None), None)

    def _separator(self, size: int) -> bytes:
        # A torn last line is ended first, or it would swallow the next good record.
        if size and os.pread(self._log_fd, 1, size - 1) != b"\n":
            return b"\n"
        return b""

    def _open_files(self) -> None:
        if self._lock_fd >= 0 and self._is_in_place():
            return
        self.close()
        folder = make_folder(self.home)
        self._lock_fd = open_private(folder / LOCK)
        self._log_fd = open_private(folder / LOG, os.O_RDWR | os.O_APPEND)

    def _is_in_place(self) -> bool:
        """Whether the files held are still those of the folder: its owner may have emptied it."""
        folder = telemetry_dir(self.home)
        try:
            return all(
                os.path.samestat(os.fstat(fd), (folder / name).stat())
                for fd, name in ((self._lock_fd, LOCK), (self._log_fd, LOG))
            )
        except OSError:
            return False

    def _database(self) -> sqlite3.Connection:
        path = database_path(self.home)
        try:
            inode = path.stat().st_ino
        except FileNotFoundError:
            inode = 0
        if self._connection is not None and inode == self._inode:
            return self._connection
        if self._connection is not None:
            self._connection.close()
        self._connection = connect(path)
        schema.migrate(self._connection)
        self._inode = path.stat().st_ino
        return self._connection

    def _set_aside_if_corrupt(self, error: sqlite3.DatabaseError) -> None:
        if not any(word in str(error) for word in BAD_DATABASE):
            return
        note_fault("journal.corrupt_database", error)
        self._connection = None
        set_database_aside(self.home)

    def _catch_up(self, connection: sqlite3.Connection) -> int:
        offset = _state_int(connection, "log_offset")
        size = os.fstat(self._log_fd).st_size
        if size < offset:
            # The log was cut by other hands; the rows it fed are still here.
            _put_int(connection, "log_offset", size)
        if size <= offset:
            return 0
        read, seq = 0, _state_int(connection, "seq")
        for raw in _lines_from(self._log_fd, offset, size):
            line = _parse(raw)
            if line is not None:
                _index(connection, line)
                seq = max(seq, line.seq)
                read += 1
        _put_int(connection, "seq", seq)
        _put_int(connection, "log_offset", size)
        return read

    def _fresh_lines(
        self, connection: sqlite3.Connection, intakes: Sequence[Intake]
    ) -> list[_Line]:
        lines: list[_Line] = []
        for intake in intakes:
            ring_id, frames = intake.chunk.ring_id, intake.chunk.frames
            next_k = _open_ring(connection, ring_id, intake.refused)
            fresh = [frame for frame in frames if frame.k >= next_k]
            first_k = fresh[0].k if fresh else intake.chunk.end_k
            if first_k > next_k:
                connection.execute(
                    "UPDATE tel_rings SET overflow = overflow + ?, next_k = ? WHERE ring_id = ?",
                    (first_k - next_k, first_k, ring_id),
                )
            lines.extend(
                _Line(ring_id, frame.k, frame.n, _decode_or_note(frame.payload)) for frame in fresh
            )
        lines.sort(key=lambda line: (line.ring_id.partition(".")[0], line.n))
        return lines


def set_database_aside(home: Path) -> Path | None:
    """Rename an unreadable database and its WAL; the next write fills a new one from the log."""
    path = database_path(home)
    aside = path.with_name(f"{DATABASE}.corrupt-{time.time_ns()}")
    try:
        path.rename(aside)
    except OSError:
        return None
    for suffix in ("-wal", "-shm"):
        with contextlib.suppress(OSError):
            path.with_name(DATABASE + suffix).rename(aside.with_name(aside.name + suffix))
    return aside


def _decode_or_note(payload: bytes) -> dict[str, object]:
    try:
        return decode(payload)
    except (ValueError, EOFError, TypeError, IndexError) as error:
        note_fault("journal.decode", error)
        return {"event": UNREADABLE}


def _open_ring(connection: sqlite3.Connection, ring_id: str, refused: dict[str, int]) -> int:
    connection.execute(
        "INSERT OR IGNORE INTO tel_rings VALUES (?, 0, 0, 0, 0, 0)",
        (ring_id,),
    )
    connection.execute(
        "UPDATE tel_rings SET encode = ?, too_large = ? WHERE ring_id = ?",
        (refused.get("encode", 0), refused.get("too_large", 0), ring_id),
    )
    row = connection.execute(
        "SELECT next_k FROM tel_rings WHERE ring_id = ?", (ring_id,)
    ).fetchone()
    return int(row[0])


def _encode(line: _Line) -> bytes:
    """The line's bytes; an event that has none must not hold up every event behind it."""
    try:
        return _dump(line)
    except (ValueError, TypeError, RecursionError) as error:
        note_fault("journal.encode", error)
        line.event = {"event": UNREADABLE}
        return _dump(line)


def _dump(line: _Line) -> bytes:
    data = {**line.event, "seq": line.seq}
    if line.ring_id:
        data["_ring"], data["_k"] = line.ring_id, line.k
    # ASCII: a lone surrogate from the host must not make the line unwritable.
    return json.dumps(data, separators=(",", ":"), default=str).encode("ascii") + b"\n"


def _parse(raw: bytes) -> _Line | None:
    try:
        data = json.loads(raw)
        ring_id, k, seq = data.pop("_ring", ""), data.pop("_k", -1), int(data.pop("seq"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return _Line(str(ring_id), int(k), 0, data, seq)


def _index(connection: sqlite3.Connection, line: _Line) -> None:
    """Upsert one event's row and move its ring's cursor; a bad row is counted, not raised."""
    kind = str(line.event.get("event"))
    table = BY_EVENT.get(kind)
    if kind == UNREADABLE or (table is not None and not _upsert(connection, table, line)):
        add_to_state(connection, "loss.invalid", 1)
    if line.ring_id:
        connection.execute(
            # A gap before k is what overflowed: frames are numbered without one. It is counted
            # here too because a kill after the append undoes what `_fresh_lines` counted.
            "INSERT INTO tel_rings VALUES (?, ?, 1, ?, 0, 0) ON CONFLICT(ring_id) DO UPDATE SET "
            "overflow = overflow + max(0, excluded.next_k - 1 - next_k), "
            "next_k = max(next_k, excluded.next_k), stored = stored + 1",
            (line.ring_id, line.k + 1, line.k),
        )


def _upsert(connection: sqlite3.Connection, table: Table, line: _Line) -> bool:
    event = line.event
    if any(fault_of(column, event.get(column.name)) for column in table.columns):
        return False
    values = [event.get(name) for name in table.column_names()]
    try:
        connection.execute(_UPSERTS[table.name], [*values, line.seq])
        if table is RUNS:
            _note_open(connection, event, line.ring_id.partition(".")[0])
    except sqlite3.OperationalError:
        raise
    except (sqlite3.Error, ValueError, OverflowError) as error:
        note_fault("journal.row", error)
        return False
    return True


def _note_open(connection: sqlite3.Connection, event: dict[str, object], process_id: str) -> None:
    if event.get("end_ns") is None and process_id:
        connection.execute(
            "INSERT OR REPLACE INTO tel_open_runs VALUES (?, ?)", (event["run_id"], process_id)
        )
    else:
        connection.execute("DELETE FROM tel_open_runs WHERE run_id = ?", (event["run_id"],))


def _upsert_sql(table: Table) -> str:
    names = table.column_names()
    insert = (
        f"INSERT INTO {table.name} ({', '.join(names)}, seq) "
        f"VALUES ({', '.join('?' * (len(names) + 1))}) "
    )
    if not table.merges:
        return insert + "ON CONFLICT DO NOTHING"
    # A recorder's later event knows no cost; one that was reconciled stays.
    kept = {
        "estimated_cost_usd": "coalesce(excluded.estimated_cost_usd, estimated_cost_usd)",
        "cost_status": "coalesce(excluded.cost_status, cost_status)",
    }
    sets = ", ".join(
        f"{name} = {kept.get(name, f'excluded.{name}')}"
        for name in (*names, "seq")
        if name != table.key
    )
    return insert + (
        f"ON CONFLICT({table.key}) DO UPDATE SET {sets} "
        f"WHERE excluded.seq > coalesce({table.name}.seq, 0)"
    )


_UPSERTS: Final = {table.name: _upsert_sql(table) for table in EVENT_TABLES}


def _state_int(connection: sqlite3.Connection, key: str) -> int:
    return int(get_state(connection, key) or 0)


def _put_int(connection: sqlite3.Connection, key: str, value: int) -> None:
    put_state(connection, {key: str(value)})


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _lines_from(fd: int, offset: int, size: int) -> Iterator[bytes]:
    rest = b""
    while offset < size:
        block = os.pread(fd, min(1 << 20, size - offset), offset)
        if not block:
            break
        offset += len(block)
        *lines, rest = (rest + block).split(b"\n")
        yield from lines
    if rest:
        yield rest
