"""Arize Phoenix, an OTLP receiver that others wrote, in an environment of its own on loopback."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.services import free_port

PHOENIX_VERSION = "20.26.1"
PACKAGE = f"arize-phoenix=={PHOENIX_VERSION}"
START_TIMEOUT_S = 120
NOWHERE = "http://127.0.0.1:9"
"""A proxy that nobody is: whatever would go beyond this machine ends there."""

SpanFound = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Phoenix:
    """A running Phoenix."""

    url: str

    def spans(self) -> dict[str, SpanFound]:
        """What its REST API tells of the spans it has, by span id; a doubled one fails."""
        found = self._get("/v1/projects/default/spans?limit=1000")
        by_id = {str(span["context"]["span_id"]): span for span in found}
        assert len(by_id) == len(found)
        return by_id

    def wait_for(self, count: int) -> dict[str, SpanFound]:
        """Its spans, once there are as many: it answers before it has stored them."""
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while len(found := self.spans()) < count:
            assert time.monotonic() < deadline_s, found
            time.sleep(0.05)
        return found

    def _get(self, path: str) -> list[SpanFound]:
        try:
            with urllib.request.urlopen(self.url + path, timeout=30) as answer:
                found = json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            if error.code == 404:  # no project before the first span
                return []
            raise
        assert isinstance(found, list)
        return found


@contextlib.contextmanager
def serve_phoenix(venv: Path, folder: Path) -> Iterator[Phoenix]:
    """Phoenix on free ports of 127.0.0.1, its data in a folder, its own telemetry off."""
    port = free_port()
    environ = {
        **{name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ},
        "HOME": str(folder),
        "PHOENIX_WORKING_DIR": str(folder),
        "PHOENIX_HOST": "127.0.0.1",
        "PHOENIX_PORT": str(port),
        "PHOENIX_GRPC_PORT": str(free_port()),
        "PHOENIX_TELEMETRY_ENABLED": "false",
        "PHOENIX_ALLOW_EXTERNAL_RESOURCES": "false",
        "HTTP_PROXY": NOWHERE,
        "HTTPS_PROXY": NOWHERE,
        "NO_PROXY": "127.0.0.1",
    }
    log = folder / "phoenix.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [venv / "bin" / "phoenix", "serve"],
            env=environ,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
        )
    try:
        found = Phoenix(f"http://127.0.0.1:{port}")
        _wait_until_up(found, process, log)
        yield found
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_up(phoenix: Phoenix, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s and process.poll() is None:
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"{phoenix.url}/healthz", timeout=5),
        ):
            return
        time.sleep(0.05)
    raise RuntimeError(f"Phoenix did not start:\n{log.read_text()[-4000:]}")
