"""A live console: gunicorn as a process of its own on a database of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
START_S = 40


@dataclass(frozen=True, slots=True)
class Console:
    """Its address, and its management commands."""

    url: str
    environ: dict[str, str]

    def manage(self, *arguments: str, stdin: str = "") -> str:
        """Run ``manage.py`` on the same database; returns stdout."""
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            env=self.environ,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            timeout=120,
        )
        if done.returncode:
            raise RuntimeError(f"manage.py {' '.join(arguments)}: {done.stderr[-4000:]}")
        return done.stdout


@contextmanager
def serve_console(folder: Path, database_url: str) -> Iterator[Console]:
    """Migrate and serve until the block ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        bind = f"127.0.0.1:{probe.getsockname()[1]}"
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("FLEET_", "DJANGO_", "DATABASE_", "REDIS_"))
    }
    environ |= {
        "DJANGO_SETTINGS_MODULE": "fleet.settings",
        "DATABASE_URL": database_url,
        "FLEET_HOME": str(folder / "fleet"),
        "FLEET_BIND": bind,
        "FLEET_PUBLIC_URL": f"http://{bind}",
    }
    console = Console(f"http://{bind}", environ)
    console.manage("migrate", "--verbosity", "0")
    command = [sys.executable, "-m", "gunicorn", "fleet.wsgi", "--bind", bind, "--threads", "4"]
    log = folder / "console.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=environ, cwd=ROOT, stdout=out, stderr=out)
        try:
            _await(console.url + "/.well-known/hermes-fleet", process, log)
            yield console
        finally:
            process.terminate()
            process.wait(15)


def _await(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{url}: {error.code}\n{log.read_text()[-4000:]}") from error
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"the console did not start:\n{log.read_text()[-4000:]}")
