"""Streams whose worker is killed anywhere, or that many work on: lost 0, doubled 0 by id."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from pytest_django.plugin import DjangoDbBlocker

from fleet.audit import record_change
from fleet.lib.clock import now
from fleet.models import ChangeRecord, InstallGroup
from telemetry.models import AlertEvent, Stream
from tests.faults import served
from tests.faults.jobs import KILLED, Job, Jobs, jobs_process
from tests.telemetry import receivers
from tests.telemetry.receivers import Http

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.both_engines,
    pytest.mark.slow,
    pytest.mark.timeout(served.PATIENCE_S),
]
CHANGES = 6


@pytest.fixture(scope="module")
def jobs(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[Jobs]:
    with django_db_blocker.unblock():
        environ = served.console_environment()
    environ |= {"FLEET_OTLP_HOSTS": "127.0.0.0/8", "FLEET_OTLP_PLAIN_HTTP": "true"}
    with jobs_process(environ) as jobs:
        yield jobs


@pytest.fixture
def http() -> Iterator[Http]:
    with receivers.http() as made:
        yield made


def write_and_stream(http: Http) -> Stream:
    group = InstallGroup.objects.create(name="Group")
    for number in range(CHANGES):
        record_change(actor="ann", action="rename", target=group, pre=None, post={"n": number})
    AlertEvent.objects.create(key="x", state="raised", severity="bad", text="x", at=now())
    return Stream.objects.create(name="SIEM", kind="webhook", endpoint=http.url)


def numbers_by_id(http: Http) -> dict[str, int]:
    """What came, each id once, in the order of its first arrival; a repeat says the same."""
    found: dict[str, bytes] = {}
    for post in http.posts:
        uid = post.headers["webhook-id"]
        assert found.setdefault(uid, post.body) == post.body
    return {uid: int(json.loads(body)["data"]["number"]) for uid, body in found.items()}


def check_all_came(http: Http) -> None:
    numbers = [number for uid, number in numbers_by_id(http).items() if uid.startswith("audit")]
    assert numbers == list(ChangeRecord.objects.order_by("pk").values_list("pk", flat=True))
    assert sum(uid.startswith("alert") for uid in numbers_by_id(http)) == 1
    stream = Stream.objects.get()
    assert stream.sent_count == CHANGES + 1
    assert stream.dead_count == stream.rejected_count == 0


@pytest.mark.parametrize(("dies", "step"), [("before", 1), ("after", 1), ("statement", 3)])
def test_a_stream_killed_anywhere_goes_on_without_loss(
    jobs: Jobs, http: Http, dies: str, step: int
) -> None:
    stream = write_and_stream(http)
    deaths = 0
    for turn in range(200):
        (code,) = jobs.run(Job("stream", (str(stream.pk),), dies=dies, at=1 + step * (turn % 9)))
        if code == 0:
            break
        assert code == KILLED
        deaths += 1
    assert jobs.run(Job("stream", (str(stream.pk),))) == [0]
    assert deaths > 2
    check_all_came(http)
    assert len(http.posts) <= CHANGES + 1 + deaths


def test_a_stream_worked_on_by_many_doubles_nothing(jobs: Jobs, http: Http) -> None:
    stream = write_and_stream(http)
    job = Job("stream_beside", (str(stream.pk),))
    assert jobs.run(*[job] * 4) == [0] * 4
    assert jobs.run(job, job) == [0, 0]
    check_all_came(http)
    assert len(http.posts) == CHANGES + 1
