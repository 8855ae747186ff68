"""Periodic tasks leave how they went: times, counts, the class of an error and no word of it."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from fleet.celery import app
from fleet.lib.clock import now
from fleet.models import ProcessSeen, TaskRun
from fleet.tasks import forget_stale
from fleet.watch import life
from fleet.watch.periodic import WORDS, judge, periodic_tasks
from fleet.watch.runs import Runs

pytestmark = [pytest.mark.django_db, pytest.mark.both_engines]
TASK = "fleet.tasks.heartbeat"
CANARY = "canaryq7f3k9zx"


def names() -> frozenset[str]:
    return frozenset({TASK})


def run(runs: Runs, task_id: str = "1", error: BaseException | None = None) -> None:
    runs.begin(task_id, TASK)
    runs.end(task_id, TASK, error)


def test_a_run_is_written_with_its_times() -> None:
    before = now()
    run(Runs(names))
    row = TaskRun.objects.get()
    assert before <= row.started_at <= row.ended_at <= now()
    assert (row.run_count, row.failure_count, row.has_failed) == (1, 0, False)


def test_many_runs_cost_one_statement_and_none_is_lost() -> None:
    runs = Runs(names, write_every_s=3600)
    run(runs)
    with CaptureQueriesContext(
        connection,
    ) as asked:
        for index in range(50):
            run(runs, str(index))
        assert len(asked) == 0
        runs.flush()
    assert len(asked) == 1
    assert TaskRun.objects.get().run_count == 51


def test_a_failure_is_written_at_once_by_its_class_alone() -> None:
    runs = Runs(names, write_every_s=3600)
    run(runs)
    run(runs, error=ValueError(CANARY))
    row = TaskRun.objects.get()
    assert (row.has_failed, row.error_kind, row.failure_count) == (True, "ValueError", 1)
    assert CANARY not in str(TaskRun.objects.values())
    run(runs)
    runs.flush()
    row.refresh_from_db()
    assert (row.has_failed, row.error_kind, row.run_count) == (False, "ValueError", 3)


def test_two_workers_that_are_first_at_once_count_both() -> None:
    first, second = Runs(names), Runs(names)
    first.begin("1", TASK)
    second.begin("2", TASK)
    first.end("1", TASK, None)
    second.end("2", TASK, None)
    assert TaskRun.objects.get().run_count == 2


def test_what_is_not_periodic_leaves_nothing() -> None:
    runs = Runs(names)
    runs.begin("1", "telemetry.other")
    runs.end("1", "telemetry.other", None)
    runs.end("2", TASK, None)
    assert not TaskRun.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_runs_that_overlap_in_threads_are_all_counted() -> None:
    runs = Runs(names, write_every_s=3600)
    gate = threading.Barrier(8)

    def work(index: int) -> None:
        gate.wait(60)
        for turn in range(20):
            runs.begin(f"{index}-{turn}", TASK)
            runs.end(f"{index}-{turn}", TASK, None)
        connection.close()

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    runs.flush()
    assert TaskRun.objects.get().run_count == 160


def test_every_entry_of_the_schedule_is_said_in_words() -> None:
    assert set(WORDS) == set(app.conf.beat_schedule)
    assert all(task.words for task in periodic_tasks(now()))


@pytest.mark.parametrize(
    ("age_s", "every_s", "has_failed", "state"),
    [
        (0, 5, False, "ok"),
        (179, 5, False, "ok"),
        (181, 5, False, "late"),
        (3 * 3600 + 1, 3600, False, "late"),
        (3600, 3600, False, "ok"),
        (0, 5, True, "failed"),
    ],
)
def test_a_task_is_judged_by_its_interval(
    age_s: float, every_s: float, has_failed: bool, state: str
) -> None:
    moment = now()
    row = TaskRun(task=TASK, ended_at=moment - timedelta(seconds=age_s), has_failed=has_failed)
    assert judge(row, every_s, moment) == state
    assert judge(None, every_s, moment) == "waiting"


def test_a_process_has_one_row_and_goes_when_it_is_gone() -> None:
    life.show("web")
    life.show("web")
    assert ProcessSeen.objects.count() == 1
    ProcessSeen.objects.update(at=now() - timedelta(days=1, seconds=1))
    life.show("worker")
    forget_stale()
    assert list(ProcessSeen.objects.values_list("kind", flat=True)) == ["worker"]


def test_life_in_a_thread_ends_when_told() -> None:
    shown = life.Life("web")
    shown.stop()
    shown.start()
    assert shown.join(60)
