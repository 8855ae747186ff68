"""Rings in mapped files: order, room, damage, and who is alive."""

from __future__ import annotations

import errno
import itertools
import mmap
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_client import spool as spool_module
from agent_client.spool import (
    HEADER_BYTES,
    MAX_FRAMES,
    DeadRing,
    Ring,
    Spool,
    dead_spools,
    known_processes,
    living_processes,
)

SMALL = 4096
FRAME_BYTES = 24


def anonymous_ring(capacity: int = SMALL) -> Ring:
    return Ring("p.0", mmap.mmap(-1, HEADER_BYTES + capacity), itertools.count(), capacity)


def payloads(ring: Ring, most: int = MAX_FRAMES) -> list[bytes]:
    return [frame.payload for frame in ring.read(most).frames]


def left_by_the_dead(folder: Path) -> list[DeadRing]:
    """What the spools of dead processes hold; they stay where they are."""
    found = []
    for dead in dead_spools(folder):
        found.extend(dead.rings())
        dead.release()
    return found


def abandoned(tmp_path: Path, *events: bytes, capacity: int = SMALL) -> Ring:
    """A ring whose process let go of it without storing anything."""
    spool = Spool(tmp_path, capacity=capacity)
    ring = spool.new_ring()
    for event in events:
        ring.append(event)
    spool.abandon()
    return ring


steps = st.lists(
    st.tuples(st.just("append"), st.integers(1, 900))
    | st.tuples(st.just("drain"), st.integers(0, 20)),
    max_size=60,
)


@given(steps)
def test_a_ring_agrees_with_a_list_whatever_is_appended_and_drained(
    steps: list[tuple[str, int]],
) -> None:
    ring, appended, released = anonymous_ring(), list[bytes](), 0
    for action, number in steps:
        if action == "append":
            appended.append(bytes([len(appended) % 251 + 1]) * number)
            ring.append(appended[-1])
        else:
            chunk = ring.read(number)
            released += len(chunk.frames)
            ring.release(chunk)
        assert payloads(ring) == appended[ring.tail_k :]
        assert ring.head - ring.tail <= SMALL
        assert released <= ring.tail_k <= ring.k == len(appended)


@given(steps)
def test_an_empty_ring_that_begins_again_at_its_front_agrees_too(
    steps: list[tuple[str, int]],
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool_module, "HOT_BYTES", 1000)
        ring, appended = anonymous_ring(), list[bytes]()
        ring.map[:24] = spool_module.MAGIC + SMALL.to_bytes(8, "little") + bytes(8)
        for action, number in steps:
            if action == "append":
                appended.append(bytes([len(appended) % 251 + 1]) * min(number, 300))
                ring.append(appended[-1])
            else:
                ring.release(ring.read(number))
            assert payloads(ring) == appended[ring.tail_k :]
            if ring.queued:
                data = bytes(ring.map)
                tail = int.from_bytes(data[16:24], "little")
                first_k = spool_module._k_at(data, tail, SMALL)
                found = spool_module.read_frames(data, "p.0", tail, first_k, SMALL, MAX_FRAMES)
                assert found.frames == ring.read(MAX_FRAMES).frames


def test_a_ring_that_is_kept_drained_uses_few_of_its_pages() -> None:
    ring = anonymous_ring(1024 * 1024)
    for number in range(20_000):
        ring.append(b"x" * 300)
        if number % 20 == 0:
            ring.release(ring.read(MAX_FRAMES))
    used = HEADER_BYTES + spool_module.HOT_BYTES + 21 * 344
    assert not any(ring.map[used:])
    assert ring.k == 20_000


def test_a_ring_that_began_again_holds_as_much_as_before() -> None:
    ring = anonymous_ring(1024 * 1024)
    while ring.head <= spool_module.HOT_BYTES:
        ring.append(b"x" * 1000)
    ring.release(ring.read(MAX_FRAMES))
    for _ in range(1000):
        ring.append(b"x" * 1000)
    assert ring.queued == 1000


class Numbers(Iterator[int]):
    """Numbers of frames; asked for the next one in the middle of an append, it does something."""

    def __init__(self, do: Callable[[], object]) -> None:
        self.do: Callable[[], object] | None = do
        self.count = itertools.count()

    def __next__(self) -> int:
        do, self.do = self.do, None
        if do is not None:
            do()
        return next(self.count)


def test_an_append_inside_an_append_is_refused_and_harms_nothing() -> None:
    answers: list[bool] = []
    ring = anonymous_ring()
    ring._numbers = Numbers(lambda: answers.append(ring.append(b"inner")))
    assert ring.append(b"outer")
    assert answers == [False]
    assert ring.append(b"later")
    assert payloads(ring) == [b"outer", b"later"]


def test_an_append_that_a_signal_breaks_off_leaves_no_trace() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    ring = anonymous_ring()
    ring.append(b"before")
    ring._numbers = Numbers(interrupt)
    with pytest.raises(KeyboardInterrupt):
        ring.append(b"broken off")
    assert ring.append(b"after")
    assert payloads(ring) == [b"before", b"after"]


