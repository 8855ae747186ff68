"""A worker killed around every commit and file step of an export: complete, once, same bytes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from pytest_django.plugin import DjangoDbBlocker

from fleet.lib.clock import now
from telemetry.models import ExportJob
from tests import builders
from tests.faults import served
from tests.faults.jobs import KILLED, Job, Jobs, jobs_process
from tests.telemetry import builders as make
from tests.telemetry import export_jobs as exports

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.both_engines,
    pytest.mark.slow,
    pytest.mark.timeout(served.PATIENCE_S),
]
ROWS = 45


@pytest.fixture(scope="module")
def jobs(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[Jobs]:
    with django_db_blocker.unblock():
        environ = served.console_environment()
    with jobs_process(environ) as jobs:
        yield jobs


def work(job: ExportJob, **values: object) -> Job:
    return Job("export", (str(job.pk), "20", "10"), **values)  # type: ignore[arg-type]  # dies, at


def lapse(job: ExportJob) -> None:
    """What two minutes do to a dead worker's lease."""
    ExportJob.objects.filter(pk=job.pk).update(lease_until=now() - timedelta(seconds=1))


def ordered(like: ExportJob | None = None) -> ExportJob:
    window: dict[str, Any] = {"start_at": like.start_at, "end_at": like.end_at} if like else {}
    job = exports.order("tool_calls", "runs", fmt="csv", is_gzipped=True, **window)
    if like:  # the same snapshot, too
        ExportJob.objects.filter(pk=job.pk).update(created_at=like.created_at)
    return job


@pytest.mark.parametrize(
    ("dies", "step"),
    [("before", 1), ("after", 1), ("statement", 9), ("write", 1), ("fsync", 1), ("rename", 1)],
)
def test_an_export_killed_anywhere_ends_with_the_bytes_of_an_undisturbed_one(
    jobs: Jobs, dies: str, step: int
) -> None:
    builders.make_install(install_id=make.INSTALL)
    exports.push_calls(ROWS)
    whole = ordered()
    assert jobs.run(work(whole)) == [0]
    deaths = 0
    for at in range(1, 200):
        job = ordered(like=whole)
        (code,) = jobs.run(work(job, dies=dies, at=at * step))
        if code == 0:
            break
        assert code == KILLED
        deaths += 1
        lapse(job)
        assert jobs.run(work(job), work(job)) == [0, 0]  # two find it at the same time
        job.refresh_from_db()
        assert job.state == ExportJob.State.DONE, job.last_error
        assert exports.digests(job) == exports.digests(whole)
        assert len(exports.read(job)) == job.done_count == ROWS
        left = set(exports.names_in(exports.folder(job)))
        assert left == {*exports.digests(job), "manifest.json"}
    assert deaths > 3
