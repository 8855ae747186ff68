"""Packed rows are, byte for byte, what psycopg's own dumpers write."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

import pytest
from django.db import connection
from django.db.backends.utils import CursorWrapper
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from psycopg import sql

from agent_client.contract import tables
from agent_client.contract.tables import Column, Table
from fleet.lib.clock import ns_to_datetime
from telemetry.store.copy import Row, Stamp, _Target, columns_of
from telemetry.store.pack import Packer, Value
from tests.telemetry import builders as make

TYPES = {
    "id": "text",
    "name": "text",
    "json": "text",
    "count": "int8",
    "time": "int8",
    "ms": "float8",
    "usd": "float8",
    "flag": "bool",
}
STAMP = Stamp(make.INSTALL, UUID(int=2**128 - 1), datetime(2026, 3, 1, 23, 59, 59, 1, UTC), 2**40)
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
HEX = st.text("0123456789abcdef", min_size=32, max_size=32)
FEW = st.sampled_from(["", "x", "é", "\U0001f600", "a\nb\t\\N", "\ufeff"])
INTS = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([0, -1, 2**63 - 1, -(2**63)])
FLOATS = st.floats() | st.sampled_from([0.0, -0.0, 1e-320, float("inf"), float("nan")])
TIMES_NS = st.integers(0, tables.TIME_MAX_NS)


def values_of(column: Column) -> st.SearchStrategy[Value]:
    if column.kind == "time" and column.required:
        return TIMES_NS
    found: st.SearchStrategy[Value] = {  # type: ignore[assignment]  # joined to object by the dict
        "text": TEXTS | HEX | FEW,
        "int8": INTS,
        "float8": FLOATS,
        "bool": st.booleans(),
    }[TYPES[column.kind]]
    return found if column.required else st.none() | found


@st.composite
def tables_and_rows(draw: st.DrawFn) -> tuple[Table, list[Row]]:
    """A table with rows that now and then share a column's value, or its length."""
    table = draw(st.sampled_from(tables.EVENT_TABLES))
    count = draw(st.integers(1, 5))
    columns: list[list[Value]] = []
    for column in table.columns:
        own = values_of(column)
        one = own.map(lambda value: [value] * count)
        columns.append(draw(one | st.lists(own, min_size=count, max_size=count)))
    columns.append(draw(st.lists(INTS, min_size=count, max_size=count)))
    return table, list(zip(*columns, strict=True))


def written(target: _Target, types: Sequence[str], rows: Sequence[Row]) -> bytes:
    """What psycopg sends for these rows, as PostgreSQL hands it back."""
    columns = [
        sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(kind))
        for name, kind in zip(target.columns, types, strict=True)
    ]
    with connection.cursor() as cursor:
        cursor.execute(
            sql.SQL("CREATE TEMPORARY TABLE held ({})").format(sql.SQL(", ").join(columns))
        )
        with cursor.copy("COPY held FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types(types)
            for record in target.records(rows, STAMP):
                copy.write_row(record)
        data = read_back(cursor)
        cursor.execute("DROP TABLE held")
    return data


def read_back(cursor: CursorWrapper) -> bytes:
    with cursor.copy("COPY held TO STDOUT (FORMAT BINARY)") as copy:
        return b"".join(map(bytes, copy))


FIRST = tables.EVENT_TABLES[0]


@pytest.mark.postgres
@pytest.mark.django_db
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(found=tables_and_rows())
@example(found=(FIRST, [make.row(make.run(seq, start_ns=10**18)) for seq in (1, 2)]))
def test_packed_rows_are_what_psycopg_writes(found: tuple[Table, list[Row]]) -> None:
    table, rows = found
    target = _Target(table)
    types = (
        *("uuid", "timestamptz"),
        *(TYPES[column.kind] for column in table.columns),
        *("int8", "uuid", "timestamptz", "int8"),
    )
    assert target.packed(columns_of(rows), STAMP) == written(target, types, rows)


@pytest.mark.parametrize("table", tables.EVENT_TABLES)
def test_every_table_packs_each_of_its_columns(table: Table) -> None:
    row = make.row(make.record(table.name, start_ns=10**18, ts_ns=10**18))
    data = _Target(table).packed(columns_of([row, row]), STAMP)
    (field_count,) = struct.unpack_from(">h", data, 19)
    assert field_count == len(table.columns) + 6


def test_minus_zero_keeps_its_sign_beside_zero() -> None:
    packer = Packer(2, 1)
    packer.add("float8", [0.0, -0.0])
    assert packer.data()[19:].count(struct.pack(">d", -0.0)) == 1


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, "1", 1.5])
def test_what_is_no_64_bit_integer_is_an_error_and_never_another_number(value: Value) -> None:
    packer = Packer(2, 1)
    packer.add("int8", [1, value])
    with pytest.raises(struct.error):
        packer.data()


def test_a_lone_surrogate_is_an_error_and_never_another_text() -> None:
    with pytest.raises(UnicodeEncodeError):
        Packer(2, 1).add("text", ["a", "\ud800"])


def test_times_before_2000_and_below_a_microsecond_are_cut_as_the_clock_cuts_them() -> None:
    packer = Packer(2, 1)
    packer.add_times([999, 10**18 + 999])
    (first,) = struct.unpack_from(">q", packer.data(), 25)
    assert ns_to_datetime(999).microsecond == 0
    assert first == -946_684_800_000_000
