"""What rollups need to add only what is new: group and batch of each row, and cells to add to."""

from __future__ import annotations

from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import StateApps

from fleet.lib.sql import apply_sql


def add_stamps(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    apply_sql(schema_editor, __file__, "0004_stamps")


def drop_stamps(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    apply_sql(schema_editor, __file__, "0004_stamps_down")


class Migration(migrations.Migration):
    dependencies = [
        ("telemetry", "0003_aggregate_records"),
    ]

    operations = [
        migrations.CreateModel(
            name="ReplacedRun",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("install_id", models.UUIDField()),
                ("start_at", models.DateTimeField()),
                ("run_id", models.TextField()),
                ("group_id", models.BigIntegerField()),
                ("entrypoint", models.TextField(null=True)),
                ("platform", models.TextField(null=True)),
                ("agent_version", models.TextField(null=True)),
                ("start_ns", models.BigIntegerField()),
                ("end_ns", models.BigIntegerField(null=True)),
                ("end_reason", models.TextField(null=True)),
                ("model_call_count", models.BigIntegerField(null=True)),
                ("tool_call_count", models.BigIntegerField(null=True)),
                ("error_count", models.BigIntegerField(null=True)),
                ("turn_count", models.BigIntegerField(null=True)),
                ("estimated_cost_usd", models.FloatField(null=True)),
                ("cost_status", models.TextField(null=True)),
                ("batch_id", models.UUIDField(db_index=True)),
                ("replaced_by", models.UUIDField(db_index=True)),
                ("received_at", models.DateTimeField()),
            ],
        ),
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunPython(add_stamps, drop_stamps)],
            state_operations=[
                migrations.AddField(
                    model_name="cronevent",
                    name="group_id",
                    field=models.BigIntegerField(default=0),
                ),
                migrations.AddField(
                    model_name="errorevent",
                    name="group_id",
                    field=models.BigIntegerField(default=0),
                ),
                migrations.AddField(
                    model_name="feedbackevent",
                    name="group_id",
                    field=models.BigIntegerField(default=0),
                ),
                migrations.AddField(
                    model_name="gatewayevent",
                    name="group_id",
                    field=models.BigIntegerField(default=0),
                ),
                migrations.AddField(
                    model_name="memoryevent",
                    name="group_id",
                    field=models.BigIntegerField(default=0),
                ),
                migrations.AddField(
                    model_name="modelcall",
                    name="group_id",
                    field=models.BigIntegerField(default=0),
                ),
                migrations.AddField(
                    model_name="run",
                    name="group_id",
                    field=models.BigIntegerField(default=0),
                ),
                migrations.AddField(
                    model_name="skillevent",
                    name="group_id",
                    field=models.BigIntegerField(default=0),
                ),
                migrations.AddField(
                    model_name="span",
                    name="group_id",
                    field=models.BigIntegerField(default=0),
                ),
                migrations.AddField(
                    model_name="toolcall",
                    name="group_id",
                    field=models.BigIntegerField(default=0),
                ),
            ],
        ),
        migrations.AddField(
            model_name="touchedhour",
            name="batch_id",
            field=models.UUIDField(null=True),
        ),
        migrations.AddField(
            model_name="touchedhour",
            name="install_id",
            field=models.UUIDField(null=True),
        ),
        migrations.AlterField(
            model_name="ingestbatch",
            name="source",
            field=models.CharField(
                choices=[
                    ("push", "Push"),
                    ("file", "File"),
                    ("otlp", "OpenTelemetry"),
                    ("replay", "Quarantine"),
                ],
                default="push",
                max_length=8,
            ),
        ),
        migrations.CreateModel(
            name="CostsCell",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("unit", models.CharField(choices=[("h", "Hour"), ("d", "Day")], max_length=1)),
                ("at", models.DateTimeField()),
                ("group_id", models.BigIntegerField()),
                ("cost_status", models.TextField(blank=True, default="")),
                ("run_count", models.BigIntegerField(default=0)),
                ("priced_count", models.BigIntegerField(default=0)),
                ("cost_nusd", models.BigIntegerField(default=0)),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(
                        fields=("unit", "group_id", "at", "cost_status"),
                        name="telemetry_costscell_once",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="ErrorsCell",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("unit", models.CharField(choices=[("h", "Hour"), ("d", "Day")], max_length=1)),
                ("at", models.DateTimeField()),
                ("group_id", models.BigIntegerField()),
                ("error_class", models.TextField(blank=True, default="")),
                ("subsystem", models.TextField(blank=True, default="")),
                ("error_count", models.BigIntegerField(default=0)),
                ("given_up_count", models.BigIntegerField(default=0)),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(
                        fields=("unit", "group_id", "at", "error_class", "subsystem"),
                        name="telemetry_errorscell_once",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="FirstSeen",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("model", "Model"),
                            ("provider", "Provider"),
                            ("endpoint", "Endpoint"),
                            ("tool", "Tool"),
                            ("error_class", "Error class"),
                            ("agent_version", "Agent version"),
                            ("entrypoint", "Entrypoint"),
                        ],
                        max_length=16,
                    ),
                ),
                ("value", models.TextField()),
                ("first_at", models.DateTimeField(db_index=True)),
                ("install_id", models.UUIDField()),
            ],
            options={
                "verbose_name": "first seen",
                "verbose_name_plural": "first seen",
                "constraints": [
                    models.UniqueConstraint(
                        fields=("kind", "value"), name="telemetry_firstseen_once"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="HistogramCell",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("unit", models.CharField(choices=[("h", "Hour"), ("d", "Day")], max_length=1)),
                ("at", models.DateTimeField()),
                ("group_id", models.BigIntegerField()),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("run", "Run duration"),
                            ("run_version", "Run duration by agent version"),
                            ("model", "Model call latency"),
                            ("model_ttft", "Time to first token"),
                            ("tool", "Tool call duration"),
                        ],
                        max_length=12,
                    ),
                ),
                ("name", models.TextField(blank=True, default="")),
                ("detail", models.TextField(blank=True, default="")),
                ("counts", models.JSONField(default=dict)),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(
                        fields=("unit", "group_id", "at", "kind", "name", "detail"),
                        name="telemetry_histogramcell_once",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="InstallCell",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("unit", models.CharField(choices=[("h", "Hour"), ("d", "Day")], max_length=1)),
                ("at", models.DateTimeField()),
                ("install_id", models.UUIDField()),
                ("group_id", models.BigIntegerField(default=0)),
                ("run_count", models.BigIntegerField(default=0)),
                ("completed_run_count", models.BigIntegerField(default=0)),
                ("failed_run_count", models.BigIntegerField(default=0)),
                ("priced_run_count", models.BigIntegerField(default=0)),
                ("cost_nusd", models.BigIntegerField(default=0)),
                ("model_call_count", models.BigIntegerField(default=0)),
                ("token_count", models.BigIntegerField(default=0)),
                ("tool_call_count", models.BigIntegerField(default=0)),
                ("tool_failure_count", models.BigIntegerField(default=0)),
                ("error_count", models.BigIntegerField(default=0)),
            ],
            options={
                "indexes": [models.Index(fields=["unit", "at"], name="telemetry_installcell_at")],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("install_id", "unit", "at"), name="telemetry_installcell_once"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="ModelCallsCell",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("unit", models.CharField(choices=[("h", "Hour"), ("d", "Day")], max_length=1)),
                ("at", models.DateTimeField()),
                ("group_id", models.BigIntegerField()),
                ("provider", models.TextField(blank=True, default="")),
                ("model", models.TextField(blank=True, default="")),
                ("call_count", models.BigIntegerField(default=0)),
                ("failed_count", models.BigIntegerField(default=0)),
                ("priced_count", models.BigIntegerField(default=0)),
                ("timed_count", models.BigIntegerField(default=0)),
                ("retry_count", models.BigIntegerField(default=0)),
                ("input_tokens", models.BigIntegerField(default=0)),
                ("output_tokens", models.BigIntegerField(default=0)),
                ("cache_read_tokens", models.BigIntegerField(default=0)),
                ("cache_write_tokens", models.BigIntegerField(default=0)),
                ("reasoning_tokens", models.BigIntegerField(default=0)),
                ("cost_nusd", models.BigIntegerField(default=0)),
                ("latency_sum_us", models.BigIntegerField(default=0)),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(
                        fields=("unit", "group_id", "at", "provider", "model"),
                        name="telemetry_modelcallscell_once",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="RunsCell",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("unit", models.CharField(choices=[("h", "Hour"), ("d", "Day")], max_length=1)),
                ("at", models.DateTimeField()),
                ("group_id", models.BigIntegerField()),
                ("entrypoint", models.TextField(blank=True, default="")),
                ("platform", models.TextField(blank=True, default="")),
                ("agent_version", models.TextField(blank=True, default="")),
                ("run_count", models.BigIntegerField(default=0)),
                ("completed_count", models.BigIntegerField(default=0)),
                ("interrupted_count", models.BigIntegerField(default=0)),
                ("failed_count", models.BigIntegerField(default=0)),
                ("max_iterations_count", models.BigIntegerField(default=0)),
                ("timeout_count", models.BigIntegerField(default=0)),
                ("abandoned_count", models.BigIntegerField(default=0)),
                ("open_count", models.BigIntegerField(default=0)),
                ("other_count", models.BigIntegerField(default=0)),
                ("priced_count", models.BigIntegerField(default=0)),
                ("timed_count", models.BigIntegerField(default=0)),
                ("cost_nusd", models.BigIntegerField(default=0)),
                ("failed_cost_nusd", models.BigIntegerField(default=0)),
                ("duration_sum_us", models.BigIntegerField(default=0)),
                ("model_call_count", models.BigIntegerField(default=0)),
                ("tool_call_count", models.BigIntegerField(default=0)),
                ("error_count", models.BigIntegerField(default=0)),
                ("turn_count", models.BigIntegerField(default=0)),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(
                        fields=(
                            "unit",
                            "group_id",
                            "at",
                            "entrypoint",
                            "platform",
                            "agent_version",
                        ),
                        name="telemetry_runscell_once",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="ToolCallsCell",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("unit", models.CharField(choices=[("h", "Hour"), ("d", "Day")], max_length=1)),
                ("at", models.DateTimeField()),
                ("group_id", models.BigIntegerField()),
                ("tool_name", models.TextField(blank=True, default="")),
                ("call_count", models.BigIntegerField(default=0)),
                ("ok_count", models.BigIntegerField(default=0)),
                ("error_count", models.BigIntegerField(default=0)),
                ("timeout_count", models.BigIntegerField(default=0)),
                ("blocked_count", models.BigIntegerField(default=0)),
                ("other_count", models.BigIntegerField(default=0)),
                ("denied_count", models.BigIntegerField(default=0)),
                ("timed_count", models.BigIntegerField(default=0)),
                ("duration_sum_us", models.BigIntegerField(default=0)),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(
                        fields=("unit", "group_id", "at", "tool_name"),
                        name="telemetry_toolcallscell_once",
                    )
                ],
            },
        ),
    ]
