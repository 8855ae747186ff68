"""The reference's own telemetry: ``tel_*`` tables in the host's ``state.db``, its columns only."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from agent_client import schema
from agent_client.hostdb import STATE_DB
from tests.agent_client.builders import SECOND_NS, START_NS
from tests.agent_client.host_state import Anything, insert


@contextmanager
def seed_database(home: Path) -> Iterator[sqlite3.Connection]:
    """The host's connection to a ``state.db`` with the reference's empty tables."""
    home.mkdir(exist_ok=True)
    with closing(sqlite3.connect(home / STATE_DB, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        schema.m001_seed(connection)
        yield connection


def add_run(connection: sqlite3.Connection, number: int = 0, **changes: Anything) -> None:
    values: dict[str, Anything] = {
        "run_id": f"run-{number}",
        "trace_id": f"trace-{number}",
        "session_id": f"session-{number}",
        "entrypoint": "cli",
        "start_ns": START_NS + number * SECOND_NS,
        "end_ns": START_NS + number * SECOND_NS + SECOND_NS,
        "end_reason": "completed",
    }
    insert(connection, "tel_runs", **{**values, **changes})


def add_model_call(connection: sqlite3.Connection, number: int = 0, **changes: Anything) -> None:
    values: dict[str, Anything] = {
        "span_id": f"call-{number}",
        "run_id": "run-0",
        "provider": "custom",
        "model": "model-a",
        "input_tokens": 100,
        "latency_ms": 12.5,
    }
    insert(connection, "tel_model_calls", **{**values, **changes})


def add_tool_call(connection: sqlite3.Connection, number: int = 0, **changes: Anything) -> None:
    values: dict[str, Anything] = {
        "span_id": f"tool-{number}",
        "run_id": "run-0",
        "tool_name": "terminal",
        "result_class": "ok",
    }
    insert(connection, "tel_tool_calls", **{**values, **changes})


def add_error(connection: sqlite3.Connection, **changes: Anything) -> None:
    values: dict[str, Anything] = {"run_id": "run-0", "ts_ns": START_NS, "error_class": "auth"}
    insert(connection, "tel_error_events", **{**values, **changes})
