"""Two hundred SIGKILLs, anywhere in append, commit, rotation and prune: nothing lost or doubled."""

from __future__ import annotations

import mmap
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent_client import health
from agent_client.journal import Journal
from agent_client.pruner import Pruner
from agent_client.recovery import recover
from agent_client.store import Store
from tests.agent_client.builders import (
    PRELUDE,
    ROOT,
    START_NS,
    all_rows,
    environment,
    log_records,
    query,
)

ROUNDS = 200
ROUNDS_A_HOME = 10
"""Each home goes through several deaths: what one leaves, the next recorder finds."""
MOST_S = 0.06

# One interpreter is started and forked for each round. A child emits until it is killed, and tells
# of what emit has returned from in a shared page. Every third event is too old: the writer prunes.
FORK_SERVER = """
import mmap
from agent_client import emitter, eventlog, logtrim, pruner, retention
from tests.agent_client.builders import START_NS
eventlog.SEGMENT_BYTES, logtrim.STEP_BYTES = 8000, 2000
pruner.PAGE_ROWS, pruner.BATCH_ROWS = 20, 5
retention.LOOK_S = emitter.UPKEEP_S = 0
emitter.GATHER_S = 0.001
retention._prune_if_due = lambda journal, _: pruner.Pruner(journal, START_NS).steps()
warm = Emitter(home / "warm")  # so that no child imports while its time runs
warm.emit(model_call(0))
warm.flush()
warm.close()

def work(first, home):
    with open(home / "told", "r+b") as file:
        told = mmap.mmap(file.fileno(), 8)
    recorder = Emitter(home)
    for number in range(1_000_000):
        at_ns = START_NS - 10**12 if number % 3 == 0 else START_NS
        recorder.emit(model_call(first + number, start_ns=at_ns, end_ns=at_ns))
        told[:] = (number + 1).to_bytes(8, "little")
        while recorder.stats().queued > 500 or number % 10 == 9:
            time.sleep(0.001)
            if recorder.stats().queued <= 500:
                break

while line := sys.stdin.readline():
    first, folder = line.split()
    child = os.fork()
    if child == 0:
        work(int(first), Path(folder))
    print(child, flush=True)
    sys.stdin.readline()
    os.waitpid(child, 0)
    print("dead", flush=True)
"""


@contextmanager
def fork_server(home: Path) -> Iterator[subprocess.Popen[str]]:
    home.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", PRELUDE + FORK_SERVER],
        env=environment(home),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    ) as server:
        yield server
        assert server.stdin is not None
        server.stdin.close()
        assert server.wait(30) == 0


def killed_after(server: subprocess.Popen[str], home: Path, first: int, seconds: float) -> int:
    """SIGKILL a recorder so long after its first event; the number of events it told of."""
    assert server.stdin is not None
    assert server.stdout is not None
    (home / "told").write_bytes(bytes(8))
    with (home / "told").open("r+b") as file, mmap.mmap(file.fileno(), 8) as told:
        server.stdin.write(f"{first} {home}\n")
        server.stdin.flush()
        child = int(server.stdout.readline())
        deadline = time.monotonic() + 30
        while not any(told[:]):
            assert time.monotonic() < deadline, "the recorder does not begin"
            time.sleep(0.0005)
        time.sleep(min(seconds, 0.05))
        time.sleep(max(0.0, seconds - 0.05))
        os.kill(child, signal.SIGKILL)
        server.stdin.write("reap\n")
        server.stdin.flush()
        assert server.stdout.readline() == "dead\n"
        return int.from_bytes(told[:], "little")


def assert_books_balance(home: Path, accepted: list[int]) -> None:
    """Every accepted event is a row once, or expired; the log and the ledger say the same."""
    young = {f"call-{n}" for n, number in enumerate_accepted(accepted) if number % 3}
    rows = [row[0] for row in query(home, "SELECT span_id FROM tel_model_calls")]
    assert Counter(rows).most_common(1)[0][1] == 1
    assert young <= set(rows), "lost"
    every = {f"call-{n}" for n, _ in enumerate_accepted(accepted)}
    assert set(rows) <= every, "from nowhere"
    logged = Counter(record["span_id"] for record in log_records(home))
    assert set(logged.values()) == {1}, "logged twice"
    assert young <= set(logged)
    seqs = [record["seq"] for record in log_records(home)]
    assert seqs == sorted(set(seqs))
    with Store(home) as store:
        stored, expired = health.stored(store.connection), health.expired(store.connection)
        assert health.totals(store.connection) == {}
    assert stored == len(every) == len(rows) + expired


def enumerate_accepted(accepted: list[int]) -> Iterator[tuple[int, int]]:
    """The number in an event's id, and its number in its round."""
    for round_number, count in enumerate(accepted):
        for number in range(count):
            yield round_number * 100_000 + number, number


@pytest.mark.slow
def test_two_hundred_kills_lose_and_double_nothing(tmp_path: Path) -> None:
    seed = int(os.environ.get("KILL_SEED", time.time_ns() % 2**32))
    print(f"KILL_SEED={seed}")  # noqa: T201  # shown when it fails
    chance = random.Random(seed)
    with fork_server(tmp_path / "server") as server:
        for number in range(ROUNDS // ROUNDS_A_HOME):
            home = tmp_path / str(number)
            home.mkdir()
            accepted: list[int] = []
            for round_number in range(ROUNDS_A_HOME):
                first = 100_000 * round_number
                told = killed_after(server, home, first, chance.uniform(0, MOST_S))
                recover(home)
                with Store(home) as store:
                    fresh = health.stored(store.connection) - sum(accepted)
                # The kill may fall between the last emit and the telling of it.
                assert fresh in (told, told + 1)
                accepted.append(fresh)
                assert_books_balance(home, accepted)
            assert_a_prune_and_a_rebuild_agree(home, accepted)


def assert_a_prune_and_a_rebuild_agree(home: Path, accepted: list[int]) -> None:
    journal = Journal(home)
    for _ in Pruner(journal, START_NS).steps():
        pass
    rows = all_rows(home)
    assert len(rows["tel_model_calls"]) == sum(
        number % 3 > 0 for _, number in enumerate_accepted(accepted)
    )
    journal.rebuild()
    journal.close()
    assert all_rows(home) == rows
