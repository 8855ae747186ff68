"""Errors and happenings as the bytes of OTLP log records, and errors as events of a run's span.

Records have an event name and no body; an error says its class and never its message, which may
hold anything. Specification: A5.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Final

from agent_client.contract import otlp_ids as ids
from agent_client.contract.otlp_names import (
    EXCEPTION_EVENT,
    OTHER_ERROR,
    SEVERITY_INFO,
    SEVERITY_WARN,
    Attributes,
    time_of,
)
from agent_client.contract.tables import ERRORS, Table
from telemetry.relay.cleaned import clean_errors
from telemetry.relay.spans import InstallSpans, Origin, columns_of
from telemetry.relay.wire import EVENT_ATTRIBUTE, LOG_ATTRIBUTE, attributes, delimited, text_of
from telemetry.store.relay_facts import InstallFacts
from telemetry.store.relay_rows import LOG_TABLES, Row

_NAMES: Final = ERRORS.column_names()
_RECOVERY: Final = _NAMES.index("recovery")
_times: Final = struct.Struct("<BQBQ").pack
_TIME_TAG: Final = 0x09
_OBSERVED_TAG: Final = 0x59
_event_time: Final = struct.Struct("<BQ").pack
_SAMPLED: Final = b"\x45\x01\x00\x00\x00"
_WARN: Final = bytes((0x10, SEVERITY_WARN)) + delimited(b"\x1a", b"WARN")
_INFO: Final = bytes((0x10, SEVERITY_INFO)) + delimited(b"\x1a", b"INFO")


class InstallLogs:
    """Writes the log records of one install; traces and parents are those of its spans."""

    def __init__(self, install_id: str, spans: InstallSpans) -> None:
        self._install_id = install_id
        self._spans = spans

    def of(self, table: Table) -> Callable[[Row, Row], tuple[bytes, Origin]]:
        """What writes the rows of a table."""
        return lambda raw, row: self.record(table, raw, row)

    def record(self, table: Table, raw: Row, row: Row) -> tuple[bytes, Origin]:
        """A row as a log record's message without its length, and its origin."""
        places = _PLACES[table.name]
        run_id, trace_id = raw[places.run_id], row[places.trace_id]
        if table is ERRORS:
            name, severity = EXCEPTION_EVENT, _WARN
            inside = ids.run_span_id(self._install_id, run_id)
        else:
            name, severity = f"hermes.{table.event}", _INFO
            inside = self._spans.parent_of(run_id, raw[places.parent])
        at_ns = time_of(raw[places.ts_ns])
        parts = (
            _times(_TIME_TAG, at_ns, _OBSERVED_TAG, at_ns),
            severity,
            b"\x4a\x10",
            self._spans.trace_of(run_id, trace_id),
            b"\x52\x08",
            inside,
            delimited(b"\x62", text_of(name)),
            _SAMPLED,
            attributes(LOG_ATTRIBUTE, _attributes_of(table, self._install_id, raw, row)),
        )
        return b"".join(parts), self._spans.origin_of(run_id)


def run_events(install_id: str, facts: InstallFacts) -> Callable[[str], bytes]:
    """A run's final errors as events of its span, for receivers that take no logs."""

    def events_of(run_id: str) -> bytes:
        found: Sequence[tuple[Row, Row]] = clean_errors(facts.errors.get(run_id, ()))
        return b"".join(
            delimited(b"\x5a", _event(install_id, raw, row))
            for raw, row in found
            if row[_RECOVERY] != "retried"
        )

    return events_of


def _event(install_id: str, raw: Row, row: Row) -> bytes:
    said = _attributes_of(ERRORS, install_id, raw, row)
    at_ns = time_of(raw[_PLACES[ERRORS.name].ts_ns])
    return b"".join(
        (
            _event_time(_TIME_TAG, at_ns),
            delimited(b"\x12", EXCEPTION_EVENT.encode()),
            attributes(EVENT_ATTRIBUTE, said),
        )
    )


def _attributes_of(table: Table, install_id: str, raw: Row, row: Row) -> Attributes:
    found = columns_of(table, row)
    if table is ERRORS:
        name = row[_PLACES[table.name].error_class] or OTHER_ERROR
        found["exception.type"] = found["error.type"] = name
    # The conventions' own mark of a record: whoever gets it twice can tell.
    uid = ids.hashed(ids.TRACE_BYTES, table.event, install_id, raw[0])
    found["log.record.uid"] = uid.hex()
    return found


class _Places:
    """Where a table's columns stand in a row."""

    def __init__(self, table: Table) -> None:
        names = table.column_names()
        self.run_id, self.ts_ns = names.index("run_id"), names.index("ts_ns")
        self.trace_id, self.parent = names.index("trace_id"), names.index("parent_span_id")
        self.error_class = names.index("error_class") if table is ERRORS else -1


_PLACES: Final = {table.name: _Places(table) for table in LOG_TABLES}
