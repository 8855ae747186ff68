"""The console as it is run: gunicorn with the product's options, on the database of the test."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from django.conf import settings
from django.db import connection

from fleet.bringup import web_options
from tests.faults import raw
from tests.services import free_port, stop

ROOT = Path(__file__).resolve().parents[2]
START_S = 120.0
PATIENCE_S = 400
"""For tests that start servers: on a machine with other work a start takes minutes, not seconds."""
CONSOLE = "fleet.wsgi:application"
SABOTAGED = "tests.faults.sabotaged:application"


@dataclass(frozen=True, slots=True)
class Served:
    """A console that listens. ``arm``: the file that names the point at which it dies."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path
    arm: Path

    def worker_pids(self) -> list[int]:
        """Its worker processes."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in children.read_text().split()]

    def log_text(self) -> str:
        """What it wrote; it must hold no traceback of ours."""
        return self.log.read_text(errors="replace")


def database_url() -> str:
    """The URL of the database that this test process uses."""
    spec = connection.settings_dict
    if connection.vendor == "sqlite":
        return f"sqlite:///{quote(str(spec['NAME']))}"
    password = f":{quote(str(spec['PASSWORD']))}" if spec["PASSWORD"] else ""
    user = f"{quote(str(spec['USER']))}{password}@" if spec["USER"] else ""
    return f"postgres://{user}{spec['HOST']}:{spec['PORT']}/{spec['NAME']}"


def console_environment(**more: str) -> dict[str, str]:
    """The environment of a console that shares database and secrets with this test process."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("FLEET_", "DJANGO_", "DATABASE_", "REDIS_"))
    }
    return kept | {
        "DJANGO_SETTINGS_MODULE": "fleet.settings",
        "DATABASE_URL": database_url(),
        "FLEET_HOME": str(settings.FLEET_HOME),
        "FLEET_SECRET_KEY": settings.SECRET_KEY,
        "PYTHONPATH": str(ROOT),
        **more,
    }


@contextmanager
def serve(
    folder: Path,
    *,
    app: str = CONSOLE,
    worker_count: int = 2,
    worker_class: str = "",
    environ: Mapping[str, str] | None = None,
    port: int = 0,
) -> Iterator[Served]:
    """Serve until the block ends; the database is there already. ``port``: 0 for any."""
    bind = f"127.0.0.1:{port or free_port()}"
    arm, log = folder / "arm", folder / "console.log"
    own = {"FAULTS_ARM": str(arm), "FLEET_BIND": bind, "WEB_CONCURRENCY": str(worker_count)}
    options = list(web_options())
    options[0] = app
    options[options.index("--bind") + 1] = bind
    if worker_class:
        options += ["--worker-class", worker_class]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", *options],
            env={**console_environment(), **own, **(environ or {})},
            cwd=ROOT,
            stdout=out,
            stderr=out,
        )
    console = Served(f"http://{bind}", process, log, arm)
    try:
        wait_until(lambda: is_healthy(console.url), console.log_text)
        yield console
    finally:
        stop(process, patience_s=20)


def is_healthy(url: str) -> bool:
    """Whether the console answers at all."""
    try:
        return raw.request(url, method="GET", path="/healthz").status == 200
    except (OSError, http.client.HTTPException):
        return False


def wait_until(
    is_so: Callable[[], bool], say: Callable[[], str] = str, *, timeout_s: float = START_S
) -> None:
    """Wait for what another process does; ``say`` tells why it did not come."""
    deadline_s = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline_s, f"did not happen in time: {say()[-3000:]}"
        time.sleep(0.02)


def push_until_acknowledged(
    url: str, token: str, body: bytes, batch_id: object, *, timeout_s: float = START_S
) -> tuple[raw.Answer, list[int]]:
    """Push as an agent does, until a receipt comes; with the statuses before it, 0 for none."""
    deadline_s = time.monotonic() + timeout_s
    before: list[int] = []
    while time.monotonic() < deadline_s:
        try:
            answer = raw.push(url, token, body, batch_id)
        except (OSError, http.client.HTTPException):
            before.append(0)
        else:
            if answer.status == 200:
                return answer, before
            before.append(answer.status)
        time.sleep(0.02)
    raise AssertionError(f"never acknowledged: {before[-20:]}")
