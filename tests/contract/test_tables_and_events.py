"""The closed list of columns and the events built on it hold together."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import agent_client.contract
from agent_client.contract import events, tables
from agent_client.contract.events import EVENT_TYPES, Event, ModelCallEvent, RunEvent, event_of
from agent_client.contract.tables import EVENT_TABLES, Column, Table

VECTORS = Path(agent_client.contract.__file__).with_name("vectors") / "events.json"
# What json.loads gives; the vectors' own shape is asserted by the tests that read them.
Vector = dict[str, Any]


def vectors(part: str) -> list[Vector]:
    found: list[Vector] = json.loads(VECTORS.read_text(encoding="utf-8"))[part]
    return found


def value_for(column: Column) -> st.SearchStrategy[object]:
    """Values that may stand in a column."""
    by_kind: dict[str, st.SearchStrategy[object]] = {
        "count": st.integers(0, tables.COUNT_MAX),
        "time": st.integers(0, tables.TIME_MAX_NS),
        "ms": st.floats(0, tables.MS_MAX),
        "usd": st.floats(0, tables.USD_MAX),
        "flag": st.booleans(),
    }
    found = by_kind.get(column.kind, st.text(min_size=1, max_size=30))
    return found if column.required else st.none() | found


@st.composite
def valid_events(draw: st.DrawFn) -> Event:
    cls = draw(st.sampled_from(sorted(EVENT_TYPES.values(), key=lambda cls: cls.__name__)))
    values = {column.name: draw(value_for(column)) for column in cls.TABLE.columns}
    return cls(**values)  # type: ignore[arg-type]  # every value was drawn for its column


@pytest.mark.parametrize("cls", EVENT_TYPES.values(), ids=lambda cls: cls.TABLE.event)
def test_an_events_fields_are_its_tables_columns_in_storage_order(cls: type[Event]) -> None:
    assert events.field_names(cls) == cls.TABLE.column_names()


def test_each_table_has_one_event_and_each_event_one_table() -> None:
    assert tuple(cls.TABLE for cls in EVENT_TYPES.values()) == EVENT_TABLES
    assert {table.name: table for table in EVENT_TABLES} == tables.BY_NAME
    assert {table.event: table for table in EVENT_TABLES} == tables.BY_EVENT


@pytest.mark.parametrize("table", EVENT_TABLES, ids=lambda table: table.name)
def test_a_tables_key_and_time_are_required_columns_of_it(table: Table) -> None:
    required = {column.name for column in table.columns if column.required}
    assert {table.key, table.time} <= required
    assert len(set(table.column_names())) == len(table.columns)


def test_a_columns_kind_decides_its_storage_type() -> None:
    kinds = ("id", "name", "json", "count", "time", "flag", "ms", "usd")
    types = [Column("x", kind).sqlite_type for kind in kinds]  # type: ignore[arg-type]  # a tuple of literals
    assert types == ["TEXT"] * 3 + ["INTEGER"] * 3 + ["REAL"] * 2
    assert Column("x", "json").max_chars == tables.JSON_MAX_CHARS
    assert Column("x", "usd").max_chars == 0


def test_no_event_has_a_place_for_content() -> None:
    words = ("message", "content", "argument", "result_text", "stack", "command", "prompt")
    names = {name for table in EVENT_TABLES for name in table.column_names()}
    assert [name for name in names if any(word in name for word in words)] == []


@given(valid_events())
def test_every_valid_event_survives_its_dictionary_form(event: Event) -> None:
    data = event.to_dict()
    assert data["event"] == event.TABLE.event
    assert event_of(data) == event
    assert event_of(json.loads(json.dumps(data))) == event


def test_events_cannot_be_changed() -> None:
    event = RunEvent("r")
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.run_id = "other"  # type: ignore[misc]  # the point of the test


def test_unknown_keys_are_ignored_and_missing_ones_take_their_default() -> None:
    event = event_of({"event": "run", "run_id": "r", "start_ns": 1, "of_a_later_version": 9})
    assert event == RunEvent("r", start_ns=1)


@pytest.mark.parametrize("vector", vectors("valid"), ids=lambda vector: str(vector["name"]))
def test_a_valid_golden_event_is_read_and_written_the_same(vector: Vector) -> None:
    written = event_of(vector["event"]).to_dict()
    assert {name: written[name] for name in vector["event"]} == vector["event"]


@pytest.mark.parametrize("vector", vectors("invalid"), ids=lambda vector: str(vector["name"]))
def test_a_faulty_golden_event_is_refused_by_column_and_code(vector: Vector) -> None:
    with pytest.raises(ValueError, match=r"^[a-z_]+: [a-z_]+$") as caught:
        event_of(vector["event"])
    assert str(caught.value) == vector["fault"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, -1])
def test_numbers_that_are_no_measure_are_out_of_range(value: float) -> None:
    data = {"span_id": "s", "run_id": "r", "start_ns": 1, "latency_ms": value}
    with pytest.raises(ValueError, match=r"latency_ms: out_of_range"):
        ModelCallEvent.from_dict(data)
