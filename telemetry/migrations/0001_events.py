"""The event tables from SQL (day partitions on PostgreSQL); ledger, quarantine and cells."""

from __future__ import annotations

from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import StateApps

from fleet.lib.sql import apply_sql


def make_event_tables(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    apply_sql(schema_editor, __file__, "0001_events")


def drop_event_tables(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    apply_sql(schema_editor, __file__, "0001_events_down")


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunPython(make_event_tables, drop_event_tables)],
            state_operations=[
                migrations.CreateModel(
                    name="ErrorEvent",
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
                        ("error_class", models.TextField(null=True)),
                        ("subsystem", models.TextField(null=True)),
                        ("recovery", models.TextField(null=True)),
                        ("trace_id", models.TextField(null=True)),
                        ("parent_span_id", models.TextField(null=True)),
                        ("start_ns", models.BigIntegerField(null=True)),
                        ("end_ns", models.BigIntegerField(null=True)),
                        ("retryable", models.BooleanField(null=True)),
                        ("status_code", models.BigIntegerField(null=True)),
                        ("retry_count", models.BigIntegerField(null=True)),
                    ],
                    options={
                        "verbose_name": "error",
                        "db_table": "telemetry_errorevent",
                    },
                ),
                migrations.CreateModel(
                    name="ModelCall",
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
                        ("provider", models.TextField(null=True)),
                        ("model", models.TextField(null=True)),
                        ("base_url", models.TextField(null=True)),
                        ("input_tokens", models.BigIntegerField(null=True)),
                        ("output_tokens", models.BigIntegerField(null=True)),
                        ("cache_read_tokens", models.BigIntegerField(null=True)),
                        ("cache_write_tokens", models.BigIntegerField(null=True)),
                        ("reasoning_tokens", models.BigIntegerField(null=True)),
                        ("latency_ms", models.FloatField(null=True)),
                        ("ttft_ms", models.FloatField(null=True)),
                        ("estimated_cost_usd", models.FloatField(null=True)),
                        ("cost_status", models.TextField(null=True)),
                        ("cost_source", models.TextField(null=True)),
                        ("end_reason", models.TextField(null=True)),
                        ("retry_count", models.BigIntegerField(null=True)),
                        ("trace_id", models.TextField(null=True)),
                        ("parent_span_id", models.TextField(null=True)),
                        ("start_ns", models.BigIntegerField()),
                        ("end_ns", models.BigIntegerField(null=True)),
                        ("response_model", models.TextField(null=True)),
                        ("finish_reason", models.TextField(null=True)),
                        ("api_request_id", models.TextField(null=True)),
                        ("status_code", models.BigIntegerField(null=True)),
                    ],
                    options={
                        "verbose_name": "model call",
                        "db_table": "telemetry_modelcall",
                    },
                ),
                migrations.CreateModel(
                    name="Run",
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
                                "run_id",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("run_id", models.TextField()),
                        ("trace_id", models.TextField(null=True)),
                        ("session_id", models.TextField(null=True)),
                        ("profile_id", models.TextField(null=True)),
                        ("entrypoint", models.TextField(null=True)),
                        ("platform", models.TextField(null=True)),
                        ("start_ns", models.BigIntegerField()),
                        ("end_ns", models.BigIntegerField(null=True)),
                        ("end_reason", models.TextField(null=True)),
                        ("model_call_count", models.BigIntegerField(null=True)),
                        ("tool_call_count", models.BigIntegerField(null=True)),
                        ("error_count", models.BigIntegerField(null=True)),
                        ("estimated_cost_usd", models.FloatField(null=True)),
                        ("cost_status", models.TextField(null=True)),
                        ("schema_v", models.BigIntegerField(null=True)),
                        ("parent_run_id", models.TextField(null=True)),
                        ("agent_version", models.TextField(null=True)),
                        ("turn_count", models.BigIntegerField(null=True)),
                    ],
                    options={
                        "verbose_name": "run",
                        "db_table": "telemetry_run",
                    },
                ),
                migrations.CreateModel(
                    name="ToolCall",
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
                        ("tool_name", models.TextField(null=True)),
                        ("backend", models.TextField(null=True)),
                        ("duration_ms", models.FloatField(null=True)),
                        ("result_class", models.TextField(null=True)),
                        ("retry_count", models.BigIntegerField(null=True)),
                        ("approval", models.TextField(null=True)),
                        ("trace_id", models.TextField(null=True)),
                        ("parent_span_id", models.TextField(null=True)),
                        ("start_ns", models.BigIntegerField()),
                        ("end_ns", models.BigIntegerField(null=True)),
                        ("tool_call_id", models.TextField(null=True)),
                        ("error_type", models.TextField(null=True)),
                    ],
                    options={
                        "verbose_name": "tool call",
                        "db_table": "telemetry_toolcall",
                    },
                ),
            ],
        ),
        migrations.CreateModel(
            name="FillState",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("hour", models.DateTimeField(unique=True)),
                (
                    "state",
                    models.CharField(
                        choices=[("started", "Started"), ("done", "Done"), ("expired", "Expired")],
                        max_length=8,
                    ),
                ),
                ("started_at", models.DateTimeField()),
                ("filled_at", models.DateTimeField(db_index=True, null=True)),
                ("fill_count", models.IntegerField(default=0)),
            ],
            options={
                "ordering": ["-hour"],
            },
        ),
        migrations.CreateModel(
            name="InstallIntake",
            fields=[
                ("install_id", models.UUIDField(primary_key=True, serialize=False)),
                ("batch_count", models.BigIntegerField(default=0)),
                ("stored_count", models.BigIntegerField(default=0)),
                ("duplicate_count", models.BigIntegerField(default=0)),
                ("rejected_count", models.BigIntegerField(default=0)),
                ("scrubbed_count", models.BigIntegerField(default=0)),
                ("lost_count", models.BigIntegerField(default=0)),
                ("losses", models.JSONField(default=dict)),
                ("last_seq", models.BigIntegerField(null=True)),
                ("clock_skew_ms", models.BigIntegerField(null=True)),
                ("last_batch_at", models.DateTimeField(null=True)),
            ],
            options={
                "verbose_name": "intake",
            },
        ),
        migrations.CreateModel(
            name="TouchedHour",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("hour", models.DateTimeField(db_index=True)),
                ("touched_at", models.DateTimeField()),
            ],
        ),
        migrations.CreateModel(
            name="ClosedPlane",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("install_id", models.UUIDField()),
                ("plane", models.CharField(max_length=16)),
                ("refused_count", models.BigIntegerField(default=0)),
                ("last_refused_at", models.DateTimeField()),
            ],
            options={
                "verbose_name": "closed plane",
                "constraints": [
                    models.UniqueConstraint(
                        fields=("install_id", "plane"), name="telemetry_closed_once"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="ErrorCell",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("hour", models.DateTimeField()),
                ("group_id", models.BigIntegerField(default=0)),
                ("error_class", models.TextField(blank=True)),
                ("subsystem", models.TextField(blank=True)),
                ("error_count", models.BigIntegerField(default=0)),
                ("given_up_count", models.BigIntegerField(default=0)),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(
                        fields=("hour", "group_id", "error_class", "subsystem"),
                        name="telemetry_errorcell_once",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="IngestBatch",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("install_id", models.UUIDField()),
                ("batch_id", models.UUIDField()),
                (
                    "source",
                    models.CharField(
                        choices=[("push", "Push"), ("file", "File")], default="push", max_length=8
                    ),
                ),
                ("plane", models.CharField(max_length=16)),
                ("schema_version", models.PositiveSmallIntegerField(default=1)),
                ("content_sha256", models.CharField(max_length=64)),
                ("content_encoding", models.CharField(default="identity", max_length=16)),
                ("client", models.CharField(blank=True, default="", max_length=120)),
                ("wire_bytes", models.BigIntegerField(default=0)),
                ("decoded_bytes", models.BigIntegerField(default=0)),
                ("received_count", models.IntegerField(default=0)),
                ("inserted_count", models.IntegerField(default=0)),
                ("merged_count", models.IntegerField(default=0)),
                ("duplicate_count", models.IntegerField(default=0)),
                ("rejected_count", models.IntegerField(default=0)),
                ("quarantined_count", models.IntegerField(default=0)),
                ("scrubbed_count", models.IntegerField(default=0)),
                ("ruleset_version", models.CharField(blank=True, default="", max_length=40)),
                ("receipt", models.JSONField(default=dict)),
                ("consent", models.JSONField(default=dict)),
                ("losses", models.JSONField(default=dict)),
                ("first_seq", models.BigIntegerField(null=True)),
                ("last_seq", models.BigIntegerField(null=True)),
                ("clock_skew_ms", models.BigIntegerField(null=True)),
                ("received_at", models.DateTimeField(db_index=True)),
            ],
            options={
                "verbose_name": "batch",
                "verbose_name_plural": "batches",
                "ordering": ["-received_at"],
                "indexes": [
                    models.Index(
                        fields=["install_id", "-received_at"], name="telemetry_batch_install"
                    )
                ],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("install_id", "batch_id"), name="telemetry_batch_once"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="InstallHour",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("hour", models.DateTimeField()),
                ("group_id", models.BigIntegerField(default=0)),
                ("install_id", models.UUIDField()),
                ("run_count", models.BigIntegerField(default=0)),
                ("failed_run_count", models.BigIntegerField(default=0)),
                ("model_call_count", models.BigIntegerField(default=0)),
                ("tool_call_count", models.BigIntegerField(default=0)),
                ("tool_failure_count", models.BigIntegerField(default=0)),
                ("error_count", models.BigIntegerField(default=0)),
                ("priced_run_count", models.BigIntegerField(default=0)),
                ("cost_usd", models.FloatField(default=0.0)),
            ],
            options={
                "indexes": [
                    models.Index(
                        fields=["install_id", "hour"], name="telemetry_installhour_install"
                    )
                ],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("hour", "install_id"), name="telemetry_installhour_once"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="ModelCell",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("hour", models.DateTimeField()),
                ("group_id", models.BigIntegerField(default=0)),
                ("provider", models.TextField(blank=True)),
                ("model", models.TextField(blank=True)),
                ("call_count", models.BigIntegerField(default=0)),
                ("failed_count", models.BigIntegerField(default=0)),
                ("priced_count", models.BigIntegerField(default=0)),
                ("retry_count", models.BigIntegerField(default=0)),
                ("input_tokens", models.BigIntegerField(default=0)),
                ("output_tokens", models.BigIntegerField(default=0)),
                ("cache_read_tokens", models.BigIntegerField(default=0)),
                ("cache_write_tokens", models.BigIntegerField(default=0)),
                ("reasoning_tokens", models.BigIntegerField(default=0)),
                ("cost_usd", models.FloatField(default=0.0)),
                ("latency_sum_ms", models.FloatField(default=0.0)),
                ("latency_hist", models.JSONField(default=dict)),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(
                        fields=("hour", "group_id", "provider", "model"),
                        name="telemetry_modelcell_once",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="QuarantinedLine",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("install_id", models.UUIDField()),
                ("batch_id", models.UUIDField()),
                ("line", models.IntegerField()),
                ("code", models.CharField(max_length=40)),
                ("detail", models.CharField(blank=True, default="", max_length=200)),
                ("raw_text", models.TextField(blank=True, default="")),
                ("received_at", models.DateTimeField(db_index=True)),
            ],
            options={
                "verbose_name": "quarantined line",
                "ordering": ["-received_at", "line"],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("install_id", "batch_id", "line"), name="telemetry_quarantine_once"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="RunCell",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("hour", models.DateTimeField()),
                ("group_id", models.BigIntegerField(default=0)),
                ("entrypoint", models.TextField(blank=True)),
                ("agent_version", models.TextField(blank=True)),
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
                ("cost_usd", models.FloatField(default=0.0)),
                ("duration_sum_ms", models.FloatField(default=0.0)),
                ("duration_hist", models.JSONField(default=dict)),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(
                        fields=("hour", "group_id", "entrypoint", "agent_version"),
                        name="telemetry_runcell_once",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="ToolCell",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("hour", models.DateTimeField()),
                ("group_id", models.BigIntegerField(default=0)),
                ("tool_name", models.TextField(blank=True)),
                ("call_count", models.BigIntegerField(default=0)),
                ("ok_count", models.BigIntegerField(default=0)),
                ("error_count", models.BigIntegerField(default=0)),
                ("timeout_count", models.BigIntegerField(default=0)),
                ("blocked_count", models.BigIntegerField(default=0)),
                ("other_count", models.BigIntegerField(default=0)),
                ("denied_count", models.BigIntegerField(default=0)),
                ("duration_sum_ms", models.FloatField(default=0.0)),
                ("duration_hist", models.JSONField(default=dict)),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(
                        fields=("hour", "group_id", "tool_name"), name="telemetry_toolcell_once"
                    )
                ],
            },
        ),
    ]
