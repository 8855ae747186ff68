"""Pages asked of a real hot standby: the primary is left alone, a lag is seen, an outage is not."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults import served
from tests.faults.jobs import Job, jobs_process
from tests.faults.servers import Cluster
from tests.telemetry import builders as make

pytestmark = [pytest.mark.postgres, pytest.mark.slow, pytest.mark.timeout(served.PATIENCE_S)]
ONLY_THE_STANDBY = {"replica"}


class Asker:
    """A process that asks the overview's questions of whatever its settings say."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self) -> dict[str, Any]:  # Any: JSON
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        return found


@contextlib.contextmanager
def asker(environ: dict[str, str]) -> Iterator[Asker]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.insight_asker"],
        env=environ,
        cwd=served.ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield Asker(process)
        assert process.stdin is not None
        process.stdin.close()


def store_runs(folder: Path, environ: dict[str, str], install: str, first: int, end: int) -> None:
    lines = folder / f"runs-{first}.ndjson"
    lines.write_bytes(make.ndjson(*(make.run(number) for number in range(first, end))))
    with jobs_process(environ) as jobs:
        assert jobs.run(Job("load", (str(lines), install, "100000"))) == [0]
        assert jobs.run(Job("fill")) == [0]


def test_pages_read_from_a_standby_see_its_lag_and_outlive_it(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        primary = Cluster(stack)
        primary.start()
        environ = served.console_environment(
            DATABASE_URL=primary.url, FLEET_HOME=str(tmp_path / "home")
        )
        with jobs_process(environ) as jobs:
            assert jobs.run(Job("migrate")) == [0]
            assert jobs.run(Job("credentials", (str(tmp_path / "tokens"), "1"))) == [0]
        install = str(primary.ask("SELECT id FROM fleet_install")[0][0])
        store_runs(tmp_path, environ, install, 1, 4)
        standby = Cluster(stack, of=primary)
        standby.start()
        served.wait_until(lambda: standby.ask("SELECT pg_is_in_recovery()") == [(True,)])

        asking = stack.enter_context(asker({**environ, "DATABASE_REPLICA_URL": standby.url}))
        seen = asking.ask()
        assert (seen["runs"], set(seen["statements"])) == (3, ONLY_THE_STANDBY)

        standby.ask("SELECT pg_wal_replay_pause()::text")
        store_runs(tmp_path, environ, install, 4, 6)
        assert asking.ask()["runs"] == 3, "behind, and of one state"
        standby.ask("SELECT pg_wal_replay_resume()::text")
        served.wait_until(lambda: asking.ask()["runs"] == 5)

        standby.stop_immediately()
        without = asking.ask()
        assert without["runs"] == 5
        assert "default" in without["statements"]
