"""What ``emit`` has returned from survives the death of its process, and is stored once."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from agent_client.journal import Journal
from agent_client.recovery import recover
from tests.agent_client.builders import (
    call_ids,
    finish,
    ledger,
    log_records,
    query,
    span_ids,
    start,
)

EMIT_AND_TELL = """
emitter = Emitter(home)
for number in range(100_000):
    emitter.emit(model_call(number))
    os.write(1, b"%d\\n" % number)
    if number % 25 == 0:
        time.sleep(0.001)
"""


def kill_after(home: Path, accepted: int) -> int:
    """SIGKILL a recorder once it has told of so many events; returns how many it told of."""
    process = start(home, EMIT_AND_TELL)
    assert process.stdout is not None
    for _ in range(accepted):
        process.stdout.readline()
    process.kill()
    rest = process.stdout.read()
    process.wait(30)
    process.stdout.close()
    return accepted + rest.count(b"\n")


def test_os_exit_right_after_emit_loses_nothing(tmp_path: Path) -> None:
    finish(start(tmp_path, "Emitter(home).emit(model_call(7)); os._exit(0)"))
    assert recover(tmp_path).events == 1
    assert span_ids(tmp_path) == ["call-7"]


def test_an_ordinary_end_without_a_flush_loses_nothing(tmp_path: Path) -> None:
    script = "e = Emitter(home)\nfor n in range(500): e.emit(model_call(n))"
    finish(start(tmp_path, script))
    recover(tmp_path)
    assert span_ids(tmp_path) == call_ids(0, 500)


@pytest.mark.parametrize("is_first_event", [True, False])
def test_an_emit_after_atexit_is_recorded(tmp_path: Path, is_first_event: bool) -> None:
    script = f"""
import atexit
e = Emitter(home)
@atexit.register
def later():
    e.emit(model_call(1))
if not {is_first_event}:
    e.emit(model_call(0))
    e.flush()
"""
    finish(start(tmp_path, script))
    recover(tmp_path)
    assert span_ids(tmp_path) == call_ids(int(is_first_event), 2)


def test_an_emit_from_a_destructor_at_shutdown_is_recorded(tmp_path: Path) -> None:
    script = """
class Late:
    def __del__(self):
        e.emit(model_call(1))
e = Emitter(home)
late = Late()
"""
    finish(start(tmp_path, script))
    recover(tmp_path)
    assert span_ids(tmp_path) == ["call-1"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGABRT])
def test_other_deadly_signals_lose_nothing_either(tmp_path: Path, number: signal.Signals) -> None:
    script = f"Emitter(home).emit(model_call(1)); os.kill(os.getpid(), {int(number)})"
    finish(start(tmp_path, script), returncode=-number)
    recover(tmp_path)
    assert span_ids(tmp_path) == ["call-1"]


def test_a_kill_between_log_and_commit_stores_once(tmp_path: Path) -> None:
    script = """
from agent_client import journal
put = journal._put_int
def die(connection, key, value):
    if key == "log_offset" and value:
        os.kill(os.getpid(), signal.SIGKILL)
    put(connection, key, value)
journal._put_int = die
e = Emitter(home)
for n in range(100): e.emit(model_call(n))
e.flush()
"""
    finish(start(tmp_path, script), returncode=-signal.SIGKILL)
    assert len(log_records(tmp_path)) > 0
    recover(tmp_path)
    assert span_ids(tmp_path) == call_ids(0, 100)
    assert len(log_records(tmp_path)) == 100
    assert ledger(tmp_path) == (100, {})


def test_losses_before_a_kill_between_log_and_commit_stay_counted(tmp_path: Path) -> None:
    script = """
from agent_client import journal
def die(connection, key, value):
    os.kill(os.getpid(), signal.SIGKILL)
e = Emitter(home, capacity_bytes=1 << 18)
import fcntl
(home / "telemetry").mkdir()
held = os.open(home / "telemetry" / journal.LOCK, os.O_RDWR | os.O_CREAT, 0o600)
fcntl.flock(held, fcntl.LOCK_EX)
for n in range(5000): e.emit(model_call(n))
journal._put_int = die
fcntl.flock(held, fcntl.LOCK_UN)
e.flush()
"""
    finish(start(tmp_path, script), returncode=-signal.SIGKILL)
    recover(tmp_path)
    stored, lost = ledger(tmp_path)
    assert lost["overflow"] > 0
    assert stored + lost["overflow"] == 5000
    assert span_ids(tmp_path) == call_ids(5000 - stored, 5000)


def test_a_child_forked_while_the_writer_commits_can_store_too(tmp_path: Path) -> None:
    script = """
for round in range(12):
    e = Emitter(home / str(round))
    for n in range(50): e.emit(model_call(n))
    time.sleep(round * 0.008)
    pid = os.fork()
    if pid == 0:
        e.emit(model_call(100))
        os._exit(0 if e.flush() else 1)
    assert os.waitpid(pid, 0)[1] == 0, round
    e.close()
"""
    finish(start(tmp_path, script))


def test_a_child_forked_while_the_writer_imports_stores_and_does_not_prune(tmp_path: Path) -> None:
    script = """
import threading
from agent_client import upkeep
importing, go_on = threading.Event(), threading.Event()
def hangs(journal, now_ns):
    importing.set()
    go_on.wait(20)
    yield True
upkeep._prune_if_due = hangs
e = Emitter(home)
e.emit(model_call(0))
assert importing.wait(20)
pid = os.fork()
if pid == 0:
    upkeep._prune_if_due = lambda *_: os._exit(7)
    e.emit(model_call(1))
    os._exit(0 if e.flush() else 1)
