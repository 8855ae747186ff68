"""Random rows of every table, within the contract's bounds."""

from __future__ import annotations

from hypothesis import strategies as st

from agent_client.contract.tables import (
    COUNT_MAX,
    EVENT_TABLES,
    MS_MAX,
    TIME_MAX_NS,
    USD_MAX,
    Column,
    Table,
)
from tests.agent_client.otlp_homes import TRACE

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
TIMES = st.integers(0, TIME_MAX_NS)
VALUES: dict[str, st.SearchStrategy[object]] = {
    "id": TEXT | st.just(TRACE),
    "name": TEXT | st.sampled_from(["failed", "error", "denied", "ok", "mcp", "https://a.example"]),
    "json": TEXT | st.just('{"a": 1, "b": "x", "c": true, "d": 0.5}'),
    "count": st.integers(0, COUNT_MAX),
    "time": TIMES,
    "ms": st.floats(0, MS_MAX),
    "usd": st.floats(0, USD_MAX),
    "flag": st.sampled_from([0, 1]),
}


def values_of(column: Column) -> st.SearchStrategy[object]:
    found = VALUES[column.kind]
    return found if column.required else found | st.none()


def rows_of(table: Table) -> st.SearchStrategy[dict[str, object]]:
    return st.fixed_dictionaries({column.name: values_of(column) for column in table.columns})


ROWS = st.one_of(*(st.tuples(st.just(table), rows_of(table)) for table in EVENT_TABLES))
