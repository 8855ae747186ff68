"""Memory-mapped rings: an event appended here survives the death of the process.

``append`` copies bytes into mapped pages of a file; the kernel keeps those pages
when the process is killed, so nothing on the path waits for a disk and nothing
accepted is lost (a power cut may lose what was not yet written back).

A ring has one producer thread and one consumer (the writer thread, or the
process that recovers it). A signal handler that emits inside its own thread's
``append`` is told so (False) and takes another ring. A frame is ``crc32,
length, k, n, payload``, padded to 8 bytes: ``k`` counts a ring's frames without
a gap, ``n`` orders frames across the rings of a process. A reader trusts a
frame only when its checksum, seeded with the expected ``k``, fits: torn and
stale frames fail it.

A process's folder is ``spool/<process id>``: ``lock`` (held while it lives) and ``<number>.ring``.
"""

from __future__ import annotations

import fcntl
import itertools
import mmap
import os
import shutil
import struct
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from zlib import crc32

from agent_client.pages import STRIDE_BYTES, make_ready, map_file

MAGIC: Final = b"HFSPOOL1"
HEADER_BYTES: Final = 4096
"""One page, so that frames start page-aligned."""
CAPACITY_BYTES: Final = 4 * 1024 * 1024
"""10,000 events of about 350 bytes fit; the file is reserved whole so a store cannot SIGBUS."""
MAX_FRAMES: Final = 10_000
"""The specification's bound on queued events; above it the oldest go first."""
MAX_PAYLOAD_BYTES: Final = 64 * 1024
"""A real event is under 1 KiB; larger ones would let one caller push out everyone's events."""
HOT_BYTES: Final = STRIDE_BYTES
"""A ring that is empty beyond this begins again at its front: drained, it needs few pages."""
STALE_NEW_S: Final = 3600
"""A folder half-made by a process that died is removed after this."""

_FRAME = struct.Struct("=IIQQ")
_FRAME_BYTES: Final = _FRAME.size
_U64 = struct.Struct("=Q")
_OFFSET_TAIL: Final = 16
_OFFSET_REFUSED: Final = 32
_WRAP: Final = 0xFFFFFFFF
_MASK: Final = 0xFFFFFFFF
REFUSED_REASONS: Final = ("encode", "too_large")
"""Counters kept in the ring's header: what ``emit`` refused, and why."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One event as read back: its number in the ring, its place among all rings, its bytes."""

    k: int
    n: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Chunk:
    """Frames copied out of a ring and the position to release up to once they are durable."""

    ring_id: str
    frames: tuple[Frame, ...]
    end_offset: int
    end_k: int


