"""A console under gunicorn, a worker under Celery, the real agent: overload comes and goes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from django.core.management import call_command
from django.db import connection, transaction

from agent_client import enroll, push
from agent_client.contract import wire
from agent_client.credential import load_credential
from agent_client.http import ApiError, connect_to
from fleet.enroll import mint_token
from telemetry.models import IngestBatch, ModelCall, Run, SpooledBatch
from telemetry.store.partitions import drop_partitions, existing_partitions
from tests.agent_client.summaries import run_of
from tests.faults.served import ROOT, Served, console_environment, serve, wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]
RUNS = 5


def enrolled(home: Path, console: Served) -> Path:
    _, text = mint_token(actor="operator")
    enroll.enroll(home, console.url, text)
    return home


def push_runs(home: Path) -> None:
    for number in range(RUNS):
        run_of(home, number)
        result = push.push_once(home)
        assert (result.status, result.pending) == ("pushed", 0)


@contextmanager
def working(folder: Path) -> Iterator[None]:
    """A worker with its beat, as an operator runs it."""
    options = ["--pool", "solo", "--beat", "--schedule", str(folder / "beat")]
    options += ["--queues", "fleet,rollup"]
    process = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "fleet.celery", "worker", *options],
        cwd=ROOT,
        env=console_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(20)


def everything_is_stored_once() -> None:
    assert (Run.objects.count(), ModelCall.objects.count()) == (RUNS, RUNS)
    for batch in IngestBatch.objects.all():
        places = (batch.inserted_count, batch.merged_count, batch.duplicate_count)
        assert batch.received_count == sum(places)
        assert batch.drained_at is not None


@pytest.mark.both_engines
def test_pushes_are_acknowledged_into_the_spool_and_the_worker_stores_them(tmp_path: Path) -> None:
    with serve(tmp_path, environ={"FLEET_VALVE": "open"}) as console:
        push_runs(enrolled(tmp_path / "home", console))
    assert (Run.objects.count(), SpooledBatch.objects.count()) == (0, RUNS)
    with working(tmp_path):
        wait_until(lambda: not SpooledBatch.objects.exists())
    everything_is_stored_once()


@pytest.mark.postgres
@pytest.mark.parametrize("day", ["there", "missing"])
def test_a_locked_table_opens_the_valve_and_agents_notice_nothing(tmp_path: Path, day: str) -> None:
    if day == "missing":  # to make it waits for the lock as well
        drop_partitions(part for part in existing_partitions() if part.parent == "telemetry_run")
    else:
        call_command("telemetry_partitions", "apply", verbosity=0)
    with serve(tmp_path, environ={"FLEET_VALVE_SLOW_MS": "300"}) as console:
        home = enrolled(tmp_path / "home", console)
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("LOCK TABLE telemetry_run IN ACCESS EXCLUSIVE MODE")
            push_runs(home)
        assert "valve_opened" in console.log_text()
    assert SpooledBatch.objects.count() == RUNS
    with working(tmp_path):
        wait_until(lambda: not SpooledBatch.objects.exists())
    everything_is_stored_once()


@pytest.mark.both_engines
def test_a_refusal_before_the_body_is_read_reaches_a_client_that_sends_much(tmp_path: Path) -> None:
    quota = {"FLEET_RATE_INSTALL_BYTES_PER_MIN": "1000"}
    with serve(tmp_path, worker_count=1, environ=quota) as console:
        credential = load_credential(enrolled(tmp_path / "home", console))
        assert credential is not None
        client = connect_to(console.url)

        def send(body: bytes) -> None:
            headers = {
                "Content-Type": wire.MEDIA_NDJSON,
                wire.HEADER_IDEMPOTENCY: str(uuid4()),
                wire.HEADER_PLANE: "local",
                wire.HEADER_SCHEMA: "1",
            }
            token = credential.credential
            client.request("POST", wire.PATH_TELEMETRY, body=body, headers=headers, token=token)

        send(b"\n" * 5000)
        for _ in range(5):
            with pytest.raises(ApiError) as refused:
                send(b"\n" * (wire.MAX_BODY_BYTES - 1))
            assert (refused.value.status, refused.value.code) == (429, "rate_limited")
            assert (refused.value.retry_after_s or 0) >= 1
