"""Redis stopped and emptied: it is a doorbell. Pushes go on, the rollups catch up by themselves."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from fleet.bringup import BEAT_OPTIONS, WORKER_OPTIONS
from fleet.lib.clock import ns_to_datetime
from telemetry.rollup.fill import pending_hours
from tests.faults import raw, served
from tests.faults.books import check_cells, read_books
from tests.faults.servers import RedisServer
from tests.telemetry import builders as make

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.redis,
    pytest.mark.postgres,
    pytest.mark.slow,
    pytest.mark.timeout(served.PATIENCE_S),
]
AT_NS = make.recent_ns(2 * 3600)


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    with contextlib.ExitStack() as stack:
        server = RedisServer(stack)
        server.start()
        yield server


SUPERVISED = """
import sys
from fleet.supervise import Child, Supervisor
sys.exit(Supervisor([Child(sys.argv[1], tuple(sys.argv[2:]))]).run())
"""


@contextlib.contextmanager
def worker_and_beat(folder: Path, environ: dict[str, str]) -> Iterator[None]:
    """The console's own worker and beat, each supervised as ``up`` does it.

    A Redis that goes while a task is acknowledged ends Celery's worker; it is started again.
    """
    celery = [sys.executable, "-m", "celery", "--quiet", "-A", "fleet.celery"]
    commands = {
        "worker": [*celery, "worker", *WORKER_OPTIONS],
        "beat": [*celery, "beat", *BEAT_OPTIONS, str(folder / "beat-schedule")],
    }
    with contextlib.ExitStack() as stack:
        for name, command in commands.items():
            out = stack.enter_context((folder / f"{name}.log").open("wb"))
            process = subprocess.Popen(
                [sys.executable, "-c", SUPERVISED, name, *command],
                env=environ,
                cwd=served.ROOT,
                stdout=out,
                stderr=out,
            )
            stack.callback(process.wait, 30)
            stack.callback(process.terminate)
        yield


def push_call(url: str, token: str, seq: int) -> None:
    answer = raw.push(url, token, make.ndjson(make.tool_call(seq, start_ns=AT_NS)), uuid4())
    assert answer.status == 200


def wait_for_cells(folder: Path) -> None:
    def is_filled() -> bool:
        return pending_hours() == []

    def logs() -> str:
        return "".join((folder / f"{name}.log").read_text() for name in ("worker", "beat"))

    served.wait_until(is_filled, logs)
    check_cells(ns_to_datetime(AT_NS), ns_to_datetime(AT_NS))


def test_pushes_go_on_without_redis_and_rollups_catch_up_after_it(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    own = {"REDIS_URL": redis_server.url}
    environ = served.console_environment(**own, PYTHONWARNINGS="ignore")
    token = raw.credential_of()
    with served.serve(tmp_path, environ=own) as console, worker_and_beat(tmp_path, environ):
        push_call(console.url, token, 1)
        wait_for_cells(tmp_path)
        redis_server.stop()
        for seq in range(2, 12):
            push_call(console.url, token, seq)
        assert pending_hours() != []
        redis_server.start()
        redis_server.flush()
        push_call(console.url, token, 12)
        wait_for_cells(tmp_path)
        redis_server.flush()
        push_call(console.url, token, 13)
        wait_for_cells(tmp_path)
    books = read_books()
    assert books.row_count == books.inserted == 13
