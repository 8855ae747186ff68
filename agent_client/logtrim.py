"""Takes expired lines out of a closed segment of the log, some milliseconds at a time."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

from agent_client.contract.tables import BY_EVENT, EVENT_TABLES, RUNS
from agent_client.eventlog import Line, parse
from agent_client.files import open_private
from agent_client.store import database_path

STEP_BYTES: Final = 1 << 19
"""Log read in one step: about ten milliseconds of parsing."""

IS_OPEN: Final = "end_ns IS NULL AND run_id IN (SELECT run_id FROM tel_open_runs)"
"""A run of a living process: it stays whatever its age."""
LATEST: Final = {
    table.name: f"max(coalesce({table.time}, 0), coalesce(end_ns, 0))" for table in EVENT_TABLES
}
"""A row's latest time by its table: what its age goes by."""
_RUN: Final = f"SELECT {LATEST[RUNS.name]}, {IS_OPEN} FROM tel_runs WHERE run_id = ?"


class SegmentTrim:
    """One segment's trim: ``read`` it, then ``write_kept`` beside it and ``put`` that in its place.

    ``kept`` are the ranges of bytes that stay; lines are told apart by time, and a run's early
    lines stay as long as its row does: together they make it again.
    """

    def __init__(self, home: Path, cutoff_ns: int, path: Path) -> None:
        self._home = home
        self._cutoff_ns = cutoff_ns
        self._path = path
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._status = path.stat()
        self.kept: list[tuple[int, int]] = []
        self.dropped_bytes = 0
        self.oldest_kept_ns = self._status.st_mtime_ns

    def read(self) -> Iterator[None]:
        """Judge every line, a step at each ``next``."""
        offset = 0
        while offset < self._status.st_size:
            with closing(sqlite3.connect(database_path(self._home), timeout=5)) as connection:
                lines = self._some_lines(offset)
                for raw in lines:
                    end = min(offset + len(raw) + 1, self._status.st_size)
                    self._take(connection, raw, offset, end)
                    offset = end
            if not lines:
                return  # another prune made it shorter meanwhile: ``put`` leaves it alone
            yield

    def _some_lines(self, offset: int) -> list[bytes]:
        """About a step's bytes of whole lines."""
        with self._path.open("rb") as file:
            file.seek(offset)
            return [line.removesuffix(b"\n") for line in file.readlines(STEP_BYTES)]

    def _take(self, connection: sqlite3.Connection, raw: bytes, start: int, end: int) -> None:
        line = parse(raw)
        # A line without a time (torn, of a later version) is as old as the segment's last append.
        latest_ns = _latest_ns(line) if line is not None else None
        latest_ns = self._status.st_mtime_ns if latest_ns is None else latest_ns
        if latest_ns < self._cutoff_ns and not self._is_of_kept_run(connection, line):
            self.dropped_bytes += end - start
            return
        self.oldest_kept_ns = min(self.oldest_kept_ns, latest_ns)
        if self.kept and self.kept[-1][1] == start:
            start = self.kept.pop()[0]
        self.kept.append((start, end))

    def _is_of_kept_run(self, connection: sqlite3.Connection, line: Line | None) -> bool:
        if line is None or line.event.get("event") != RUNS.event:
            return False
        run_id = line.event.get("run_id")
        row = connection.execute(_RUN, (run_id if isinstance(run_id, str) else None,)).fetchone()
        return row is not None and bool(row[0] >= self._cutoff_ns or row[1])

    def write_kept(self) -> Iterator[None]:
        """Write what stays beside the segment, synced and dated like it; nothing when none does."""
        if not self.kept:
            return
        self._temporary.unlink(missing_ok=True)
        for some in _portions(self.kept):
            with (
                self._path.open("rb") as source,
                os.fdopen(open_private(self._temporary, os.O_WRONLY | os.O_APPEND), "wb") as file,
            ):
                for start, end in some:
                    source.seek(start)
                    file.write(source.read(end - start))
            yield
        with self._temporary.open("rb") as file:
            os.utime(file.fileno(), ns=(self._status.st_atime_ns, self._status.st_mtime_ns))
            os.fsync(file.fileno())

    def put(self) -> bool:
        """Replace or delete the segment, under the journal's lock; False: another was first.

        Nothing is done to one that holds nothing expired.
        """
        try:
            status = self._path.stat()
            is_same = (
                os.path.samestat(status, self._status) and status.st_size == self._status.st_size
            )
        except OSError:
            is_same = False
        if not is_same:
            self._temporary.unlink(missing_ok=True)
        elif not self.kept:
            self._path.unlink()
        elif self.dropped_bytes:
            self._temporary.replace(self._path)
        return is_same


def _portions(ranges: list[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """The ranges again, cut and gathered into steps."""
    some: list[tuple[int, int]] = []
    room = STEP_BYTES
    for start, end in ranges:
        while start < end:
            part = min(room, end - start)
            some.append((start, start + part))
            start += part  # noqa: PLW2901  # the range is used up
            room -= part
            if not room:
                yield some
                some, room = [], STEP_BYTES
    if some:
        yield some


def _latest_ns(line: Line) -> int | None:
    table = BY_EVENT.get(str(line.event.get("event")))
    names = (table.time, "end_ns") if table else ("start_ns", "ts_ns", "end_ns")
    times = [value for value in map(line.event.get, names) if isinstance(value, int)]
    return max(times, default=None)
