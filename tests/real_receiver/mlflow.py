"""MLflow's tracking server, an OTLP receiver that others wrote, in an environment of its own.

Read by its own client, in its own environment: what a person who uses MLflow gets to see.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.real_receiver.servers import serve
from tests.services import free_port

MLFLOW_VERSION = "3.17.2"
"""The last whose parts are all on the package index: 3.18.0 came without its mlflow-skinny."""
PACKAGE = f"mlflow=={MLFLOW_VERSION}"
EXPERIMENT_HEADER = "x-mlflow-experiment-id"
DEFAULT_EXPERIMENT = "0"
READ_TIMEOUT_S = 120
READ = """
import json, sys
from mlflow import MlflowClient
traces = MlflowClient(sys.argv[1]).search_traces(locations=["0"], max_results=100)
json.dump([
    {"trace_id": trace.info.trace_id, "span_id": span.span_id, "parent_id": span.parent_id,
     "name": span.name, "start_ns": span.start_time_ns, "end_ns": span.end_time_ns,
     "status": span.status.status_code.name, "attributes": dict(span.attributes)}
    for trace in traces for span in trace.data.spans
], sys.stdout, default=str)
"""

SpanFound = dict[str, Any]


@dataclass(frozen=True, slots=True)
class MLflow:
    """A running MLflow."""

    url: str
    python: Path

    def spans(self) -> dict[str, SpanFound]:
        """The spans it has, by span id; a doubled one fails."""
        done = subprocess.run(
            [self.python, "-c", READ, self.url],
            capture_output=True,
            text=True,
            check=True,
            timeout=READ_TIMEOUT_S,
        )
        found: list[SpanFound] = json.loads(done.stdout)
        by_id = {str(span["span_id"]): span for span in found}
        assert len(by_id) == len(found)
        return by_id


@contextlib.contextmanager
def serve_mlflow(venv: Path, folder: Path) -> Iterator[MLflow]:
    """MLflow on a free port of 127.0.0.1 with one worker, its data in a folder."""
    port = free_port()
    command: list[str | Path] = [
        *(venv / "bin" / "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
        *("--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--workers", "1"),
        *("--artifacts-destination", folder / "artifacts"),
    ]
    environ = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    url = f"http://127.0.0.1:{port}"
    with serve(command, folder, f"{url}/health", environ):
        yield MLflow(url, venv / "bin" / "python")
