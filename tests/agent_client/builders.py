"""Builders of events, homes and child processes; every argument has a default."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from agent_client import health
from agent_client.contract.events import (
    EVENT_TYPES,
    ErrorEvent,
    Event,
    ModelCallEvent,
    RunEvent,
    SpanEvent,
    ToolCallEvent,
)
from agent_client.contract.tables import EVENT_TABLES
from agent_client.eventlog import log_files
from agent_client.files import telemetry_dir
from agent_client.journal import Intake, Journal
from agent_client.spool import Chunk, Frame
from agent_client.store import DATABASE, Store

ROOT = Path(__file__).resolve().parents[2]
START_NS = ((int(time.time()) // 86_400 - 1) * 86_400 + 35_110) * 1_000_000_000
"""Yesterday morning: a day that retention leaves alone, and the same in every process."""
SECOND_NS = 1_000_000_000
# Values of any column: what a builder is told goes into the event unseen.
Anything = Any


def run_event(number: int = 0, **changes: Anything) -> RunEvent:
    defaults: dict[str, Anything] = {
        "run_id": f"run-{number}",
        "trace_id": f"trace-{number}",
        "session_id": f"session-{number}",
        "entrypoint": "cli",
        "start_ns": START_NS,
        "end_ns": START_NS + SECOND_NS,
        "end_reason": "completed",
    }
    return RunEvent(**{**defaults, **changes})


def model_call(number: int = 0, **changes: Anything) -> ModelCallEvent:
    defaults: dict[str, Anything] = {
        "span_id": f"call-{number}",
        "run_id": "run-0",
        "provider": "custom",
        "model": "model-a",
        "input_tokens": 100,
        "start_ns": START_NS,
        "end_ns": START_NS + 1000,
    }
    return ModelCallEvent(**{**defaults, **changes})


def tool_call(number: int = 0, **changes: Anything) -> ToolCallEvent:
    defaults: dict[str, Anything] = {
        "span_id": f"tool-{number}",
        "run_id": "run-0",
        "tool_name": "terminal",
        "result_class": "ok",
        "start_ns": START_NS,
    }
    return ToolCallEvent(**{**defaults, **changes})


def error_event(number: int = 0, **changes: Anything) -> ErrorEvent:
    defaults: dict[str, Anything] = {
        "span_id": f"error-{number}",
        "run_id": "run-0",
        "ts_ns": START_NS,
        "error_class": "auth",
        "recovery": "none",
    }
    return ErrorEvent(**{**defaults, **changes})


def span_event(number: int = 0, **changes: Anything) -> SpanEvent:
    defaults: dict[str, Anything] = {
        "span_id": f"span-{number}",
        "trace_id": "trace-0",
        "run_id": "run-0",
        "parent_span_id": "run-0",
        "name": "turn",
        "kind": "turn",
        "start_ns": START_NS,
        "end_ns": START_NS + SECOND_NS,
        "status": "ok",
    }
    return SpanEvent(**{**defaults, **changes})


def happening(event: str, number: int = 0, **changes: Anything) -> Event:
    """A gateway, cron, skill, memory or feedback event."""
    made: Anything = EVENT_TYPES[event]
    defaults = {"span_id": f"{event}-{number}", "run_id": "run-0", "ts_ns": START_NS}
    built: Event = made(**{**defaults, **changes})
    return built


def one_of_each() -> list[Event]:
    """An event for every table, in the tables' order."""
    kinds = [table.event for table in EVENT_TABLES[5:]]
    return [
        run_event(),
        model_call(),
        tool_call(),
        error_event(),
        span_event(),
        *(happening(kind) for kind in kinds),
    ]


def store_events(home: Path, *events: Event) -> None:
    """Put events into log and database as the writer would, without a spool."""
    journal = Journal(home)
    with journal.locked() as connection:
        journal.append_events(connection, [event.to_dict() for event in events])
    journal.close()


def query(home: Path, sql: str, *values: object) -> list[tuple[Anything, ...]]:
    """Rows of the home's database."""
    path = telemetry_dir(home) / DATABASE
    with closing(sqlite3.connect(path, timeout=5)) as connection:
        return connection.execute(sql, values).fetchall()


def span_ids(home: Path) -> list[str]:
    """The model calls' ids in the order they were stored."""
    return [row[0] for row in query(home, "SELECT span_id FROM tel_model_calls ORDER BY seq")]


def call_ids(first: int, after: int) -> list[str]:
    return [f"call-{number}" for number in range(first, after)]


def all_rows(home: Path) -> dict[str, list[tuple[Anything, ...]]]:
    """Every row of the tables."""
    tables = [table.name for table in EVENT_TABLES]
    return {table: query(home, f"SELECT * FROM {table} ORDER BY seq") for table in tables}


def log_records(home: Path) -> list[dict[str, Anything]]:
    """The lines of all the log's segments that are records."""
    found = []
    for path in log_files(telemetry_dir(home)):
        for line in path.read_bytes().splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
    return found


def ledger(home: Path) -> tuple[int, dict[str, int]]:
    """Stored and lost events as the home's own books have them."""
    with Store(home) as store:
        return health.stored(store.connection), health.totals(store.connection)


def intake(*payloads: bytes, ring: str = "p.0", first_k: int = 0, **refused: int) -> Intake:
    """A chunk as a ring would give it."""
    frames = tuple(
        Frame(number, number, payload) for number, payload in enumerate(payloads, start=first_k)
    )
    return Intake(Chunk(ring, frames, 0, first_k + len(frames)), refused)


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "HERMES_HOME": str(home), "PYTHONPATH": str(ROOT)}


PRELUDE = """
import os, signal, sys, threading, time
from pathlib import Path
from agent_client.emitter import Emitter
from tests.agent_client.builders import model_call, run_event
home = Path(os.environ["HERMES_HOME"])
"""


def start(home: Path, script: str) -> subprocess.Popen[bytes]:
    """A Python process in a home; its script finds Emitter, home and the builders."""
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + script],
        env=environment(home),
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )


def finish(process: subprocess.Popen[bytes], returncode: int = 0) -> bytes:
    """What the process printed, once it has ended as expected."""
    printed, _ = process.communicate(timeout=30)
    assert process.returncode == returncode
    return printed


def wait_until(is_so: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Wait for something another thread or process does."""
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.002)
