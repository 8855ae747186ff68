"""The tables of the database against the contract, and the rules that let them move."""

from __future__ import annotations

import pytest
from django.core.management import call_command
from django.db import connection

from agent_client.contract.tables import EVENT_TABLES, Table
from telemetry.models import EVENT_MODELS, EventRow
from telemetry.models.events import MODEL_OF
from telemetry.store.partitions import PARENTS

pytestmark = pytest.mark.django_db
ADDED = {"install_id", "start_at", "seq", "batch_id", "received_at", "group_id"}
KINDS = {
    "id": ("text", "TEXT"),
    "name": ("text", "TEXT"),
    "json": ("text", "TEXT"),
    "count": ("bigint", "INTEGER"),
    "time": ("bigint", "INTEGER"),
    "ms": ("double precision", "REAL"),
    "usd": ("double precision", "REAL"),
    "flag": ("boolean", "bool"),
}


def catalogue(table: str) -> dict[str, tuple[str, bool]]:
    """Columns of a table as the database has them: type and whether NULL is refused."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(
                "SELECT column_name, data_type, is_nullable FROM information_schema.columns "
                "WHERE table_schema = current_schema() AND table_name = %s",
                [table],
            )
            return {name: (kind, null == "NO") for name, kind, null in cursor.fetchall()}
        cursor.execute(f"PRAGMA table_info({table})")
        return {row[1]: (row[2], bool(row[3])) for row in cursor.fetchall()}


@pytest.mark.both_engines
@pytest.mark.parametrize("table", EVENT_TABLES, ids=lambda table: table.name)
def test_columns_are_those_of_the_contract(table: Table) -> None:
    columns = catalogue(MODEL_OF[table.name].table_name())
    expected = {column.name: column for column in table.columns}
    assert set(columns) == set(expected) | ADDED
    at = 0 if connection.vendor == "postgresql" else 1
    for name, column in expected.items():
        kind, is_required = columns[name]
        assert kind.lower() == KINDS[column.kind][at].lower()
        assert is_required == column.required
    assert all(columns[name][1] for name in ADDED)


@pytest.mark.parametrize("model", EVENT_MODELS)
def test_models_have_the_columns_of_the_contract(model: type[EventRow]) -> None:
    fields = {spec.attname for spec in model._meta.concrete_fields} - {"pk"}
    assert fields == set(model.CONTRACT.column_names()) | ADDED


@pytest.mark.both_engines
@pytest.mark.parametrize("table", EVENT_TABLES, ids=lambda table: table.name)
def test_install_and_time_are_in_the_only_unique_key(table: Table) -> None:
    name = MODEL_OF[table.name].table_name()
    with connection.cursor() as cursor:
        constraints = connection.introspection.get_constraints(cursor, name)
    unique = [
        found["columns"]
        for found in constraints.values()
        if found["unique"] or found["primary_key"]
    ]
    assert unique == [["install_id", "start_at", table.key]]
    assert not any(found["foreign_key"] for found in constraints.values())


@pytest.mark.postgres
def test_parents_are_partitioned_by_time_without_a_default_partition() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT c.relname, p.partstrat, p.partdefid, a.attname FROM pg_partitioned_table p "
            "JOIN pg_class c ON c.oid = p.partrelid "
            "JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = p.partattrs[0]"
        )
        found = {row[0]: row[1:] for row in cursor.fetchall()}
    assert found == dict.fromkeys(PARENTS, ("r", 0, "start_at"))


@pytest.mark.both_engines
def test_no_table_of_telemetry_points_at_another() -> None:
    tables = [
        name for name in connection.introspection.table_names() if name.startswith("telemetry_")
    ]
    assert len(tables) > 10
    with connection.cursor() as cursor:
        for name in tables:
            constraints = connection.introspection.get_constraints(cursor, name)
            assert not any(found["foreign_key"] for found in constraints.values()), name


@pytest.mark.both_engines
def test_migrations_are_complete() -> None:
    call_command("makemigrations", "telemetry", check=True, dry_run=True, verbosity=0)


@pytest.mark.both_engines
@pytest.mark.django_db(transaction=True)
def test_the_migration_goes_back_and_forth() -> None:
    call_command("migrate", "telemetry", "zero", verbosity=0)
    names = connection.introspection.table_names()
    assert not any(name.startswith("telemetry_") for name in names)
    call_command("migrate", "telemetry", verbosity=0)
    assert set(PARENTS) <= set(connection.introspection.table_names())
