"""The trajectories plane's tables, from SQL like the event tables."""

from __future__ import annotations

from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import StateApps

from fleet.lib.sql import apply_sql


def make_tables(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    apply_sql(schema_editor, __file__, "0006_content")


def drop_tables(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    apply_sql(schema_editor, __file__, "0006_content_down")


class Migration(migrations.Migration):
    dependencies = [("telemetry", "0005_valve")]

    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunPython(make_tables, drop_tables)],
            state_operations=[
                migrations.CreateModel(
                    name="ContentSession",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "install_id",
                                "start_at",
                                "session_id",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("install_id", models.UUIDField()),
                        ("start_at", models.DateTimeField()),
                        ("session_id", models.TextField()),
                        ("seq", models.BigIntegerField()),
                        ("source", models.TextField(null=True)),
                        ("model", models.TextField(null=True)),
                        ("title", models.TextField(null=True)),
                        ("ended_at", models.DateTimeField(null=True)),
                        ("message_count", models.BigIntegerField(null=True)),
                        ("tool_call_count", models.BigIntegerField(null=True)),
                        ("batch_id", models.UUIDField()),
                        ("received_at", models.DateTimeField()),
                    ],
                    options={
                        "verbose_name": "session",
                        "db_table": "telemetry_contentsession",
                        "permissions": [
                            (
                                "view_trajectory",
                                "Can read the content of sessions, stating a reason",
                            )
                        ],
                        "default_permissions": (),
                    },
                ),
                migrations.CreateModel(
                    name="ContentMessage",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "install_id",
                                "start_at",
                                "session_id",
                                "message_id",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("install_id", models.UUIDField()),
                        ("start_at", models.DateTimeField()),
                        ("session_id", models.TextField()),
                        ("message_id", models.BigIntegerField()),
                        ("role", models.TextField(null=True)),
                        ("name", models.TextField(null=True)),
                        ("tool_name", models.TextField(null=True)),
                        ("tool_call_id", models.TextField(null=True)),
                        ("finish_reason", models.TextField(null=True)),
                        ("token_count", models.BigIntegerField(null=True)),
                        ("content_json", models.TextField(null=True)),
                        ("reasoning_json", models.TextField(null=True)),
                        ("tool_calls_json", models.TextField(null=True)),
                        ("batch_id", models.UUIDField()),
                        ("received_at", models.DateTimeField()),
                    ],
                    options={
                        "verbose_name": "message",
                        "db_table": "telemetry_contentmessage",
                        "default_permissions": (),
                    },
                ),
            ],
        ),
    ]
