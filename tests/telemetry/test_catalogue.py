"""What lets the telemetry tables move, read from the database's own catalogue.

Native partitioning, Citus, TimescaleDB and a copy elsewhere ask for the same: install and time in
each key, no foreign keys, nothing unique across installs, install_id in every join.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection

from fleet.lib.clock import now
from telemetry.insight import queries
from telemetry.insight.window import Window
from telemetry.models import CELL_MODELS, CONTENT_MODELS, EVENT_MODELS, FirstSeen
from telemetry.rollup.fill import fill_pending
from telemetry.store.erase import erase_install
from telemetry.store.partitions import AHEAD_DAYS, PARENTS, Partition, existing_partitions
from telemetry.store.retention import maintain
from tests import builders as fleet
from tests.telemetry import builders as make
from tests.telemetry import content_rows as content

pytestmark = pytest.mark.django_db
postgres = pytest.mark.postgres
SURROGATE = ["id"]
"""A row number of our own; nobody else's key, and never shown to an agent."""
ACROSS_INSTALLS = {
    "telemetry_fillstate": "an hour of the whole fleet",
    "telemetry_firstseen": "a register of the whole fleet",
    "telemetry_installboard": "a board of the whole fleet or a group",
    **{
        model._meta.db_table: "sums of a group, not of an install"
        for model in CELL_MODELS
        if model.__name__ != "InstallCell"
    },
}