class Ring:
    """One mapped ring: ``append`` by one thread, ``read`` and ``release`` by the consumer."""

    __slots__ = (
        "_is_appending",
        "_lock",
        "_numbers",
        "capacity",
        "end",
        "map",
        "ready",
        "refused",
        "ring_id",
        "stored_k",
        "tail",
        "tail_k",
    )

    def __init__(
        self, ring_id: str, memory: mmap.mmap, numbers: Iterator[int], capacity: int
    ) -> None:
        self.ring_id = ring_id
        self.map = memory
        self.capacity = capacity
        # Offset and number of the next frame, moved by one store: whatever a signal handler
        # raises between two bytecodes of an append, the frame is in or it is not.
        self.end = (0, 0)
        self.tail = self.tail_k = self.stored_k = 0
        self._is_appending = False
        self.ready = 0  # bytes of the ring whose pages are mapped: see ``pages``
        self.refused = dict.fromkeys(REFUSED_REASONS, 0)
        self._numbers = numbers
        # Re-entrant: a signal handler may emit while its own thread makes room.
        self._lock = threading.RLock()

    @property
    def head(self) -> int:
        """Offset of the next frame."""
        return self.end[0]

    @property
    def k(self) -> int:
        """Number of the next frame: how many were appended."""
        return self.end[1]

    @property
    def queued(self) -> int:
        """Frames appended and not yet released."""
        return self.end[1] - self.tail_k

    def append(self, payload: bytes) -> bool:
        """Copy one payload in; the oldest frames make room. No system call on this path.

        False, and nothing done, inside another append of this ring. Only a signal handler gets
        there (no bytecode between the look and the mark lets one in), and what it wrote, the
        append that it interrupted would overwrite.
        """
        if self._is_appending:
            return False
        self._is_appending = True
        try:
            length = len(payload)
            size = (_FRAME_BYTES + length + 7) & ~7
            head, k = self.end
            position = head % self.capacity
            if position > HOT_BYTES and self.tail == head:
                head = self._begin_again()
                position = head % self.capacity
            room = self.capacity - position
            need = size if size <= room else room + size
            if head + need - self.tail > self.capacity or k - self.tail_k >= MAX_FRAMES:
                self._make_room(need)
            if size > room:
                if room >= _FRAME_BYTES:
                    start = HEADER_BYTES + position
                    self.map[start : start + _FRAME_BYTES] = _FRAME.pack(0, _WRAP, k, 0)
                head += room
                position = 0
            if position + size > self.ready < self.capacity:
                ahead = min(STRIDE_BYTES, self.capacity - self.ready)
                make_ready(self.map, HEADER_BYTES + self.ready, ahead)
                self.ready += ahead
            start = HEADER_BYTES + position
            self.map[start : start + _FRAME_BYTES + length] = (
                _FRAME.pack(crc32(payload, k & _MASK), length, k, next(self._numbers)) + payload
            )
            self.end = (head + size, k + 1)
        finally:
            self._is_appending = False
        return True

    def _begin_again(self) -> int:
        """Move an empty ring to its front, unless the writer is looking; where its head is then."""
        head, k = self.end
        if self._lock.acquire(blocking=False):
            try:
                if self.tail == head:
                    head += self.capacity - head % self.capacity
                    # Killed here, the tail points at an old frame: its number says it is stored.
                    self._move_tail(head, k)
                    self.end = (head, k)
            finally:
                self._lock.release()
        return head

    def refuse(self, reason: str) -> None:
        """Count an event that was not accepted, where a recovering process finds the count."""
        with self._lock:
            self.refused[reason] += 1
            slot = _OFFSET_REFUSED + 8 * REFUSED_REASONS.index(reason)
            self.map[slot : slot + 8] = _U64.pack(self.refused[reason])

    def read(self, max_frames: int) -> Chunk:
        """Copy out up to ``max_frames`` of the oldest frames.

        The lock keeps the producer from re-using their bytes meanwhile; it waits only if full.
        """
        with self._lock:
            return read_frames(
                self.map, self.ring_id, self.tail, self.tail_k, self.capacity, max_frames, self.k
            )

    def release(self, chunk: Chunk) -> None:
        """Give a durable chunk's bytes back, unless the producer already took them."""
        with self._lock:
            self.stored_k = max(self.stored_k, chunk.end_k)
            if chunk.end_k > self.tail_k:
                self._move_tail(chunk.end_offset, chunk.end_k)

    def _make_room(self, need: int) -> None:
        with self._lock:
            (head, end_k), tail, tail_k = self.end, self.tail, self.tail_k
            while tail_k < end_k and (
                head + need - tail > self.capacity or end_k - tail_k >= MAX_FRAMES
            ):
                header = _header_at(self.map, tail, tail_k, self.capacity)
                if header is None:
                    tail_k = end_k  # our own pages no longer read back: give them up, do not spin
                else:
                    tail, tail_k = header[0], tail_k + 1
            self._move_tail(head if tail_k == end_k else tail, tail_k)

    def _move_tail(self, offset: int, k: int) -> None:
        # One aligned 8-byte store: a kill leaves the old tail or the new one, nothing between.
        self.map[_OFFSET_TAIL : _OFFSET_TAIL + 8] = _U64.pack(offset)
        self.tail, self.tail_k = offset, k

    def close(self) -> None:
        """Unmap; the file stays until ``Spool.remove``."""
        self.map.close()


