"""The console's processes killed at marked points: what was acknowledged stays, nothing doubles."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from pytest_django.plugin import DjangoDbBlocker

from fleet.lib.clock import ns_to_datetime
from telemetry.models import IngestBatch
from tests.faults import raw, served
from tests.faults.books import check_cells, faults_of, read_books
from tests.faults.jobs import KILLED, Job, Jobs, jobs_process
from tests.faults.sabotage import POINTS
from tests.telemetry import builders as make

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.both_engines,
    pytest.mark.slow,
    pytest.mark.timeout(served.PATIENCE_S),
]


@pytest.fixture(scope="module")
def console(
    django_db_setup: None,
    django_db_blocker: DjangoDbBlocker,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[served.Served]:
    """Two workers that die where they are told to."""
    folder = tmp_path_factory.mktemp("killed")
    with django_db_blocker.unblock(), served.serve(folder, app=served.SABOTAGED) as console:
        yield console


BATCH = [make.run(), *(make.tool_call(seq) for seq in range(2, 30))]
SENT: dict[str, set[object]] = {
    "tel_runs": {"run-1"},
    "tel_tool_calls": {f"span-{seq}" for seq in range(2, 30)},
}


@pytest.mark.parametrize("point", POINTS)
def test_a_web_worker_killed_anywhere_loses_and_doubles_nothing(
    console: served.Served, point: str
) -> None:
    token, batch_id = raw.credential_of(), uuid4()
    body = make.ndjson(*BATCH, b"{")
    console.arm.write_text(point)
    answer, before = served.push_until_acknowledged(console.url, token, body, batch_id)
    assert not console.arm.exists(), "nobody died"
    assert before == [0] * len(before) != []
    assert faults_of(read_books(), SENT) == []
    assert raw.push(console.url, token, body, batch_id).body == answer.body
    assert IngestBatch.objects.get().receipt["rejected_counts"] == {"malformed_line": 1}


@pytest.mark.parametrize("worker_count", [4])
def test_workers_killed_at_random_under_load_lose_and_double_nothing(
    console: served.Served, worker_count: int
) -> None:
    seed = int(os.environ.get("FAULTS_SEED") or random.SystemRandom().randrange(2**32))
    print(f"FAULTS_SEED={seed}")  # noqa: T201 -- shown with a failure, to repeat it
    chance = random.Random(seed)
    points = [chance.choice(POINTS) for _ in range(4)]
    tokens = [raw.credential_of(uuid4()) for _ in range(worker_count)]

    def push_all(token: str) -> int:
        failures = 0
        for at in range(12):
            body = make.ndjson(*(make.tool_call(20 * at + n) for n in range(10)))
            _, before = served.push_until_acknowledged(console.url, token, body, uuid4())
            failures += len(before)
            if at % 3 == 0 and token == tokens[0] and points:
                console.arm.write_text(points.pop())
        return failures

    with ThreadPoolExecutor(worker_count) as pool:
        failures = sum(pool.map(push_all, tokens))
    console.arm.unlink(missing_ok=True)
    books = read_books()
    assert failures > 0
    assert (books.inserted, books.duplicate, books.rejected) == (480, 0, 0)
    assert books.row_count == books.received == books.intake == 480


# ----------------------------------------------------------------------------- the console's jobs


@pytest.fixture(scope="module")
def jobs(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[Jobs]:
    with django_db_blocker.unblock():
        environ = served.console_environment()
    with jobs_process(environ) as jobs:
        yield jobs


HOURS = [make.recent_ns(ago_h * 3600) for ago_h in (2, 3, 4)]
SPAN = ns_to_datetime(HOURS[-1]), ns_to_datetime(HOURS[0])


def push_late_rows(round_at: int) -> None:
    """A row of each counted kind for each of the hours, and a change of an old run."""
    for at, at_ns in enumerate(HOURS):
        seq = 10 * round_at + at
        make.push(
            make.run(seq, run_id=f"run-{at}", start_ns=at_ns),
            make.model_call(100 * seq, start_ns=at_ns),
            make.tool_call(100 * seq + 1, start_ns=at_ns),
            make.error(100 * seq + 2, ts_ns=at_ns),
        )


@pytest.mark.parametrize(("dies", "step"), [("before", 1), ("after", 1), ("statement", 7)])
def test_a_fill_killed_anywhere_leaves_exact_cells_to_the_next(
    jobs: Jobs, dies: str, step: int
) -> None:
    deaths = 0
    for round_at in range(200):
        push_late_rows(round_at)
        (code,) = jobs.run(Job("fill", dies=dies, at=1 + step * round_at))
        if code == 0:
            break
        assert code == KILLED
        deaths += 1
        if round_at % 2:  # every other time two deaths come in a row
            assert jobs.run(Job("fill")) == [0]
            check_cells(*SPAN)
    assert deaths > 2
    check_cells(*SPAN)


def test_one_fill_run_by_many_processes_at_once_makes_each_cell_once(jobs: Jobs) -> None:
    for round_at in range(3):
        push_late_rows(round_at)
        assert jobs.run(*[Job("fill")] * 4) == [0] * 4
        assert jobs.run(Job("fill"), Job("fill")) == [0, 0]
        check_cells(*SPAN)


def test_a_fill_that_dies_beside_one_that_lives_leaves_exact_cells(jobs: Jobs) -> None:
    for at in range(1, 6):
        push_late_rows(at)
        codes = jobs.run(Job("fill", at=at), Job("fill", dies="after", at=at), Job("fill"))
        assert set(codes) <= {0, KILLED}
        assert jobs.run(Job("fill")) == [0]
        check_cells(*SPAN)


@pytest.mark.parametrize(("dies", "step"), [("before", 1), ("after", 1), ("statement", 11)])
def test_a_load_killed_anywhere_is_taken_up_without_loss_or_double(
    jobs: Jobs, tmp_path: Path, dies: str, step: int
) -> None:
    raw.credential_of()
    file = tmp_path / "export.ndjson"
    file.write_bytes(make.ndjson(*(make.tool_call(seq) for seq in range(40))))
    job = Job("load", (str(file), str(make.INSTALL), "1000"), dies=dies)
    deaths = 0
    while jobs.run(replace(job, at=1 + step * deaths)) == [KILLED]:
        deaths += 1
    assert deaths > 2
    assert jobs.run(replace(job, at=0)) == [0]
    sent: dict[str, set[object]] = {"tel_tool_calls": {f"span-{seq}" for seq in range(40)}}
    assert faults_of(read_books(), sent) == []
    assert read_books().duplicate == 0


def test_maintenance_killed_or_run_by_many_at_once_ends_well(jobs: Jobs) -> None:
    make.push(make.run(start_ns=HOURS[0]))
    for at in range(1, 4):
        jobs.run(Job("maintain", dies="after", at=at), Job("maintain"), Job("fill"))
    assert jobs.run(Job("maintain"), Job("maintain")) == [0, 0]
    assert read_books().row_count == 1
    assert jobs.run(Job("fill")) == [0]
    check_cells(*SPAN)