status = os.waitpid(pid, 0)[1]
go_on.set()
assert status == 0, status
e.close()
"""
    finish(start(tmp_path, script))
    recover(tmp_path)
    assert sorted(span_ids(tmp_path)) == call_ids(0, 2)


def test_fork_loses_and_doubles_nothing_on_either_side(tmp_path: Path) -> None:
    script = """
e = Emitter(home)
for n in range(50): e.emit(model_call(n))
pid = os.fork()
if pid == 0:
    for n in range(100, 150): e.emit(model_call(n))
    os._exit(0 if e.flush() else 1)
for n in range(50, 100): e.emit(model_call(n))
assert os.waitpid(pid, 0)[1] == 0
e.close()
"""
    finish(start(tmp_path, script))
    recover(tmp_path)
    assert sorted(span_ids(tmp_path)) == sorted(call_ids(0, 150))
    assert len(log_records(tmp_path)) == 150
    assert ledger(tmp_path) == (150, {})


def test_a_forked_child_holds_neither_its_parents_spool_nor_its_lock(tmp_path: Path) -> None:
    script = """
e = Emitter(home)
e.emit(model_call(0))
e.flush()
if os.fork() == 0:
    os.write(1, os.getpid().to_bytes(4, "little"))
    os.close(1)
    signal.pause()
# Not one thread but ours may hold the lock when the parent dies.
e._journal.locked().__enter__()
os.kill(os.getpid(), signal.SIGKILL)
"""
    process = start(tmp_path, script)
    assert process.stdout is not None
    child = int.from_bytes(process.stdout.read(4), "little")
    try:
        assert process.wait(30) == -signal.SIGKILL
        assert recover(tmp_path).spools == 1
        with Journal(tmp_path).locked():
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        process.stdout.close()


def test_two_processes_that_recover_at_once_share_the_work(tmp_path: Path) -> None:
    told = kill_after(tmp_path, 1500)
    script = "from agent_client.recovery import recover; print(recover(home).events)"
    processes = [start(tmp_path, script) for _ in range(2)]
    for process in processes:
        finish(process)
    assert len(span_ids(tmp_path)) in (told, told + 1)
    assert len(log_records(tmp_path)) == len(span_ids(tmp_path))


def test_six_processes_in_one_home_lose_and_double_nothing(tmp_path: Path) -> None:
    script = """
e = Emitter(home)
first = 1000 * INDEX
for n in range(first, first + 300):
    e.emit(model_call(n))
    e.emit(run_event(n // 100))
e.close(20)
"""
    processes = [start(tmp_path, script.replace("INDEX", str(index))) for index in range(6)]
    for process in processes:
        finish(process)
    expected = [name for i in range(6) for name in call_ids(1000 * i, 1000 * i + 300)]
    assert sorted(span_ids(tmp_path)) == sorted(expected)
    assert query(tmp_path, "SELECT count(*) FROM tel_runs") == [(18,)]
    assert ledger(tmp_path) == (3600, {})
    seqs = [record["seq"] for record in log_records(tmp_path)]
    assert seqs == list(range(1, 3601))


def test_the_next_recorder_stores_what_the_last_one_left(tmp_path: Path) -> None:
    finish(start(tmp_path, "Emitter(home).emit(model_call(1)); os._exit(0)"))
    finish(start(tmp_path, "e = Emitter(home); e.emit(model_call(2)); e.close()"))
    assert span_ids(tmp_path) == ["call-1", "call-2"]


SIGNALLED = """
import itertools
numbers, told = itertools.count(1_000_000), []
def on_signal(number, frame):
    n = next(numbers)
    e.emit(model_call(n) if n % 3 else {**model_call(n).to_dict()})
    told.append(n)
    if len(told) < 1000:
        # One at a time of each signal: a handler that is slower than its timer would never end.
        signal.setitimer(timers[number], 0.0003)
e = Emitter(home)
timers = {signal.SIGALRM: signal.ITIMER_REAL, signal.SIGVTALRM: signal.ITIMER_VIRTUAL}
for number, timer in timers.items():
    signal.signal(number, on_signal)
    signal.setitimer(timer, 0.001)
n = 0
while len(told) < 1000 and n < 50_000:
    e.emit(model_call(n) if n % 5 else {**model_call(n).to_dict()})
    n += 1
    if n % 2000 == 0:
        wait = time.monotonic() + 10
        while e.stats().queued > 2000 and time.monotonic() < wait:
            time.sleep(0.002)
for timer in timers.values():
    signal.setitimer(timer, 0)
os.write(1, b"%d %d\\n" % (n, len(told)))
END
"""


@pytest.mark.parametrize(
    "end", ["e.close(20)", "os.kill(os.getpid(), signal.SIGKILL)"], ids=["closed", "killed"]
)
def test_what_signal_handlers_emit_inside_an_emit_is_kept_once(tmp_path: Path, end: str) -> None:
    process = start(tmp_path, SIGNALLED.replace("END", end))
    printed = finish(process, -signal.SIGKILL if "SIGKILL" in end else 0)
    emitted, from_handlers = map(int, printed.split())
    recover(tmp_path)
    assert from_handlers > 100
    assert ledger(tmp_path) == (emitted + from_handlers, {})
    expected = call_ids(0, emitted) + call_ids(1_000_000, 1_000_000 + from_handlers)
    assert sorted(span_ids(tmp_path)) == sorted(expected)