def read_frames(
    memory: mmap.mmap | bytes,
    ring_id: str,
    tail: int,
    tail_k: int,
    capacity: int,
    max_frames: int,
    end_k: int | None = None,
) -> Chunk:
    """Frames from ``tail`` on, while they are whole, in sequence and below ``end_k``."""
    frames: list[Frame] = []
    offset, k = tail, tail_k
    while len(frames) < max_frames and (end_k is None or k < end_k):
        found = _frame_at(memory, offset, k, capacity)
        if found is None:
            break
        frame, offset = found
        frames.append(frame)
        k += 1
    return Chunk(ring_id, tuple(frames), offset, k)


def _frame_at(
    memory: mmap.mmap | bytes, offset: int, k: int, capacity: int
) -> tuple[Frame, int] | None:
    header = _header_at(memory, offset, k, capacity)
    if header is None:
        return None
    end_offset, start, length, n, crc = header
    payload = bytes(memory[start : start + length])
    if crc32(payload, k & _MASK) != crc:
        return None
    return Frame(k, n, payload), end_offset


def _header_at(
    memory: mmap.mmap | bytes, offset: int, k: int, capacity: int
) -> tuple[int, int, int, int, int] | None:
    """Offset after frame ``k``, its payload's start and length, n, checksum; not yet verified."""
    for _ in range(2):
        position = offset % capacity
        room = capacity - position
        if room < _FRAME_BYTES:
            offset += room
            continue
        start = HEADER_BYTES + position
        crc, length, frame_k, n = _FRAME.unpack_from(memory, start)
        if length == _WRAP and frame_k == k:
            offset += room
            continue
        # A page of zeros must not read as frame 0: a frame is never empty.
        if frame_k != k or not 0 < length <= min(MAX_PAYLOAD_BYTES, room - _FRAME_BYTES):
            return None
        after = offset + ((_FRAME_BYTES + length + 7) & ~7)
        return after, start + _FRAME_BYTES, length, n, crc
    return None


