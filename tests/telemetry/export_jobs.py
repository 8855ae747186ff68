"""Orders and jobs with defaults, and what their files hold when somebody else reads them."""

from __future__ import annotations

import csv
import gzip
import io
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.contrib.auth.models import User
from pyarrow import parquet

from fleet.lib.clock import now
from telemetry.exports.choice import Choice
from telemetry.exports.destinations import folder_name, own_folder
from telemetry.exports.orders import Order, order_job
from telemetry.exports.run import run_job
from telemetry.models import ExportFile, ExportJob
from tests.telemetry import builders as make

ACTOR = "tester"
type Settings = Any  # pytest-django's fixture has no name to import


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def order(
    *datasets: str, actor: str | User = ACTOR, **values: object
) -> ExportJob:  # Any: fields of Order
    """An export of the last two days, as NDJSON, ordered now."""
    defaults: dict[str, Any] = {
        "datasets": datasets or ("tool_calls",),
        "fmt": "ndjson",
        "start_at": now() - timedelta(days=2),
        "end_at": now() + timedelta(minutes=1),
    }
    chosen = values.pop("chosen", {})
    assert isinstance(chosen, dict)
    values.setdefault("choice", Choice.from_dict(chosen))
    return order_job(Order(**(defaults | values)), actor=actor)


def finished(*datasets: str, **values: Any) -> ExportJob:  # noqa: ANN401 -- fields of Order  # Any: fields of Order
    """The same, carried out."""
    return done(order(*datasets, **values))


def done(job: ExportJob) -> ExportJob:
    job = run_job(job.pk, budget_s=60)
    assert job.state == ExportJob.State.DONE, job.last_error
    return job


def folder(job: ExportJob) -> Path:
    return own_folder() / folder_name(job)


def data_of(file: ExportFile) -> bytes:
    data = (folder(file.job) / file.name).read_bytes()
    return gzip.decompress(data) if file.name.endswith(".gz") else data


def read(job: ExportJob, dataset: str = "") -> list[dict[str, Any]]:  # Any: JSON
    """Every row of a result, read by the format's own reader."""
    rows: list[dict[str, Any]] = []
    files = job.files.order_by("dataset", "part")
    for file in files.filter(dataset=dataset) if dataset else files:
        data = data_of(file)
        if job.fmt == "ndjson":
            rows += [json.loads(line) for line in data.splitlines()]
        elif job.fmt == "json":
            rows += json.loads(data)
        elif job.fmt == "csv":
            rows += csv.DictReader(io.StringIO(data.decode(), newline=""))
        else:
            rows += parquet.read_table(io.BytesIO(data)).to_pylist()
    return rows


def push_calls(count: int, first: int = 1, **values: object) -> None:
    """So many tool calls, in batches, spread over two hours."""
    for start in range(first, first + count, 1000):
        end = min(start + 1000, first + count)
        make.push(
            *(
                make.tool_call(n, span_id=f"{n:016x}", start_ns=make.recent_ns(60 + n % 7200))
                | values
                for n in range(start, end)
            )
        )


def digests(job: ExportJob) -> dict[str, str]:
    return {file.name: file.sha256 for file in job.files.all()}
