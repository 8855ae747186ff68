"""Mapped files: reserved whole, and ready for stores where the kernel can do it."""

from __future__ import annotations

import mmap
from itertools import count
from pathlib import Path

import pytest

from agent_client import pages
from agent_client.spool import HEADER_BYTES, Ring


def test_a_file_is_the_owners_whole_and_new(tmp_path: Path) -> None:
    memory = pages.map_file(tmp_path / "a", 100_000)
    status = (tmp_path / "a").stat()
    assert (status.st_mode & 0o777, status.st_size) == (0o600, 100_000)
    assert status.st_blocks * 512 >= 100_000
    memory.close()
    with pytest.raises(FileExistsError):
        pages.map_file(tmp_path / "a", 100_000)


def test_pages_that_cannot_be_made_ready_are_met_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "_MADV_POPULATE_WRITE", 9_999)
    with mmap.mmap(-1, 8192) as memory:
        pages.make_ready(memory, 0, 8192)
        pages.make_ready(memory, 4096, 10**9)
        assert memory[:] == bytes(8192)


def test_a_ring_makes_its_pages_ready_once_and_ahead_of_its_frames(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(
        "agent_client.spool.make_ready", lambda _memory, start, size: asked.append((start, size))
    )
    capacity = 2 * pages.STRIDE_BYTES + 4096
    ring = Ring("p.0", mmap.mmap(-1, HEADER_BYTES + capacity), count(), capacity)
    for _ in range(1000):
        assert ring.append(b"x" * 400)
    stride = pages.STRIDE_BYTES
    assert asked == [
        (HEADER_BYTES, stride),
        (HEADER_BYTES + stride, stride),
        (HEADER_BYTES + 2 * stride, 4096),
    ]