class Spool:
    """The rings of this process: one a thread up to a bound, then a shared one.

    Errors: none from ``new_ring``: without a usable disk a ring lives in
    anonymous memory (``is_durable`` turns False) and dies with the process.
    """

    def __init__(self, folder: Path, *, capacity: int = CAPACITY_BYTES) -> None:
        self.process_id = uuid.uuid4().hex
        self.is_durable = True
        self.rings: list[Ring] = []
        self._capacity = capacity
        self._numbers = itertools.count()
        self._ring_numbers = itertools.count()
        self._lock_fd = -1
        self._folder = folder / self.process_id
        try:
            self._make_folder(folder)
        except OSError:
            self.is_durable = False

    def _make_folder(self, folder: Path) -> None:
        # One at a time: parents made by the way get the process's default mode, open to others.
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        fresh = folder / f".new-{self.process_id}"
        fresh.mkdir(mode=0o700)
        self._lock_fd = os.open(fresh / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock_fd, fcntl.LOCK_EX)
        # Locked before it is visible: nobody can take a living process for a dead one.
        fresh.rename(self._folder)

    def new_ring(self, capacity: int = 0) -> Ring:
        """A ring of its own file, reserved whole; in memory when the disk will not."""
        capacity = capacity or self._capacity
        # Not the length of the list: a signal handler that emits may come in between.
        ring_id = f"{self.process_id}.{next(self._ring_numbers)}"
        memory = self._map(ring_id, HEADER_BYTES + capacity)
        ring = Ring(ring_id, memory, self._numbers, capacity)
        ring.map[:24] = MAGIC + _U64.pack(capacity) + _U64.pack(0)
        self.rings.append(ring)
        return ring

    def _map(self, ring_id: str, size: int) -> mmap.mmap:
        if self.is_durable:
            path = self._folder / f"{ring_id.rpartition('.')[2]}.ring"
            try:
                return map_file(path, size)
            except OSError:
                self.is_durable = False
        return mmap.mmap(-1, size)

    def remove(self) -> None:
        """Unmap and delete: everything in the rings is durable elsewhere."""
        for ring in self.rings:
            ring.close()
        if self._lock_fd >= 0:
            _delete_folder(self._folder)
        self.abandon()

    def abandon(self) -> None:
        """Let go without deleting, as a forked child or a stopped writer must."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1


@dataclass(frozen=True, slots=True)
class DeadRing:
    """A ring left by a process that is gone."""

    path: Path
    ring_id: str
    chunk: Chunk
    refused: dict[str, int]


class DeadSpool:
    """The spool of a dead process, held under its lock until ``remove`` or ``release``."""

    def __init__(self, folder: Path, lock_fd: int) -> None:
        self.folder = folder
        self.process_id = folder.name
        self._lock_fd = lock_fd

    def rings(self) -> list[DeadRing]:
        """Every ring with all frames that were accepted and not yet released."""
        found = []
        for path in sorted(self.folder.glob("*.ring")):
            ring = _read_dead(path, f"{self.process_id}.{path.stem}")
            if ring is not None:
                found.append(ring)
        return found

    def remove(self) -> None:
        """Delete the folder; call only after its frames are durable."""
        _delete_folder(self.folder)
        self.release()

    def release(self) -> None:
        """Give up the lock and keep the files for the next one."""
        os.close(self._lock_fd)


def _delete_folder(folder: Path) -> None:
    """Out of sight first: killed between two files, a folder without its lock would seem alive."""
    hidden = folder.with_name(f".new-{folder.name}")
    try:
        folder.rename(hidden)
    except OSError:
        return
    shutil.rmtree(hidden, ignore_errors=True)


def _read_dead(path: Path, ring_id: str) -> DeadRing | None:
    data = path.read_bytes()
    if len(data) < HEADER_BYTES + _FRAME_BYTES or data[:8] != MAGIC:
        return None
    capacity = _U64.unpack_from(data, 8)[0]
    tail = _U64.unpack_from(data, _OFFSET_TAIL)[0]
    if capacity != len(data) - HEADER_BYTES:
        return None
    refused = {
        reason: _U64.unpack_from(data, _OFFSET_REFUSED + 8 * slot)[0]
        for slot, reason in enumerate(REFUSED_REASONS)
    }
    first_k = _k_at(data, tail, capacity)
    chunk = read_frames(data, ring_id, tail, first_k, capacity, MAX_FRAMES + 1)
    if not chunk.frames:
        # No checksum vouches for first_k: taken for a number it would pass for lost events.
        chunk = Chunk(ring_id, (), tail, 0)
    return DeadRing(path, ring_id, chunk, refused)


def _k_at(data: bytes, tail: int, capacity: int) -> int:
    position = tail % capacity
    is_short = capacity - position < _FRAME_BYTES
    return int(_FRAME.unpack_from(data, HEADER_BYTES + (0 if is_short else position))[2])


def living_processes(folder: Path) -> set[str]:
    """Ids of processes whose spool lock is held."""
    alive = set()
    for path in _folders(folder):
        fd = _try_lock(path)
        if fd is None:
            alive.add(path.name)
        else:
            os.close(fd)
    return alive


def known_processes(folder: Path) -> set[str]:
    """Ids of processes, living or dead, whose spool is still on disk."""
    return {path.name for path in _folders(folder)}


def dead_spools(folder: Path) -> Iterator[DeadSpool]:
    """Spools whose process is gone, each locked for the caller, who removes or releases it."""
    _sweep(folder)
    for path in _folders(folder):
        fd = _try_lock(path)
        if fd is not None and fd >= 0:
            yield DeadSpool(path, fd)


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:
        return []


def _try_lock(path: Path) -> int | None:
    """The locked descriptor of a dead process's folder; None while it lives or cannot be told."""
    try:
        fd = os.open(path / "lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return None
    return fd


def _sweep(folder: Path) -> None:
    """Remove folders that a process died half-way through making."""
    for path in folder.glob(".new-*"):
        try:
            if time.time() - path.stat().st_mtime > STALE_NEW_S:
                shutil.rmtree(path, ignore_errors=True)
        except OSError:
            continue