@given(st.lists(st.integers(1, 900), max_size=40), st.integers(0, 39))
def test_a_dead_ring_reads_back_what_a_living_one_holds(sizes: list[int], drained: int) -> None:
    ring = anonymous_ring()
    ring.map[:24] = spool_module.MAGIC + SMALL.to_bytes(8, "little") + bytes(8)
    for number, size in enumerate(sizes):
        ring.append(bytes([number + 1]) * size)
        if number == drained:
            ring.release(ring.read(10))
    data = bytes(ring.map)
    tail = int.from_bytes(data[16:24], "little")
    first_k = spool_module._k_at(data, tail, SMALL)
    found = spool_module.read_frames(data, "p.0", tail, first_k, SMALL, MAX_FRAMES)
    if ring.queued:
        assert found.frames == ring.read(MAX_FRAMES).frames
        assert found.end_k == ring.k


def test_a_ring_never_drops_while_there_is_room() -> None:
    ring = anonymous_ring()
    for _ in range(SMALL // 128):
        ring.append(bytes([1]) * (128 - FRAME_BYTES))
    assert (ring.queued, ring.tail_k) == (32, 0)


def test_the_oldest_make_room_and_only_as_many_as_needed() -> None:
    ring = anonymous_ring()
    for number in range(40):
        ring.append(bytes([number + 1]) * (128 - FRAME_BYTES))
    assert [payload[0] - 1 for payload in payloads(ring)] == list(range(8, 40))


def test_a_ring_holds_at_most_ten_thousand_events() -> None:
    ring = anonymous_ring(1024 * 1024)
    for _ in range(MAX_FRAMES + 7):
        ring.append(b"x")
    assert (ring.queued, ring.tail_k, ring.k) == (10_000, 7, 10_007)


def test_releasing_a_chunk_the_producer_overran_takes_nothing_more() -> None:
    ring = anonymous_ring()
    ring.append(b"first")
    chunk = ring.read(1)
    for _ in range(40):
        ring.append(b"x" * 200)
    before = (ring.tail, ring.tail_k)
    ring.release(chunk)
    assert (ring.tail, ring.tail_k) == before


def test_a_living_ring_with_damaged_pages_gives_them_up_and_goes_on() -> None:
    ring = anonymous_ring()
    for _ in range(16):
        ring.append(b"x" * 200)
    ring.map[HEADER_BYTES:] = bytes(SMALL)
    for number in range(20):
        ring.append(bytes([number + 1]) * 200)
    assert payloads(ring)[-1] == bytes([20]) * 200
    assert payloads(ring) == [bytes([n + 1]) * 200 for n in range(20 - ring.queued, 20)]


def test_the_dead_leave_everything_they_had_not_stored(tmp_path: Path) -> None:
    abandoned(tmp_path, b"one", b"two")
    (ring,) = left_by_the_dead(tmp_path)
    assert [(frame.k, frame.n, frame.payload) for frame in ring.chunk.frames] == [
        (0, 0, b"one"),
        (1, 1, b"two"),
    ]


def test_the_order_of_events_holds_across_the_rings_of_a_process(tmp_path: Path) -> None:
    spool = Spool(tmp_path, capacity=SMALL)
    first, second = spool.new_ring(), spool.new_ring()
    for ring, payload in ((first, b"a"), (second, b"b"), (first, b"c")):
        ring.append(payload)
    frames = [*first.read(9).frames, *second.read(9).frames]
    spool.remove()
    assert [f.payload for f in sorted(frames, key=lambda f: f.n)] == [b"a", b"b", b"c"]


def test_a_torn_last_frame_is_not_taken_for_an_event(tmp_path: Path) -> None:
    ring = abandoned(tmp_path, b"whole", b"torn-by-the-kill")
    place = HEADER_BYTES + 32 + FRAME_BYTES + 5
    ring.map[place : place + 1] = b"\x00"
    (dead,) = left_by_the_dead(tmp_path)
    assert [frame.payload for frame in dead.chunk.frames] == [b"whole"]


def test_frames_of_an_earlier_lap_are_not_read_again(tmp_path: Path) -> None:
    spool = Spool(tmp_path, capacity=SMALL)
    ring = spool.new_ring()
    for number in range(50):
        ring.append(bytes([number + 1]) * 100)
        ring.release(ring.read(1))
    ring.append(b"the only one")
    spool.abandon()
    (dead,) = left_by_the_dead(tmp_path)
    assert [(frame.k, frame.payload) for frame in dead.chunk.frames] == [(50, b"the only one")]


def test_a_ring_nothing_was_written_to_reads_as_empty(tmp_path: Path) -> None:
    abandoned(tmp_path)
    (dead,) = left_by_the_dead(tmp_path)
    assert (dead.chunk.frames, dead.chunk.end_k) == ((), 0)


def test_a_garbled_frame_counts_nothing_as_lost(tmp_path: Path) -> None:
    ring = abandoned(tmp_path, b"event")
    ring.map[HEADER_BYTES + 8 : HEADER_BYTES + 16] = b"\xff" * 8
    (dead,) = left_by_the_dead(tmp_path)
    assert (dead.chunk.frames, dead.chunk.end_k) == ((), 0)


def test_what_was_refused_is_counted_where_the_next_process_finds_it(tmp_path: Path) -> None:
    ring = abandoned(tmp_path, b"event")
    ring.refuse("encode")
    ring.refuse("too_large")
    ring.refuse("too_large")
    (dead,) = left_by_the_dead(tmp_path)
    assert dead.refused == {"encode": 1, "too_large": 2}


def truncate(path: Path) -> None:
    os.truncate(path, HEADER_BYTES)


def shorten(path: Path) -> None:
    os.truncate(path, HEADER_BYTES + 100)


def forget_the_magic(path: Path) -> None:
    path.write_bytes(bytes(8) + path.read_bytes()[8:])


def leave_room_for_no_frame(path: Path) -> None:
    header = spool_module.MAGIC + (9).to_bytes(8, "little")
    path.write_bytes(header.ljust(HEADER_BYTES + 9, b"\0"))


@pytest.mark.parametrize("damage", [truncate, shorten, forget_the_magic, leave_room_for_no_frame])
def test_a_file_that_is_no_ring_is_left_out(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    ring = abandoned(tmp_path, b"event")
    damage(tmp_path / ring.ring_id.partition(".")[0] / "0.ring")
    assert left_by_the_dead(tmp_path) == []


def test_a_process_lives_as_long_as_it_holds_its_lock(tmp_path: Path) -> None:
    spool = Spool(tmp_path, capacity=SMALL)
    assert living_processes(tmp_path) == {spool.process_id} == known_processes(tmp_path)
    assert list(dead_spools(tmp_path)) == []
    spool.abandon()
    assert living_processes(tmp_path) == set()
    assert known_processes(tmp_path) == {spool.process_id}


def test_a_dead_spool_is_held_by_one_recoverer_at_a_time(tmp_path: Path) -> None:
    abandoned(tmp_path, b"event")
    (held,) = dead_spools(tmp_path)
    assert list(dead_spools(tmp_path)) == []
    held.release()
    (again,) = dead_spools(tmp_path)
    again.remove()
    assert known_processes(tmp_path) == set()


def test_a_removed_spool_leaves_nothing_behind(tmp_path: Path) -> None:
    spool = Spool(tmp_path, capacity=SMALL)
    spool.new_ring()
    spool.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_whose_removal_was_cut_short_is_not_taken_for_a_living_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    abandoned(tmp_path, b"event")
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    (dead,) = dead_spools(tmp_path)
    (dead.folder / "lock").unlink()
    dead.remove()
    assert living_processes(tmp_path) == known_processes(tmp_path) == set()


@pytest.mark.parametrize(("age_s", "is_left"), [(7200, False), (60, True)])
def test_half_made_folders_are_swept_once_they_are_old(
    tmp_path: Path, age_s: int, is_left: bool
) -> None:
    half_made = tmp_path / ".new-abc"
    half_made.mkdir()
    made_s = half_made.stat().st_mtime - age_s
    os.utime(half_made, (made_s, made_s))
    assert list(dead_spools(tmp_path)) == []
    assert half_made.exists() is is_left


def test_folders_and_files_are_the_owners_alone(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "telemetry" / "spool", capacity=SMALL)
    spool.new_ring()
    made = [tmp_path / "telemetry", *sorted((tmp_path / "telemetry").rglob("*"))]
    modes = {path.name: path.stat().st_mode & 0o777 for path in made}
    spool.remove()
    assert modes == {
        "telemetry": 0o700,
        "spool": 0o700,
        spool.process_id: 0o700,
        "lock": 0o600,
        "0.ring": 0o600,
    }


def test_without_a_usable_folder_events_are_kept_in_memory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    spool = Spool(tmp_path / "file" / "spool", capacity=SMALL)
    ring = spool.new_ring()
    ring.append(b"event")
    assert (spool.is_durable, payloads(ring)) == (False, [b"event"])
    spool.remove()


def test_a_full_disk_costs_durability_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    spool = Spool(tmp_path, capacity=SMALL)
    ring = spool.new_ring()
    ring.append(b"event")
    assert (spool.is_durable, payloads(ring)) == (False, [b"event"])
    assert list(tmp_path.rglob("*.ring")) == []
    spool.remove()


def test_without_posix_fallocate_the_file_is_written_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "posix_fallocate")
    ring = abandoned(tmp_path, b"event")
    found = tmp_path / ring.ring_id.partition(".")[0] / "0.ring"
    assert found.stat().st_blocks * 512 >= HEADER_BYTES + SMALL


def test_a_folder_that_is_not_there_has_no_processes(tmp_path: Path) -> None:
    assert living_processes(tmp_path / "none") == known_processes(tmp_path / "none") == set()
    assert list(dead_spools(tmp_path / "none")) == []
