"""A receiver's own server as a process: started, waited for, ended."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from tests.services import stop

START_TIMEOUT_S = 120
NOWHERE = "http://127.0.0.1:9"
"""A proxy that nobody is: whatever would go beyond this machine ends there."""


@contextlib.contextmanager
def serve(
    command: Sequence[str | Path], folder: Path, health_url: str, environ: Mapping[str, str]
) -> Iterator[None]:
    """Run it, a new folder its home, until the block ends. Errors: RuntimeError with its log."""
    folder.mkdir()
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    own = {"HOME": str(folder), "HTTP_PROXY": NOWHERE, "HTTPS_PROXY": NOWHERE}
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env={**kept, **own, "NO_PROXY": "127.0.0.1", **environ},
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
        )
    try:
        _wait_until_up(health_url, process, log)
        yield
    finally:
        stop(process, patience_s=30)


def _wait_until_up(health_url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(health_url, timeout=5):
            return
        time.sleep(0.05)
    raise RuntimeError(f"It did not start:\n{log.read_text()[-4000:]}")


def wait_for[T](read: Callable[[], Mapping[str, T]], count: int) -> Mapping[str, T]:
    """What a receiver has, once it is as many: some answer before they have stored."""
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while len(found := read()) < count:
        assert time.monotonic() < deadline_s, found
        time.sleep(0.05)
    return found
