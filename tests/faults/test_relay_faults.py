"""Relays whose worker, database or broker dies: nothing lost, the books exact."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_django.plugin import DjangoDbBlocker

from telemetry.models import RelayCursor
from tests.faults import served
from tests.faults.jobs import KILLED, Job, Jobs, jobs_process
from tests.faults.servers import Cluster, RedisServer
from tests.faults.test_redis_stops import worker_and_beat
from tests.telemetry.flaky_receiver import Fault, FlakyReceiver
from tests.telemetry.relay_helpers import collector, cursor_of, fill

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.slow,
    pytest.mark.timeout(served.PATIENCE_S),
]
ALLOWED = {"FLEET_OTLP_HOSTS": "127.0.0.0/8", "FLEET_OTLP_PLAIN_HTTP": "true"}
BODY = 4
SPANS = 10


@pytest.fixture(scope="module")
def jobs(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[Jobs]:
    with django_db_blocker.unblock():
        environ = served.console_environment(**ALLOWED)
    with jobs_process(environ) as jobs:
        yield jobs


@pytest.mark.both_engines
def test_a_worker_killed_at_any_statement_repeats_the_same_records(jobs: Jobs) -> None:
    with FlakyReceiver() as receiver:
        destination = collector(receiver.url)
        RelayCursor.objects.update(sending={"max_records": BODY})
        fill(SPANS)
        killed = 0
        for at in range(1, 200):
            # The first statement that another round does not come to ends it: each is killed once.
            codes = jobs.run(Job("relay", (str(BODY),), "statement", at))
            RelayCursor.objects.update(lease_until=None)  # its time is over
            if codes == [0]:
                break
            assert codes == [KILLED]
            killed += 1
        assert killed > 10
        assert jobs.run(Job("relay", (str(BODY),))) == [0]
        cursor = cursor_of(destination)
        assert (cursor.sent_count, cursor.dead_count, cursor.waiting_count) == (SPANS, 0, 0)
        assert len(receiver.taken) == SPANS
        # What came twice came as the body it was.
        bodies = [tuple(request.ids) for request in receiver.requests]
        assert sum(len(body) for body in set(bodies)) == SPANS


@pytest.mark.both_engines
def test_workers_at_once_send_each_record_once(jobs: Jobs) -> None:
    with FlakyReceiver() as receiver:
        destination = collector(receiver.url)
        for at in range(0, 60, 6):
            fill(6, start=at)
        for _ in range(3):
            assert jobs.run(*(Job("relay", (str(BODY),)) for _ in range(3))) == [0, 0, 0]
        assert cursor_of(destination).sent_count == 60
        assert set(receiver.acknowledged.values()) == {1}
        assert len(receiver.acknowledged) == 60


@pytest.mark.postgres
def test_an_immediate_stop_of_postgresql_loses_nothing(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        cluster = Cluster(stack)
        cluster.start()
        environ = {"DATABASE_URL": cluster.url, "FLEET_HOME": str(tmp_path / "home"), **ALLOWED}
        jobs = stack.enter_context(jobs_process(served.console_environment(**environ)))
        receiver = stack.enter_context(FlakyReceiver())
        assert jobs.run(Job("migrate")) == [0]
        assert jobs.run(Job("relay_fill", (receiver.url, str(SPANS)))) == [0]
        stopped = threading.Event()

        def stop() -> None:
            cluster.stop_immediately()
            stopped.set()

        # In the middle of an exchange: the receiver has it, the console cannot write that down.
        receiver.faults = [Fault(), Fault(before=stop)]
        jobs.run(Job("relay", (str(BODY),)))
        assert stopped.is_set()
        cluster.start()
        assert jobs.run(Job("relay_expire")) == [0]
        assert jobs.run(Job("relay", (str(BODY),))) == [0]
        asked = "SELECT sent_count, dead_count, position > 0 FROM relay_cursor"
        assert cluster.ask(asked) == [(SPANS, 0, True)]
        assert len(receiver.taken) == SPANS
        bodies = [tuple(request.ids) for request in receiver.requests]
        assert sum(len(body) for body in set(bodies)) == SPANS


@pytest.mark.postgres
@pytest.mark.redis
def test_a_redis_that_is_emptied_and_stopped_only_delays(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        server = RedisServer(stack)
        server.start()
        receiver = stack.enter_context(FlakyReceiver())
        environ = served.console_environment(REDIS_URL=server.url, **ALLOWED)
        destination = collector(receiver.url)
        stack.enter_context(worker_and_beat(tmp_path, environ))
        fill(SPANS)
        served.wait_until(lambda: len(receiver.acknowledged) == SPANS)
        server.flush()
        fill(SPANS, start=SPANS)
        served.wait_until(lambda: len(receiver.acknowledged) == 2 * SPANS)
        server.stop()
        fill(SPANS, start=2 * SPANS)
        server.start()
        served.wait_until(lambda: len(receiver.acknowledged) == 3 * SPANS)
        served.wait_until(lambda: cursor_of(destination).sent_count == 3 * SPANS)
        assert set(receiver.acknowledged.values()) == {1}
