"""SIGTERM to a real worker and a real beat: the step in hand ends, the rest is handed back."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from fleet.bringup import BEAT_OPTIONS, WORKER_OPTIONS
from fleet.models import TaskRun
from tests.faults import served
from tests.fleet.watch.spans import received
from tests.telemetry import receivers

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.slow,
    pytest.mark.timeout(served.PATIENCE_S),
]
STEP = """
import os, sys, time
os.environ["DJANGO_SETTINGS_MODULE"] = "fleet.settings"
from pathlib import Path
from fleet.celery import app
FOLDER = Path(os.environ["STEP_FOLDER"])
@app.task(name="tests.step")
def step(name):
    from fleet.models import ProcessBeat
    ProcessBeat.objects.count()
    (FOLDER / f"{name}.begun").touch()
    while not (FOLDER / "go").exists():
        time.sleep(0.02)
    with (FOLDER / f"{name}.done").open("a") as out:
        out.write("x")
"""
WORK = STEP + 'app.worker_main(["--quiet", "worker", *sys.argv[1:]])\n'
SEND = """
import sys
from fleet.celery import app
for name in sys.argv[2:]:
    headers = {"traceparent": sys.argv[1]} if sys.argv[1] else {}
    app.send_task("tests.step", args=[name], headers=headers)
"""
PARENT = f"00-{'c' * 32}-{'d' * 16}-01"
CONSUMER = 5


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker on a broker of its own; ``folder`` is where its steps leave their marks."""

    process: subprocess.Popen[bytes]
    folder: Path
    log: Path
    environ: Mapping[str, str]

    def send(self, *names: str, parent: str) -> None:
        argv = [sys.executable, "-c", SEND, parent, *names]
        subprocess.run(argv, env=dict(self.environ), cwd=served.ROOT, check=True)

    def go(self) -> None:
        (self.folder / "go").touch()

    def done(self) -> dict[str, str]:
        return {path.stem: path.read_text() for path in self.folder.glob("*.done")}


@contextmanager
def worker(folder: Path, *options: str, **more: str) -> Iterator[Worker]:
    home = folder / "home"
    home.mkdir(exist_ok=True)
    environ = served.console_environment(
        FLEET_HOME=str(home), STEP_FOLDER=str(folder), PYTHONWARNINGS="ignore", **more
    )
    log = folder / "worker.log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", WORK, *WORKER_OPTIONS, "--concurrency=1", *options],
            env=environ,
            cwd=served.ROOT,
            stdout=out,
            stderr=out,
        )
    try:
        yield Worker(process, folder, log, environ)
    finally:
        process.kill()
        process.wait(60)


def the_step_in_hand_ends_and_the_next_is_not_lost(folder: Path, **more: str) -> None:
    """Two steps for one pair of hands, SIGTERM amid the first, and then another worker."""
    with worker(folder, **more) as first:
        first.send("one", "two", parent=PARENT)
        served.wait_until(lambda: len(list(folder.glob("*.begun"))) == 1, first.log.read_text)
        begun = next(folder.glob("*.begun")).stem
        first.process.send_signal(signal.SIGTERM)
        served.wait_until(lambda: "Warm shutdown" in first.log.read_text(), first.log.read_text)
        assert first.process.poll() is None
        first.go()
        assert first.process.wait(120) == 0
        assert first.done()[begun] == "x"
        is_handed_back = len(first.done()) == 1
    if is_handed_back:
        with worker(folder, **more) as second:
            served.wait_until(lambda: len(second.done()) == 2, second.log.read_text)
    assert first.done() == {"one": "x", "two": "x"}


def test_a_worker_on_plain_files_ends_its_step_and_sends_its_span(tmp_path: Path) -> None:
    with receivers.http() as http:
        endpoint = f"{http.url}/v1/traces"
        the_step_in_hand_ends_and_the_next_is_not_lost(tmp_path, FLEET_TRACES_ENDPOINT=endpoint)
        span = next(each for each in received(http) if each.name == "task tests.step")
    assert (span.trace_id, span.parent_id, span.kind) == ("c" * 32, "d" * 16, CONSUMER)
    assert span.says["celery.state"] == "SUCCESS"
    assert span.says["fleet.db.statements"] == 1


@pytest.mark.redis
def test_a_worker_on_redis_ends_its_step_and_hands_back_the_next(
    tmp_path: Path, redis_url: str
) -> None:
    the_step_in_hand_ends_and_the_next_is_not_lost(tmp_path, REDIS_URL=redis_url)


def test_beat_ends_at_once_and_a_worker_that_stops_writes_what_it_counted(tmp_path: Path) -> None:
    with worker(tmp_path) as one:
        beat = subprocess.Popen(
            [
                *(sys.executable, "-m", "celery", "--quiet", "-A", "fleet.celery", "beat"),
                *(*BEAT_OPTIONS, str(tmp_path / "schedule")),
            ],
            env=dict(one.environ),
            cwd=served.ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            served.wait_until(
                lambda: TaskRun.objects.filter(task="telemetry.relay.tasks.relay").exists(),
                one.log.read_text,
            )
            beat.send_signal(signal.SIGTERM)
            assert beat.wait(60) == 0
        finally:
            beat.kill()
        one.process.send_signal(signal.SIGTERM)
        assert one.process.wait(120) == 0
    assert not TaskRun.objects.filter(run_count=0).exists()
