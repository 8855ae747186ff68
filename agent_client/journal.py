"""From rings to disk, exactly once: append to the log, index into SQLite, move the cursors.

Under one lock an appender (1) indexes what the log holds past the database's place in it (left
by a process that died between the two), (2) skips frames whose ring cursor says they are stored,
(3) appends the rest to the log and (4) commits rows, ring cursors, ``seq`` and the place in the
log in one transaction. The log is the truth and the database its index: dying after (3) is
repaired by (1), dying before it leaves the frames in their ring.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agent_client import schema
from agent_client.contract.tables import EVENT_TABLES
from agent_client.eventlog import UNREADABLE, EventLog, Line, Place, encode, is_in_place, parse
from agent_client.files import open_private, telemetry_dir
from agent_client.frames import decode
from agent_client.guard import note_fault
from agent_client.index import index
from agent_client.spool import Chunk, Ring
from agent_client.store import (
    DATABASE,
    connect,
    database_path,
    get_state,
    make_folder,
    put_state,
)

LOCK: Final = "journal.lock"
BAD_DATABASE: Final = ("malformed", "not a database", "corrupt")
CATCH_UP_LINES: Final = 1000
"""Lines indexed at once: enough for the batch to pay, little enough to hold in memory."""


@dataclass(frozen=True, slots=True)
class Intake:
    """A chunk of one ring with the ring's count of refused events.

    ``stored_k``: up to where a living writer knows the ring stored, should its cursor be gone.
    """

    chunk: Chunk
    refused: dict[str, int] = field(default_factory=dict)
    stored_k: int = 0


def oldest_chunks(rings: Sequence[Ring], max_events: int) -> list[Chunk]:
    """The oldest events of all rings, about so many, none before one that was emitted earlier.

    A run's later row replaces its earlier one, and hooks of one run come on many threads.
    """
    share = max_events // max(1, sum(ring.queued > 0 for ring in rings)) or 1
    chunks = [ring.read(share) for ring in rings]
    full = [chunk.frames[-1].n for chunk in chunks if len(chunk.frames) == share]
    if not full:
        return chunks
    bound = min(full)  # a full chunk's ring may hold more, all of it after this
    counts = [sum(frame.n <= bound for frame in chunk.frames) for chunk in chunks]
    return [_read_up_to(ring, count, bound) for ring, count in zip(rings, counts, strict=True)]


def _read_up_to(ring: Ring, count: int, bound: int) -> Chunk:
    """So many of the oldest frames, or fewer: the oldest may have overflowed since we looked."""
    while True:
        chunk = ring.read(count)
        count = sum(frame.n <= bound for frame in chunk.frames)
        if count == len(chunk.frames):
            return chunk


_INHERITED: list[sqlite3.Connection] = []
"""A forked child's copies of its parent's connections: SQLite allows neither use nor close."""


class Journal:
    """The writing end of one home; used by one thread at a time.

    Errors: ``write`` raises OSError or sqlite3.Error when nothing was committed;
    call again with the same intakes, what was stored is not stored twice.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.log = EventLog(telemetry_dir(home))
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
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
        self.log.close()
        fd, self._lock_fd = self._lock_fd, -1
        if fd >= 0:
            os.close(fd)

    @contextlib.contextmanager
    def locked(self) -> Iterator[sqlite3.Connection]:
        """The journal's lock and one IMMEDIATE transaction with the log caught up."""
        with self._exclusively():
            try:
                self.log.open()
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

    @contextlib.contextmanager
    def _exclusively(self) -> Iterator[None]:
        path = make_folder(self.home) / LOCK
        while True:
            if self._lock_fd < 0:
                self._lock_fd = open_private(path)
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX)
            if is_in_place(self._lock_fd, path):
                break
            # The folder's owner emptied it: a lock that nobody else can find keeps nobody out.
            self.close()
            make_folder(self.home)
        try:
            yield
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
        self.append(connection, [Line(event) for event in events])

    def append(self, connection: sqlite3.Connection, lines: list[Line]) -> None:
        """Append to the log, then index; inside ``locked``. A failed append is cut off again."""
        if not lines:
            return
        seq = _state_int(connection, "seq")
        first_seq = seq + 1
        for seq, line in enumerate(lines, start=first_seq):
            line.seq = seq
        place = self.log.append(b"".join(map(encode, lines)), first_seq)
        index(connection, lines)
        _put_int(connection, "seq", seq)
        _put_place(connection, place)

    def rotate(self, connection: sqlite3.Connection) -> None:
        """Close the segment that is written, for retention to work on; inside ``locked``."""
        self.log.rotate()
        _put_place(connection, self._end(_state_int(connection, "seq")))

    def rebuild(self) -> int:
        """Empty the tables and index the whole log again, to the same rows; returns lines read.

        One transaction: a reader sees the old rows or the new ones. Rows whose line the log does
        not hold (of a first-version database, or of a log that was cut, wherever) are nowhere
        else, so they stay. The ledger is no index and stays too. Errors: as ``write``.
        """
        with self.locked() as connection:
            found = map(parse, self.log.lines_after(Place()))
            held = _ranges(line.seq for line in found if line is not None)
            if not held:
                return 0
            for table in EVENT_TABLES:
                connection.executemany(f"DELETE FROM {table.name} WHERE seq BETWEEN ? AND ?", held)
            connection.execute("DELETE FROM tel_open_runs")
            # Else the errors' own numbers would go on from where they were.
            connection.execute("DELETE FROM sqlite_sequence WHERE name LIKE 'tel!_%' ESCAPE '!'")
            rings = connection.execute("SELECT * FROM tel_rings").fetchall()
            invalid = _state_int(connection, "loss.invalid")
            _put_place(connection, Place())
            read = self._catch_up(connection)
            connection.execute("DELETE FROM tel_rings")
            connection.executemany("INSERT INTO tel_rings VALUES (?, ?, ?, ?, ?, ?)", rings)
            _put_int(connection, "loss.invalid", invalid)
            return read

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
        """Index what the log holds past the database's place in it; returns the lines read."""
        place = Place(_state_int(connection, "log_segment"), _state_int(connection, "log_offset"))
        if place.segment and self.log.end() == place:
            return 0
        read, seq = 0, _state_int(connection, "seq")
        is_new = not place.segment and not seq
        after = self.log.lines_after(place)
        while batch := list(itertools.islice(after, CATCH_UP_LINES)):
            lines = [line for line in map(parse, batch) if line is not None]
            index(connection, lines)
            seq = max([seq, *(line.seq for line in lines)])
            read += len(lines)
        if is_new:
            _take_back_overflow(connection, seq - read)
        _put_int(connection, "seq", seq)
        # An end short of our place: the log was cut by other hands; the rows it fed are here.
        _put_place(connection, self._end(seq))
        return read

    def _end(self, seq: int) -> Place:
        """Where the log ends; a segment without a record will begin with the next ``seq``."""
        end = self.log.end()
        return end if end.segment else Place(seq + 1)

    def _fresh_lines(self, connection: sqlite3.Connection, intakes: Sequence[Intake]) -> list[Line]:
        lines: list[Line] = []
        for intake in intakes:
            ring_id, frames = intake.chunk.ring_id, intake.chunk.frames
            next_k = _open_ring(connection, intake)
            fresh = [frame for frame in frames if frame.k >= next_k]
            first_k = fresh[0].k if fresh else intake.chunk.end_k
            if first_k > next_k:
                connection.execute(
                    "UPDATE tel_rings SET overflow = overflow + ?, next_k = ? WHERE ring_id = ?",
                    (first_k - next_k, first_k, ring_id),
                )
            for frame in fresh:
                line = _decode_or_note(frame.payload)
                line.ring_id, line.k, line.n = ring_id, frame.k, frame.n
                lines.append(line)
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


