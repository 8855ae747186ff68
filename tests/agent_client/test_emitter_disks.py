"""Real disks that fail: full, read-only, held by a stopped process; and a clock that jumps."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from agent_client import emitter as emitter_module
from agent_client import eventlog
from agent_client import store as store_module
from agent_client.emitter import Emitter
from agent_client.eventlog import log_files
from agent_client.files import telemetry_dir
from agent_client.journal import Journal
from tests.agent_client.builders import (
    PRELUDE,
    ROOT,
    all_rows,
    call_ids,
    environment,
    ledger,
    log_records,
    model_call,
    span_ids,
    start,
)

OWN_MOUNTS = ("unshare", "--map-root-user", "--mount", "--propagation", "private")


def can_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    script = "mount -t tmpfs -o size=1m tmpfs /mnt"
    done = subprocess.run([*OWN_MOUNTS, "sh", "-c", script], capture_output=True, check=False)
    return done.returncode == 0


needs_mounts = pytest.mark.skipif(not can_mount(), reason="no mount namespaces for this user")

ON_A_DISK = """
import errno, json, subprocess
from agent_client import emitter, eventlog
from agent_client.guard import faults
from tests.agent_client.builders import call_ids, ledger, log_files, log_records, span_ids
emitter.RETRY_S = (0.01,)
eventlog.SEGMENT_BYTES = 100_000
def mount(*options):
    subprocess.run(["mount", *options, str(home)], check=True)
def fill():
    with open(home / "filler", "ab", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1 << 9):
            try:
                while True:
                    file.write(bytes(size))
            except OSError as error:
                assert error.errno == errno.ENOSPC, error
def lines_are_whole():
    for path in log_files(home / "telemetry"):
        for line in path.read_bytes().splitlines():
            json.loads(line)
mount("-t", "tmpfs", "-o", "size=48m", "tmpfs")
"""


def on_a_disk(home: Path, script: str) -> None:
    """Run a script in a mount namespace of its own, whose home is a small disk."""
    done = subprocess.run(
        [*OWN_MOUNTS, sys.executable, "-c", PRELUDE + ON_A_DISK + script],
        env=environment(home),
        cwd=ROOT,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0


@needs_mounts
def test_a_disk_that_fills_up_and_has_room_again_loses_nothing_unexplained(tmp_path: Path) -> None:
    on_a_disk(
        tmp_path,
        """
e = Emitter(home, capacity_bytes=1 << 20)
for n in range(500): e.emit(model_call(n))
assert e.flush(20)
for round in range(4):
    fill()
    first = 500 + 9000 * round
    for n in range(first, first + 9000):
        e.emit(model_call(n))
    assert not e.flush(0.1)
    assert any(place.startswith("writer") for place in faults())
    (home / "filler").unlink()
    assert e.flush(20)
stats = e.stats()
e.close(20)
lines_are_whole()
stored, lost = ledger(home)
assert (stored, lost) == (stats.written, {"overflow": stats.dropped["overflow"]})
assert stored + lost["overflow"] == stats.emitted == 36_500
assert lost["overflow"] > 0
found = span_ids(home)
assert len(found) == len(set(found)) == len(log_records(home)) == stored
assert found[-1] == "call-36499"
assert [n for n in found if int(n[5:]) < 500] == call_ids(0, 500)
""",
    )


@needs_mounts
def test_a_recorder_that_begins_on_a_full_disk_stores_once_there_is_room(tmp_path: Path) -> None:
    on_a_disk(
        tmp_path,
        """
fill()
e = Emitter(home)
for n in range(1000): e.emit(model_call(n))
assert not e.flush(0.1)
assert e.stats().queued == 1000
(home / "filler").unlink()
assert e.flush(20)
e.close()
assert span_ids(home) == call_ids(0, 1000)
assert ledger(home) == (1000, {})
""",
    )


@needs_mounts
def test_a_read_only_home_keeps_events_in_memory_until_it_can_be_written(tmp_path: Path) -> None:
    on_a_disk(
        tmp_path,
        """
