"""No migration stops a live table unless somebody says so and why."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.operations.base import Operation

from fleet.ops import hooks
from fleet.ops.risks import Judged, judge, models_made
from fleet.ops.upgrade import Counted, compare_rows

ROOT = Path(__file__).resolve().parents[2]
ALLOWED = {
    "telemetry.0004_stamps": "before the first release",
    "telemetry.0005_valve": "before the first release",
    "telemetry.0007_cells": "before the first release",
    "telemetry.0010_drop_hourly": "0007 moved what they held, one release earlier",
    "telemetry.0014_schedule_settle": "0011 makes its table in the same release: upgraded at once",
}
"""Migrations that need a window. A new one does not belong here: split it, or make it online."""
LOADER = MigrationLoader(None, ignore_no_migrations=True)


def judged() -> list[Judged]:
    nodes = sorted(node for node in LOADER.disk_migrations if node[0] in {"fleet", "telemetry"})
    return [
        judge(LOADER.disk_migrations[node], LOADER.project_state([node], at_end=False))
        for node in nodes
    ]


def test_every_migration_is_safe_on_live_tables_or_has_its_reason() -> None:
    unsafe = {each.name: each.reasons for each in judged() if each.risk == "window"}
    assert unsafe.keys() == ALLOWED.keys(), unsafe


def test_what_is_stated_is_about_a_migration_that_is_there() -> None:
    known = {f"{app}.{name}" for app, name in LOADER.disk_migrations}
    assert all(name in known for name in hooks._stated)


@pytest.mark.parametrize("path", sorted(ROOT.glob("*/migrations/sql/*.sql")), ids=lambda p: p.name)
def test_no_sql_of_a_migration_rewrites_a_live_table(path: Path) -> None:
    text = re.sub(r"--.*", "", path.read_text())
    made = set(re.findall(r"CREATE TABLE (?:IF NOT EXISTS )?\"?(\w+)", text))
    live = hooks.live_tables() - made
    name = f"{path.parts[-4]}.{path.name.split('.')[0]}".removesuffix("_down")
    indexed = re.findall(r"CREATE (?:UNIQUE )?INDEX (?!CONCURRENTLY)[^;]*? ON (\w+)", text)
    typed = re.findall(r"ALTER TABLE (\w+)[^;]*ALTER COLUMN \w+ TYPE", text)
    if "sqlite" not in path.name and name not in ALLOWED:
        assert not live & {*indexed, *typed}


def test_what_runs_in_no_transaction_writes_no_table_anew() -> None:
    """SQLite changes a column by a copy: rows that come in between would go with the old table."""
    copies = (migrations.AddField, migrations.AlterField, migrations.RemoveField)
    odd = [
        f"{node}: {operation.describe()}"
        for node, migration in LOADER.disk_migrations.items()
        if node[0] in {"fleet", "telemetry"} and not migration.atomic
        for operation in migration.operations
        if isinstance(operation, copies) and not operation.atomic
    ]
    assert odd == []


RUN = ("telemetry", "0012_feed")


def risk_of(*operations: Operation, atomic: bool = True) -> str:
    kind = type("Migration", (migrations.Migration,), {"operations": operations, "atomic": atomic})
    return judge(kind("9999_x", "telemetry"), LOADER.project_state([RUN])).risk


BATCH = "ingestbatch"
INDEX = models.Index(fields=["batch_id"], name="x_idx")


@pytest.mark.parametrize(
    ("operation", "risk"),
    [
        (migrations.AddField(BATCH, "x", models.IntegerField(null=True)), "online"),
        (migrations.AddField(BATCH, "x", models.IntegerField(db_default=0)), "online"),
        (migrations.AddField(BATCH, "x", models.IntegerField(default=0)), "window"),
        (migrations.AddField(BATCH, "x", models.IntegerField(null=True, db_index=True)), "window"),
        (migrations.AlterField(BATCH, "batch_id", models.TextField()), "window"),
        (migrations.AddIndex(BATCH, INDEX), "window"),
        (migrations.AddIndex("stream", INDEX), "online"),
        (migrations.RemoveField("stream", "name"), "window"),
        (migrations.DeleteModel("stream"), "window"),
        (migrations.RunPython(migrations.RunPython.noop), "window"),
        (migrations.RunSQL("SELECT 1"), "window"),
        (migrations.CreateModel("New", [("id", models.BigAutoField(primary_key=True))]), "online"),
        (AddIndexConcurrently(BATCH, INDEX), "window"),  # in a transaction it would fail
    ],
)
def test_risks_are_read_off_operations(operation: Operation, risk: str) -> None:
    assert risk_of(operation) == risk


def test_a_table_that_the_release_before_does_not_know_needs_no_window() -> None:
    node = ("telemetry", "0014_schedule_settle")
    migration, state = LOADER.disk_migrations[node], LOADER.project_state([node], at_end=False)
    assert judge(migration, state).risk == "window"
    made = models_made(LOADER.disk_migrations["telemetry", "0011_exports"])
    assert judge(migration, state, frozenset(made)).risk == "online"


def test_an_index_made_concurrently_outside_a_transaction_is_online() -> None:
    assert risk_of(AddIndexConcurrently(BATCH, INDEX), atomic=False) == "online"


def test_a_live_table_that_lost_rows_is_an_error_and_another_a_word() -> None:
    before = Counted({"telemetry_run": 9, "django_session": 4, "telemetry_runcell": 3})
    after = Counted({"telemetry_run": 8, "django_session": 3, "telemetry_new": 1})
    found = {each.detail: each.severity for each in compare_rows(before, after)}
    assert found == {
        "django_session: 4 before, 3 now": "warn",
        "telemetry_run: 9 before, 8 now": "error",
        "telemetry_runcell is gone, with 3 rows": "warn",
    }
    assert [each.severity for each in compare_rows(before, before)] == ["ok"]
