"""Spans that our own agent exported: each carries its row as ``hermes.*``, and becomes it again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from agent_client.contract import tables
from agent_client.contract.events import fault_of
from agent_client.contract.tables import Column, Table
from telemetry.ingest import otlp_names as names
from telemetry.ingest.otlp_spans import Attribute, OtlpSpan, SpanEvent
from telemetry.ingest.otlp_values import is_finite, json_object
from telemetry.ingest.validate import LineFault
from telemetry.store.copy import Row
from telemetry.store.pack import Value

_PLACE: Final = frozenset({"attrs_json", "end_ns", "parent_span_id", "span_id", "start_ns"})


def recorded_row(table: Table, span: OtlpSpan) -> Row:
    """The row that a span was exported from; its ids are the hashes that left the machine.

    Errors: LineFault, by the rules of the wire.
    """
    attributes = span.attributes
    placed: dict[str, Value] = {
        "start_ns": span.start_ns,
        "end_ns": span.ended_ns,
        "span_id": span.span_id,
        "parent_span_id": span.parent_id or None,
        "attrs_json": _recorded_attributes(attributes) if table is tables.SPANS else None,
    }
    values = [
        placed[column.name]
        if column.name in _PLACE and f"{names.HERMES}{column.name}" not in attributes
        else _stored(column, attributes.get(f"{names.HERMES}{column.name}"))
        for column in table.columns
    ]
    return (*values, _seq(attributes.get(names.HERMES_SEQ)))


def recorded_error(span: OtlpSpan, at: int, moment: SpanEvent) -> Row:
    """The error that the agent repeated as the ``at``-th event of its run's span."""
    placed: dict[str, Value] = {
        "span_id": f"{span.span_id}-{at}",
        "ts_ns": moment.time_ns,
        "parent_span_id": None,
        "start_ns": None,
        "end_ns": None,
    }
    said = moment.attributes
    values = [
        placed[column.name]
        if column.name in placed and f"{names.HERMES}{column.name}" not in said
        else _stored(column, said.get(f"{names.HERMES}{column.name}"))
        for column in tables.ERRORS.columns
    ]
    return (*values, 0)


def _stored(column: Column, value: Attribute | None) -> Value:
    """A column as the agent sent it, by the rules of the wire. Errors: LineFault."""
    code = fault_of(column, value)
    if code:
        raise LineFault(code, column.name)
    if isinstance(value, str) and "\x00" in value:
        raise LineFault("invalid_text", column.name)
    if column.kind == "flag" and value is not None:
        return bool(value)
    if column.kind in {"ms", "usd"} and value is not None:
        return float(value)
    return value


def _seq(value: Attribute | None) -> int:
    is_seq = isinstance(value, int) and not isinstance(value, bool)
    return int(value) if is_seq and 0 <= value <= tables.TIME_MAX_NS else 0  # type: ignore[operator, arg-type]  # narrowed by is_seq


def _recorded_attributes(attributes: Mapping[str, Attribute]) -> str | None:
    cut = len(names.HERMES_ATTRIBUTES)
    found = {
        name[cut:]: value
        for name, value in attributes.items()
        if name.startswith(names.HERMES_ATTRIBUTES) and is_finite(value)
    }
    return json_object(found)
