"""Arize Phoenix, an OTLP receiver that others wrote, in an environment of its own on loopback."""

from __future__ import annotations

import contextlib
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.real_receiver.servers import serve, wait_for
from tests.services import free_port

PHOENIX_VERSION = "20.26.1"
PACKAGE = f"arize-phoenix=={PHOENIX_VERSION}"

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
        return dict(wait_for(self.spans, count))

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
        "PHOENIX_WORKING_DIR": str(folder),
        "PHOENIX_HOST": "127.0.0.1",
        "PHOENIX_PORT": str(port),
        "PHOENIX_GRPC_PORT": str(free_port()),
        "PHOENIX_TELEMETRY_ENABLED": "false",
        "PHOENIX_ALLOW_EXTERNAL_RESOURCES": "false",
    }
    url = f"http://127.0.0.1:{port}"
    with serve([venv / "bin" / "phoenix", "serve"], folder, f"{url}/healthz", environ):
        yield Phoenix(url)