e = Emitter(home)
e.emit(model_call(0))
e.close()
mount("-o", "remount,ro")
e = Emitter(home)
for n in range(1, 500): e.emit(model_call(n))
assert not e.flush(0.1)
assert (e.stats().queued, e.stats().written) == (499, 0)
mount("-o", "remount,rw")
assert e.flush(20)
e.close()
assert span_ids(home) == call_ids(0, 500)
assert ledger(home) == (500, {})
""",
    )


@contextmanager
def stopped_holder(home: Path, script: str) -> Iterator[None]:
    """A process that holds something and is stopped: it answers nobody and lets go of nothing."""
    process = start(home, script + "\nos.write(1, b'held')\nsignal.pause()")
    assert process.stdout is not None
    assert process.stdout.read(4) == b"held"
    os.kill(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        process.kill()
        process.wait(30)
        process.stdout.close()


HOLDERS = {
    "the journal's lock": "from agent_client.journal import Journal\n"
    "held = Journal(home).locked()\nheld.__enter__()",
    "the database": "import sqlite3\n"
    "c = sqlite3.connect(home / 'telemetry' / 'telemetry.db', isolation_level=None)\n"
    "c.execute('BEGIN EXCLUSIVE')",
}


@pytest.mark.parametrize("held", HOLDERS)
def test_a_stopped_process_that_holds_a_lock_holds_no_emit_up(
    tmp_path: Path, held: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emitter_module, "RETRY_S", (0.01,))
    monkeypatch.setattr(store_module, "BUSY_TIMEOUT_S", 0.05)
    recorder = Emitter(tmp_path)
    recorder.emit(model_call(0))
    assert recorder.flush()
    with stopped_holder(tmp_path, HOLDERS[held]):
        for number in range(1, 3000):
            recorder.emit(model_call(number))
        assert not recorder.flush(0.2)
        stats = recorder.stats()
        assert (stats.emitted, stats.queued, stats.written) == (3000, 2999, 1)
    assert recorder.flush(30)
    recorder.close()
    assert span_ids(tmp_path) == call_ids(0, 3000)
    assert ledger(tmp_path) == (3000, {})


def test_eight_threads_lose_nothing_while_the_disk_hangs(tmp_path: Path) -> None:
    recorder = Emitter(tmp_path)
    recorder.emit(model_call(0))
    assert recorder.flush()

    def work(first: int) -> None:
        for number in range(first, first + 1000):
            recorder.emit(model_call(number))

    threads = [threading.Thread(target=work, args=(10_000 * n,)) for n in range(1, 9)]
    with stopped_holder(tmp_path, HOLDERS["the journal's lock"]):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
        assert recorder.stats().queued == 8000
    recorder.close(30)
    expected = [f"call-{10_000 * n + i}" for n in range(1, 9) for i in range(1000)]
    assert sorted(span_ids(tmp_path)) == sorted(["call-0", *expected])
    assert ledger(tmp_path) == (8001, {})


def test_a_clock_that_jumps_by_years_and_back_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Emitter(tmp_path)
    recorder._upkeep = iter(())  # it would rightly take out what says that it is years old
    for number, year in enumerate((0, 1, 0, -1, 30, 0)):
        now_ns = 1_795_340_710_000_000_000 + year * 365 * 86_400 * 10**9
        monkeypatch.setattr(eventlog, "time", SimpleNamespace(time=lambda now=now_ns: now / 1e9))
        for n in range(10 * number, 10 * number + 10):
            recorder.emit(model_call(n, start_ns=now_ns, end_ns=now_ns))
        assert recorder.flush()
    recorder.close()
    assert span_ids(tmp_path) == call_ids(0, 60)
    assert [record["seq"] for record in log_records(tmp_path)] == list(range(1, 61))
    assert len(log_files(telemetry_dir(tmp_path))) > 1
    rows = all_rows(tmp_path)
    journal = Journal(tmp_path)
    assert journal.rebuild() == 60
    journal.close()
    assert all_rows(tmp_path) == rows
