"""Celery: the schedule names tasks that exist, and a real worker runs them off plain files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fleet.celery import HEARTBEAT_TASK, app

ROOT = Path(__file__).parent.parent.parent
DEADLINE_S = 60.0


@pytest.mark.django_db
def test_every_scheduled_task_is_registered_and_expires() -> None:
    app.loader.import_default_modules()
    for name, entry in app.conf.beat_schedule.items():
        assert entry["task"] in app.tasks, name
        assert entry["options"]["expires"] > 0
    assert str(app.conf.timezone) == "UTC"


def test_the_heartbeat_comes_often_enough_for_the_health_page() -> None:
    from fleet.health import BEAT_WARN_S

    entry = next(e for e in app.conf.beat_schedule.values() if e["task"] == HEARTBEAT_TASK)
    assert entry["schedule"] * 3 < BEAT_WARN_S


@pytest.mark.slow
def test_worker_and_beat_show_life_through_the_plain_file_broker(tmp_path: Path) -> None:
    environ = {
        "PATH": os.environ["PATH"],
        "FLEET_HOME": str(tmp_path),
        "DJANGO_SETTINGS_MODULE": "fleet.settings",
    }

    def manage(*args: str) -> str:
        done = subprocess.run(
            [sys.executable, "manage.py", *args],
            cwd=ROOT,
            env=environ,
            capture_output=True,
            text=True,
            check=True,
            timeout=90,
        )
        return done.stdout

    manage("migrate", "--verbosity", "0")
    schedule = str(tmp_path / "beat")
    options = [
        "--pool",
        "solo",
        "--beat",
        "--schedule",
        schedule,
        "--queues",
        "fleet,rollup,export",
    ]
    worker = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "fleet.celery", "worker", *options],
        cwd=ROOT,
        env=environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        seen = _wait_for_beats(tmp_path / "fleet.sqlite3")
    finally:
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait(timeout=10)
    assert seen == {"beat", "worker"}


def _wait_for_beats(path: Path) -> set[str]:
    """Poll the database until both kinds have shown life or the deadline has passed."""
    import sqlite3

    kinds: set[str] = set()
    deadline_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline_s and len(kinds) < 2:
        connection = sqlite3.connect(path, timeout=5)
        kinds = {row[0] for row in connection.execute("SELECT kind FROM fleet_processbeat")}
        connection.close()
        time.sleep(0.05)
    return kinds
