"""Spans and five kinds of happenings, from SQL like the tables of 0001."""

from __future__ import annotations

from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import StateApps

from fleet.lib.sql import apply_sql


def make_tables(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    apply_sql(schema_editor, __file__, "0002_spans_and_happenings")


def drop_tables(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    apply_sql(schema_editor, __file__, "0002_spans_and_happenings_down")


class Migration(migrations.Migration):
    dependencies = [("telemetry", "0001_events")]

    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunPython(make_tables, drop_tables)],
            state_operations=[
                migrations.CreateModel(
                    name="CronEvent",
                    fields=[
                        ("install_id", models.UUIDField()),
                        ("start_at", models.DateTimeField()),
                        ("seq", models.BigIntegerField()),
                        ("batch_id", models.UUIDField()),
                        ("received_at", models.DateTimeField()),
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "install_id",
                                "start_at",
                                "span_id",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("span_id", models.TextField()),
                        ("run_id", models.TextField()),
                        ("ts_ns", models.BigIntegerField()),
                        ("kind", models.TextField(null=True)),
                        ("result", models.TextField(null=True)),
                        ("trace_id", models.TextField(null=True)),
                        ("parent_span_id", models.TextField(null=True)),
                        ("start_ns", models.BigIntegerField(null=True)),
                        ("end_ns", models.BigIntegerField(null=True)),
                    ],
                    options={
                        "verbose_name": "scheduled job event",
                        "db_table": "telemetry_cronevent",
                    },
                ),
                migrations.CreateModel(
                    name="FeedbackEvent",
                    fields=[
                        ("install_id", models.UUIDField()),
                        ("start_at", models.DateTimeField()),
                        ("seq", models.BigIntegerField()),
                        ("batch_id", models.UUIDField()),
                        ("received_at", models.DateTimeField()),
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "install_id",
                                "start_at",
                                "span_id",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("span_id", models.TextField()),
                        ("run_id", models.TextField()),
                        ("ts_ns", models.BigIntegerField()),
                        ("kind", models.TextField(null=True)),
                        ("trace_id", models.TextField(null=True)),
                        ("parent_span_id", models.TextField(null=True)),
                        ("start_ns", models.BigIntegerField(null=True)),
                        ("end_ns", models.BigIntegerField(null=True)),
                    ],
                    options={
                        "verbose_name": "feedback",
                        "db_table": "telemetry_feedbackevent",
                    },
                ),
                migrations.CreateModel(
                    name="GatewayEvent",
                    fields=[
                        ("install_id", models.UUIDField()),
                        ("start_at", models.DateTimeField()),
                        ("seq", models.BigIntegerField()),
                        ("batch_id", models.UUIDField()),
                        ("received_at", models.DateTimeField()),
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "install_id",
                                "start_at",
                                "span_id",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("span_id", models.TextField()),
                        ("run_id", models.TextField()),
                        ("ts_ns", models.BigIntegerField()),
                        ("platform", models.TextField(null=True)),
                        ("direction", models.TextField(null=True)),
                        ("result", models.TextField(null=True)),
                        ("voice", models.BooleanField(null=True)),
                        ("attachments", models.BigIntegerField(null=True)),
                        ("trace_id", models.TextField(null=True)),
                        ("parent_span_id", models.TextField(null=True)),
                        ("start_ns", models.BigIntegerField(null=True)),
                        ("end_ns", models.BigIntegerField(null=True)),
                    ],
                    options={
                        "verbose_name": "gateway event",
                        "db_table": "telemetry_gatewayevent",
                    },
                ),
                migrations.CreateModel(
                    name="MemoryEvent",
                    fields=[
                        ("install_id", models.UUIDField()),
                        ("start_at", models.DateTimeField()),
                        ("seq", models.BigIntegerField()),
                        ("batch_id", models.UUIDField()),
                        ("received_at", models.DateTimeField()),
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "install_id",
                                "start_at",
                                "span_id",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("span_id", models.TextField()),
                        ("run_id", models.TextField()),
                        ("ts_ns", models.BigIntegerField()),
                        ("action", models.TextField(null=True)),
                        ("result", models.TextField(null=True)),
                        ("trace_id", models.TextField(null=True)),
                        ("parent_span_id", models.TextField(null=True)),
                        ("start_ns", models.BigIntegerField(null=True)),
                        ("end_ns", models.BigIntegerField(null=True)),
                    ],
                    options={
                        "verbose_name": "memory event",
                        "db_table": "telemetry_memoryevent",
                    },
                ),
                migrations.CreateModel(
                    name="SkillEvent",
                    fields=[
                        ("install_id", models.UUIDField()),
                        ("start_at", models.DateTimeField()),
                        ("seq", models.BigIntegerField()),
                        ("batch_id", models.UUIDField()),
                        ("received_at", models.DateTimeField()),
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "install_id",
                                "start_at",
                                "span_id",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("span_id", models.TextField()),
                        ("run_id", models.TextField()),
                        ("ts_ns", models.BigIntegerField()),
                        ("action", models.TextField(null=True)),
                        ("skill_name", models.TextField(null=True)),
                        ("trace_id", models.TextField(null=True)),
                        ("parent_span_id", models.TextField(null=True)),
                        ("start_ns", models.BigIntegerField(null=True)),
                        ("end_ns", models.BigIntegerField(null=True)),
                    ],
                    options={
                        "verbose_name": "skill event",
                        "db_table": "telemetry_skillevent",
                    },
                ),
                migrations.CreateModel(
                    name="Span",
                    fields=[
                        ("install_id", models.UUIDField()),
                        ("start_at", models.DateTimeField()),
                        ("seq", models.BigIntegerField()),
                        ("batch_id", models.UUIDField()),
                        ("received_at", models.DateTimeField()),
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "install_id",
                                "start_at",
                                "span_id",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("span_id", models.TextField()),
                        ("trace_id", models.TextField(null=True)),
                        ("run_id", models.TextField()),
                        ("parent_span_id", models.TextField(null=True)),
                        ("name", models.TextField(null=True)),
                        ("kind", models.TextField(null=True)),
                        ("start_ns", models.BigIntegerField()),
                        ("end_ns", models.BigIntegerField(null=True)),
                        ("status", models.TextField(null=True)),
                        ("attrs_json", models.TextField(null=True)),
                    ],
                    options={
                        "verbose_name": "span",
                        "db_table": "telemetry_span",
                    },
                ),
            ],
        ),
    ]
