"""Rows, lines and batches with defaults; a test names only what it is about."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from uuid import UUID, uuid4

from agent_client.contract import tables
from agent_client.contract.events import EVENT_TYPES
from agent_client.contract.tables import BY_NAME, Table
from fleet.lib.clock import datetime_to_ns, now
from telemetry.ingest.decode import Body, read_body
from telemetry.ingest.receive import BatchHeader, Outcome, receive_batch
from telemetry.store.copy import Row, Stamp
from telemetry.store.pack import Value

INSTALL = UUID("01890000-0000-7000-8000-000000000001")
S = 1_000_000_000


def recent_ns(ago_s: float = 3600) -> int:
    """A time that ingest accepts, a while ago."""
    return datetime_to_ns(now()) - int(ago_s * S)


def record(kind: str, /, seq: int = 1, **values: object) -> dict[str, object]:
    """One record of a table as the agent exports it: every column, then overrides."""
    table = BY_NAME[kind]
    start_ns = recent_ns()
    defaults: dict[str, object] = {
        "run_id": "run-1",
        "span_id": f"span-{seq}",
        "start_ns": start_ns,
        "ts_ns": start_ns,
    }
    event = EVENT_TYPES[table.event]
    whole: dict[str, object] = {"_kind": kind, "seq": seq}
    for column in table.columns:
        spec = event.__dataclass_fields__[column.name]
        default = None if column.required else spec.default
        whole[column.name] = defaults.get(column.name, default)
    return whole | values


def run(seq: int = 1, /, **values: object) -> dict[str, object]:
    """A completed run of two seconds."""
    start_ns = values.pop("start_ns", recent_ns())
    assert isinstance(start_ns, int)
    defaults = {"start_ns": start_ns, "end_ns": start_ns + 2 * S, "end_reason": "completed"}
    more = {"entrypoint": "cli", "agent_version": "0.19.0"}
    return record("tel_runs", seq, **(defaults | more | values))


def model_call(seq: int = 1, /, **values: object) -> dict[str, object]:
    """A priced model call of half a second."""
    defaults = {"provider": "openrouter", "model": "m-1", "latency_ms": 500.0}
    numbers = {"input_tokens": 100, "output_tokens": 10, "estimated_cost_usd": 0.5}
    return record("tel_model_calls", seq, **(defaults | numbers | values))


def tool_call(seq: int = 1, /, **values: object) -> dict[str, object]:
    """A tool call that went well."""
    defaults = {"tool_name": "terminal", "duration_ms": 20.0, "result_class": "ok"}
    return record("tel_tool_calls", seq, **(defaults | values))


def error(seq: int = 1, /, **values: object) -> dict[str, object]:
    """A rate limit that was retried."""
    defaults = {"error_class": "rate_limit", "subsystem": "model", "recovery": "retried"}
    return record("tel_error_events", seq, **(defaults | values))


def one_of_each(start_ns: int | None = None) -> list[dict[str, object]]:
    """A record of every table, in the tables' order."""
    at_ns = recent_ns() if start_ns is None else start_ns
    return [
        record(table.name, seq, start_ns=at_ns, ts_ns=at_ns)
        for seq, table in enumerate(tables.EVENT_TABLES, start=1)
    ]


def span(seq: int = 1, /, **values: object) -> dict[str, object]:
    """A turn of one second."""
    start_ns = values.pop("start_ns", recent_ns())
    assert isinstance(start_ns, int)
    defaults = {"kind": "turn", "name": "turn", "status": "ok", "start_ns": start_ns}
    return record("tel_spans", seq, **(defaults | {"end_ns": start_ns + S} | values))


def row(data: Mapping[str, object]) -> Row:
    """The stored form of a record."""
    table = BY_NAME[str(data["_kind"])]
    values: list[Value] = []
    for name in (*table.column_names(), "seq"):
        value = data[name]
        assert value is None or isinstance(value, str | int | float | bool)
        values.append(value)
    return tuple(values)


def table_of(data: Mapping[str, object]) -> Table:
    return BY_NAME[str(data["_kind"])]


def stamp(install_id: UUID = INSTALL) -> Stamp:
    return Stamp(install_id, uuid4(), now())


def ndjson(*records: Mapping[str, object] | bytes) -> bytes:
    """Records, or raw lines, as a body."""
    lines = [item if isinstance(item, bytes) else line(item) for item in records]
    return b"".join(item + b"\n" for item in lines)


def line(data: Mapping[str, object]) -> bytes:
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode()


def body(*records: Mapping[str, object] | bytes, encoding: str = "identity") -> Body:
    data = ndjson(*records)
    wire_form = gzip.compress(data) if encoding == "gzip" else data
    return read_body(io.BytesIO(wire_form), encoding)


def header(**values: object) -> BatchHeader:
    defaults: dict[str, object] = {"install_id": INSTALL, "batch_id": uuid4()}
    return BatchHeader(**(defaults | values))  # type: ignore[arg-type]  # a builder's overrides


def push(*records: Mapping[str, object] | bytes, **values: object) -> Outcome:
    """Receive one batch of these records."""
    return receive_batch(header(**values), body(*records))


def hour_at(year: int, month: int, day: int, hour: int = 0) -> datetime:
    return datetime(year, month, day, hour, tzinfo=UTC)


ALL_TABLES = tables.EVENT_TABLES
