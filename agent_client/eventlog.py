"""The event log, the source of truth: the file that is appended to and the closed ones before it.

``events.jsonl`` is written. Once it is full, or of an earlier day, it is renamed to
``events-<seq of its first record>.jsonl``: those names sort as their records do, and a closed
segment never changes again, but that retention takes out what has expired. A place in the log is
a segment's first ``seq`` with an offset, so that a renamed file is still the same segment and no
kill around the rename can lose or double a line. Whoever changes a file here holds the journal's
lock.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent_client.files import open_private
from agent_client.guard import note_fault
from agent_client.store import LOG

SEGMENT_BYTES: Final = 32 * 1024 * 1024
"""Some 70,000 events. Retention rewrites a segment as a whole and needs that much free disk."""
DAY_S: Final = 86_400
"""A segment holds one UTC day's writing: retention then deletes whole files, and rewrites few."""
UNREADABLE: Final = "unreadable"
"""Stands in the log for an event that cannot be written down; counted as invalid."""

_CLOSED = re.compile(r"events-([0-9]{20})\.jsonl", re.ASCII)
_BLOCK_BYTES: Final = 1 << 20


@dataclass(slots=True)
class Line:
    """One event with its place: the ring and frame it came from ("" and -1: none), its ``seq``.

    ``values`` are the event's columns in storage order where they are known already.
    """

    event: dict[str, object]
    ring_id: str = ""
    k: int = -1
    n: int = 0
    seq: int = 0
    values: tuple[object, ...] | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """A segment by the ``seq`` of its first record (0: the oldest there is) and an offset in it."""

    segment: int = 0
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Segment:
    """A closed segment."""

    path: Path
    first_seq: int


def closed_segments(folder: Path) -> list[Segment]:
    """The closed segments, oldest first."""
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208  # names are all we want
    except OSError:
        return []
    found = ((name, _CLOSED.fullmatch(name)) for name in names)
    return [Segment(folder / name, int(match[1])) for name, match in found if match]


def log_files(folder: Path) -> list[Path]:
    """All files of the log that are there, oldest first."""
    paths = [segment.path for segment in closed_segments(folder)]
    active = folder / LOG
    return [*paths, active] if active.exists() else paths


def encode(line: Line) -> bytes:
    """The line's bytes; an event that has none must not hold up every event behind it."""
    try:
        return _dump(line)
    except (ValueError, TypeError, RecursionError) as error:
        note_fault("journal.encode", error)
        line.event, line.values = {"event": UNREADABLE}, None
        return _dump(line)


# ASCII: a lone surrogate from the host must not make the line unwritable.
_to_json: Final = json.JSONEncoder(separators=(",", ":"), default=str).encode


def _dump(line: Line) -> bytes:
    data = {**line.event, "seq": line.seq}
    if line.ring_id:
        data["_ring"], data["_k"] = line.ring_id, line.k
    return _to_json(data).encode("ascii") + b"\n"


def parse(raw: bytes) -> Line | None:
    """The line of these bytes; None for what is no record (a torn tail, other hands' text)."""
    try:
        data = json.loads(raw)
        ring_id, k, seq = data.pop("_ring", ""), data.pop("_k", -1), int(data.pop("seq"))
        return Line(data, str(ring_id), int(k), 0, seq)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def raw_lines(descriptor: int, offset: int, end: int) -> Iterator[bytes]:
    """The lines between two offsets, without their ends; the last one may be torn."""
    rest = b""
    while offset < end:
        block = os.pread(descriptor, min(_BLOCK_BYTES, end - offset), offset)
        if not block:
            break
        offset += len(block)
        *lines, rest = (rest + block).split(b"\n")
        yield from lines
    if rest:
        yield rest


def first_seq_of(descriptor: int) -> int:
    """The ``seq`` of a file's first record; 0 when it holds none."""
    # Nearly always the first line, and this is asked before every batch.
    head, is_whole, _ = os.pread(descriptor, 4096, 0).partition(b"\n")
    line = parse(head) if is_whole else None
    if line is None:
        found = map(parse, raw_lines(descriptor, 0, os.fstat(descriptor).st_size))
        line = next((line for line in found if line is not None), None)
    return line.seq if line is not None else 0


class EventLog:
    """The open end of a home's log. Errors: OSError from all methods."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fd = -1

    def open(self) -> None:
        """Hold the file that is written now: another process may have closed the one we held."""
        if self._fd >= 0 and not is_in_place(self._fd, self._folder / LOG):
            self.close()
        if self._fd < 0:
            self._fd = open_private(self._folder / LOG, os.O_RDWR | os.O_APPEND)

    def close(self) -> None:
        """Let go of the file."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def append(self, data: bytes, first_seq: int) -> Place:
        """Write whole lines whose first record has ``first_seq``; returns where the log now ends.

        What was written of a failed append is cut off again: the lock is ours, so are the bytes.
        """
        segment = 0 if self.is_due() and self.rotate() else first_seq_of(self._fd)
        before = self._size()
        if before and os.pread(self._fd, 1, before - 1) != b"\n":
            # A torn last line is ended first, or it would swallow the next good record.
            data = b"\n" + data
        try:
            _write_all(self._fd, data)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, before)
            raise
        return Place(segment or first_seq, self._size())

    def rotate(self) -> bool:
        """Close the segment that is written and begin another; False when it holds no record."""
        segment = first_seq_of(self._fd)
        target = self._folder / f"events-{segment:020}.jsonl"
        if not segment or target.exists():
            return False
        (self._folder / LOG).rename(target)
        # A kill here: the next to come makes the file that is missing.
        self.close()
        self.open()
        return True

    def is_due(self) -> bool:
        """Whether the segment that is written is full or of an earlier day."""
        status = os.fstat(self._fd)
        day = int(status.st_mtime) // DAY_S
        return status.st_size >= SEGMENT_BYTES or (
            status.st_size > 0 and day != int(time.time()) // DAY_S
        )

    def end(self) -> Place:
        """Where the segment that is written ends; ``segment`` is 0 while it holds no record."""
        return Place(first_seq_of(self._fd), self._size())

    def lines_after(self, place: Place) -> Iterator[bytes]:
        """Every line past a place, of all segments in order."""
        end = self.end()
        # Once, where both are 0: a new database, and a log whose last segment was just closed.
        is_near = 0 < place.segment == end.segment
        closed = [] if is_near else closed_segments(self._folder)
        # A first version's place names no segment: its log had but the one.
        begin = place.segment or (closed[0].first_seq if closed else end.segment)
        for segment in closed:
            if segment.first_seq >= begin:
                start = place.offset if segment.first_seq == begin else 0
                yield from _lines_of(segment, start)
        if end.segment and end.segment >= begin:
            start = place.offset if end.segment == begin else 0
            yield from raw_lines(self._fd, start, end.offset)

    def _size(self) -> int:
        return os.fstat(self._fd).st_size


def _lines_of(segment: Segment, offset: int) -> Iterator[bytes]:
    descriptor = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield from raw_lines(descriptor, offset, os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)


def is_in_place(descriptor: int, path: Path) -> bool:
    """Whether an open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