def rows(query: str, *params: str) -> list[tuple[object, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(query, params)
        return list(cursor.fetchall())


def telemetry_tables() -> list[str]:
    """Every table, with the partitions that were made so far."""
    names = connection.introspection.table_names()
    return sorted(name for name in names if name.startswith("telemetry_"))


def unique_keys(table: str) -> list[list[str]]:
    with connection.cursor() as cursor:
        found = connection.introspection.get_constraints(cursor, table)
    return [list(one["columns"]) for one in found.values() if one["unique"] or one["primary_key"]]


@postgres
def test_the_partitioned_tables_are_those_of_rows_and_content() -> None:
    found = rows(
        "SELECT c.relname, p.partstrat, p.partdefid, p.partnatts, a.attname "
        "FROM pg_partitioned_table p JOIN pg_class c ON c.oid = p.partrelid "
        "JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = p.partattrs[0]"
    )
    assert {str(row[0]): row[1:] for row in found} == dict.fromkeys(
        PARENTS, ("r", 0, 1, "start_at")
    )
    models = {model._meta.db_table for model in (*EVENT_MODELS, *CONTENT_MODELS)}
    assert set(PARENTS) == models


@postgres
def test_every_partition_is_one_utc_day_and_has_its_parents_indexes() -> None:
    maintain()
    bounds = rows(
        "SELECT c.relname, pg_get_expr(c.relpartbound, c.oid) FROM pg_inherits i "
        "JOIN pg_class c ON c.oid = i.inhrelid WHERE c.relkind = 'r'"
    )
    assert len(bounds) >= len(PARENTS)
    connection.cursor().execute("SET LOCAL timezone = 'UTC'")
    for name, _bound in bounds:
        day = re.fullmatch(r".*_(\d{4})(\d\d)(\d\d)", str(name))
        assert day, name
        (bound,) = rows(
            "SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE oid = %s::regclass",
            str(name),
        )[0]
        assert f"FROM ('{'-'.join(day.groups())} 00:00:00+00')" in str(bound)
    for parent in PARENTS:
        methods = rows(
            "SELECT am.amname, i.indexdef FROM pg_indexes i "
            "JOIN pg_class c ON c.relname = i.indexname JOIN pg_am am ON am.oid = c.relam "
            "WHERE i.tablename = %s",
            parent,
        )
        assert any(name == "brin" and "(start_at)" in str(text) for name, text in methods), parent


@pytest.mark.both_engines
def test_each_unique_key_holds_the_install_and_nothing_is_unique_across_installs() -> None:
    for table in telemetry_tables():
        for columns in unique_keys(table):
            if columns == SURROGATE or table in ACROSS_INSTALLS:
                continue
            assert "install_id" in columns, (table, columns)


@pytest.mark.both_engines
def test_each_exception_names_a_table_that_is_there() -> None:
    assert set(ACROSS_INSTALLS) <= set(telemetry_tables())
    assert FirstSeen._meta.db_table in ACROSS_INSTALLS


@pytest.mark.both_engines
def test_each_key_of_a_row_holds_install_and_time_first() -> None:
    for model in (*EVENT_MODELS, *CONTENT_MODELS):
        (key,) = unique_keys(model._meta.db_table)
        assert key[:2] == ["install_id", "start_at"], model


@postgres
def test_no_foreign_key_leads_to_telemetry_or_away_from_it() -> None:
    found = rows(
        "SELECT conrelid::regclass, confrelid::regclass FROM pg_constraint WHERE contype = 'f' "
        "AND (conrelid::regclass::text LIKE 'telemetry%%' "
        "OR confrelid::regclass::text LIKE 'telemetry%%')"
    )
    assert found == []


@postgres
def test_no_row_takes_its_values_from_a_sequence_or_a_trigger() -> None:
    """Both have one home: a shard or a copy has no such number."""
    for parent in PARENTS:
        defaults = rows(
            "SELECT column_name, column_default FROM information_schema.columns "
            "WHERE table_name = %s AND column_default IS NOT NULL",
            parent,
        )
        assert defaults in ([], [("group_id", "0")]), parent
    assert (
        rows("SELECT tgname FROM pg_trigger WHERE tgrelid::regclass::text LIKE 'telemetry%%'") == []
    )


@pytest.mark.both_engines
@pytest.mark.parametrize("model", CONTENT_MODELS, ids=lambda model: model.__name__)
def test_the_tables_of_content_have_their_models_columns(model: type) -> None:
    fields = {
        spec.column: spec.null
        for spec in model._meta.concrete_fields  # type: ignore[attr-defined]  # a model
        if spec.column
    }
    with connection.cursor() as cursor:
        found = connection.introspection.get_table_description(
            cursor,
            model._meta.db_table,  # type: ignore[attr-defined]  # a model
        )
    assert {column.name: column.null_ok for column in found} == fields


@postgres
def test_the_coming_days_have_a_partition_of_every_table() -> None:
    maintain()
    made, today = existing_partitions(), now().date()
    days = [today + timedelta(days=offset) for offset in range(AHEAD_DAYS + 1)]
    assert {Partition(day, parent) for day in days for parent in PARENTS} <= made


# ------------------------------------------------------------------------------------- joins

_ROW_TABLE = re.compile("|".join(rf"{name}(?:_\d{{8}})?\b" for name in PARENTS))
_JOIN = re.compile(r"(?<!CROSS )\bJOIN\b|^\s*UPDATE\b.*\bFROM\b", re.DOTALL)
"""A cross join has no condition to name anything: ours are with a list of levels."""
_NAME = r'(?:"?\w+"?\.)?"?'
_BY_INSTALL = re.compile(rf'\b(?:install_)?id"?\s*=\s*{_NAME}install_id\b')
_ONE_INSTALL = re.compile(r"""\binstall_id"?\s*=\s*(?:'[0-9a-f-]{32,36}'|%s)""")


def joins_without_install(statements: list[str]) -> list[str]:
    """Statements that join rows by anything but their install, or within one install."""
    return [
        text
        for text in statements
        if _ROW_TABLE.search(text)
        and "pg_inherits" not in text  # the catalogue itself
        and _JOIN.search(text)
        and not _BY_INSTALL.search(text)
        and not _ONE_INSTALL.search(text)
    ]


def everything_that_speaks_sql() -> None:
    """Push, merge, fold, refill, ask and erase once."""
    fleet.make_install(install_id=make.INSTALL)
    row = make.run(run_id="r")
    make.push(row, *make.one_of_each())
    make.push(row | {"seq": 9, "end_reason": "failed"}, make.model_call(), make.tool_call())
    content.push(content.session(), content.message())
    fill_pending()
    make.push(row | {"seq": 12})
    fill_pending()
    queries.install_activity([make.INSTALL], Window.last(days=7))
    erase_install(make.INSTALL, actor="operator", reason="test")
    fill_pending()
    maintain()


@pytest.mark.both_engines
def test_every_join_of_rows_names_the_install() -> None:
    statements: list[str] = []

    def listen(execute: Any, sql: object, *rest: object) -> object:  # noqa: ANN401 -- Django's hook
        statements.append(str(sql))
        return execute(sql, *rest)

    with connection.execute_wrapper(listen):
        everything_that_speaks_sql()
    assert any(_ROW_TABLE.search(text) for text in statements)
    assert joins_without_install(statements) == []


def test_a_join_without_the_install_would_be_found() -> None:
    bad = "SELECT 1 FROM telemetry_run r JOIN telemetry_span s ON s.run_id = r.run_id"
    good = f"{bad} AND s.install_id = r.install_id"
    assert joins_without_install([bad, good]) == [bad]