def _decode_or_note(payload: bytes) -> Line:
    try:
        return decode(payload)
    except (ValueError, EOFError, TypeError, IndexError) as error:
        note_fault("journal.decode", error)
        return Line({"event": UNREADABLE})


def _open_ring(connection: sqlite3.Connection, intake: Intake) -> int:
    ring_id, refused = intake.chunk.ring_id, intake.refused
    # A cursor goes with its folder; where that could not be made, or was deleted, its process
    # lives on, and what it has stored is no loss.
    connection.execute(
        "INSERT OR IGNORE INTO tel_rings VALUES (?, ?, 0, 0, 0, 0)",
        (ring_id, intake.stored_k),
    )
    connection.execute(
        "UPDATE tel_rings SET encode = ?, too_large = ? WHERE ring_id = ?",
        (refused.get("encode", 0), refused.get("too_large", 0), ring_id),
    )
    row = connection.execute(
        "SELECT next_k FROM tel_rings WHERE ring_id = ?", (ring_id,)
    ).fetchone()
    return int(row[0])


def _take_back_overflow(connection: sqlite3.Connection, missing: int) -> None:
    """What a new database took for overflow though it was logged: its line has gone since.

    A line that retention took is missing from the numbers of its ring and of the log; what
    overflowed never had one in the log.
    """
    sql = "SELECT ring_id, overflow FROM tel_rings WHERE overflow > 0"
    for ring_id, overflow in connection.execute(sql).fetchall():
        part = min(missing, overflow)
        missing -= part
        connection.execute(
            "UPDATE tel_rings SET overflow = overflow - ? WHERE ring_id = ?", (part, ring_id)
        )


def _ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Ascending numbers as first and last of what goes without a gap."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        first = found.pop()[0] if found and found[-1][1] == number - 1 else number
        found.append((first, number))
    return found


def _state_int(connection: sqlite3.Connection, key: str) -> int:
    return int(get_state(connection, key) or 0)


def _put_int(connection: sqlite3.Connection, key: str, value: int) -> None:
    put_state(connection, {key: str(value)})


def _put_place(connection: sqlite3.Connection, place: Place) -> None:
    _put_int(connection, "log_segment", place.segment)
    _put_int(connection, "log_offset", place.offset)
