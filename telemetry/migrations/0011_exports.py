"""Exports, relays, streams, alerts: tables of their own, nothing that is there is touched."""

from __future__ import annotations

import uuid

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("telemetry", "0010_drop_hourly"),
    ]

    operations = [
        migrations.CreateModel(
            name="ExportDestination",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("name", models.CharField(max_length=80, unique=True, verbose_name="name")),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("folder", "Folder on the worker's machine"),
                            ("s3", "S3-compatible storage"),
                        ],
                        max_length=8,
                        verbose_name="kind",
                    ),
                ),
                (
                    "folder",
                    models.CharField(blank=True, default="", max_length=500, verbose_name="folder"),
                ),
                (
                    "bucket",
                    models.CharField(blank=True, default="", max_length=63, verbose_name="bucket"),
                ),
                (
                    "prefix",
                    models.CharField(blank=True, default="", max_length=300, verbose_name="prefix"),
                ),
                (
                    "endpoint",
                    models.CharField(
                        blank=True, default="", max_length=300, verbose_name="endpoint"
                    ),
                ),
                (
                    "region",
                    models.CharField(blank=True, default="", max_length=40, verbose_name="region"),
                ),
                (
                    "key_id_env",
                    models.CharField(
                        blank=True, default="", max_length=80, verbose_name="key id from"
                    ),
                ),
                (
                    "secret_env",
                    models.CharField(
                        blank=True, default="", max_length=80, verbose_name="secret from"
                    ),
                ),
                ("is_enabled", models.BooleanField(default=True, verbose_name="enabled")),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("tested_at", models.DateTimeField(editable=False, null=True)),
                (
                    "test_error",
                    models.CharField(blank=True, default="", editable=False, max_length=300),
                ),
            ],
            options={
                "verbose_name": "export destination",
                "db_table": "export_destination",
                "ordering": ["name"],
                "permissions": [("test_exportdestination", "Can test export destinations")],
            },
        ),
        migrations.CreateModel(
            name="RelayDestination",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("name", models.CharField(max_length=80, unique=True, verbose_name="name")),
                ("endpoint", models.CharField(max_length=300, verbose_name="endpoint")),
                (
                    "profile",
                    models.CharField(
                        choices=[("1.41", "1.41"), ("next", "next"), ("both", "both")],
                        default="1.41",
                        max_length=8,
                        verbose_name="conventions",
                    ),
                ),
                ("sends_traces", models.BooleanField(default=True, verbose_name="traces")),
                ("sends_metrics", models.BooleanField(default=True, verbose_name="metrics")),
                ("sends_logs", models.BooleanField(default=True, verbose_name="logs")),
                (
                    "errors_as_span_events",
                    models.BooleanField(default=False, verbose_name="errors as span events"),
                ),
                ("shows_hosts", models.BooleanField(default=False, verbose_name="host names")),
                ("headers_env", models.JSONField(blank=True, default=dict, verbose_name="headers")),
                ("group_ids", models.JSONField(blank=True, default=list, verbose_name="groups")),
                (
                    "max_age_h",
                    models.PositiveIntegerField(default=0, verbose_name="oldest rows, hours"),
                ),
                ("since_at", models.DateTimeField(verbose_name="rows received since")),
                ("is_enabled", models.BooleanField(default=True, verbose_name="enabled")),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("tested_at", models.DateTimeField(editable=False, null=True)),
                (
                    "test_error",
                    models.CharField(blank=True, default="", editable=False, max_length=300),
                ),
            ],
            options={
                "verbose_name": "collector",
                "db_table": "relay_destination",
                "ordering": ["name"],
                "permissions": [
                    ("test_relaydestination", "Can send test signals to collectors"),
                    ("replay_relaydestination", "Can send dead letters again"),
                ],
            },
        ),
        migrations.CreateModel(
            name="Stream",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("sent_count", models.BigIntegerField(default=0, editable=False)),
                ("rejected_count", models.BigIntegerField(default=0, editable=False)),
                ("retry_count", models.BigIntegerField(default=0, editable=False)),
                ("dead_count", models.BigIntegerField(default=0, editable=False)),
                ("expired_count", models.BigIntegerField(default=0, editable=False)),
                ("failure_count", models.PositiveIntegerField(default=0, editable=False)),
                ("open_until", models.DateTimeField(editable=False, null=True)),
                ("last_ok_at", models.DateTimeField(editable=False, null=True)),
                (
                    "last_error",
                    models.CharField(blank=True, default="", editable=False, max_length=300),
                ),
                ("last_error_at", models.DateTimeField(editable=False, null=True)),
                ("lease_until", models.DateTimeField(editable=False, null=True)),
                (
                    "lease_owner",
                    models.CharField(blank=True, default="", editable=False, max_length=80),
                ),
                ("name", models.CharField(max_length=80, unique=True, verbose_name="name")),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("otlp", "OpenTelemetry logs"),
                            ("webhook", "Webhook"),
                            ("syslog", "Syslog (RFC 5424)"),
                        ],
                        max_length=8,
                        verbose_name="kind",
                    ),
                ),
                ("endpoint", models.CharField(max_length=300, verbose_name="endpoint")),
                ("sends_audit", models.BooleanField(default=True, verbose_name="audit log")),
                ("sends_alerts", models.BooleanField(default=True, verbose_name="alerts")),
                ("headers_env", models.JSONField(blank=True, default=dict, verbose_name="headers")),
                (
                    "secret_env",
                    models.CharField(
                        blank=True, default="", max_length=80, verbose_name="signed with"
                    ),
                ),
                ("is_enabled", models.BooleanField(default=True, verbose_name="enabled")),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("audit_position", models.BigIntegerField(default=0, editable=False)),
                ("alert_position", models.BigIntegerField(default=0, editable=False)),
                ("tested_at", models.DateTimeField(editable=False, null=True)),
                (
                    "test_error",
                    models.CharField(blank=True, default="", editable=False, max_length=300),
                ),
            ],
            options={
                "verbose_name": "stream",
                "db_table": "relay_stream",
                "ordering": ["name"],
                "permissions": [
                    ("test_stream", "Can send test signals to streams"),
                    ("replay_stream", "Can send a stream's dead letters again"),
                ],
            },
        ),
        migrations.CreateModel(
            name="AlertEvent",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("key", models.CharField(max_length=80)),
                (
                    "state",
                    models.CharField(
                        choices=[("raised", "Raised"), ("cleared", "Cleared")], max_length=8
                    ),
                ),
                ("severity", models.CharField(max_length=8)),
                ("text", models.CharField(max_length=300)),
                ("count", models.IntegerField(default=0)),
                ("at", models.DateTimeField()),
            ],
            options={
                "verbose_name": "alert",
                "db_table": "relay_alert",
                "ordering": ["-id"],
                "indexes": [
                    models.Index(fields=["key", "-id"], name="telemetry_alert_key"),
                    models.Index(fields=["at"], name="telemetry_alert_at"),
                ],
            },
        ),
        migrations.CreateModel(
            name="ExportSchedule",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("datasets", models.JSONField(default=list, verbose_name="what")),
                (
                    "fmt",
                    models.CharField(
                        choices=[
                            ("ndjson", "NDJSON"),
                            ("json", "JSON"),
                            ("csv", "CSV"),
                            ("parquet", "Parquet"),
                        ],
                        max_length=8,
                        verbose_name="format",
                    ),
                ),
                ("chosen", models.JSONField(default=dict, verbose_name="filter")),
                ("keep_days", models.PositiveIntegerField(default=7, verbose_name="keep for days")),
                (
                    "reason",
                    models.CharField(blank=True, default="", max_length=300, verbose_name="reason"),
                ),
                ("name", models.CharField(max_length=80, unique=True, verbose_name="name")),
                (
                    "every",
                    models.CharField(
                        choices=[
                            ("hour", "Hour"),
                            ("day", "Day"),
                            ("week", "Week"),
                            ("month", "Month"),
                        ],
                        default="day",
                        max_length=8,
                        verbose_name="every",
                    ),
                ),
                ("at_minute", models.PositiveSmallIntegerField(default=15, verbose_name="minute")),
                ("at_hour", models.PositiveSmallIntegerField(default=2, verbose_name="hour")),
                ("weekday", models.PositiveSmallIntegerField(default=0, verbose_name="weekday")),
                (
                    "day_of_month",
                    models.PositiveSmallIntegerField(default=1, verbose_name="day of the month"),
                ),
                (
                    "time_zone",
                    models.CharField(default="UTC", max_length=64, verbose_name="time zone"),
                ),
                (
                    "catch_up",
                    models.CharField(
                        choices=[
                            ("all", "Each missed time gets its job"),
                            ("last", "Only the last missed time gets a job"),
                            ("none", "Missed times are left out"),
                        ],
                        default="all",
                        max_length=8,
                        verbose_name="catch up",
                    ),
                ),
                ("is_enabled", models.BooleanField(default=True, verbose_name="enabled")),
                ("owner", models.CharField(editable=False, max_length=200)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("next_at", models.DateTimeField(db_index=True, editable=False, null=True)),
                (
                    "last_error",
                    models.CharField(blank=True, default="", editable=False, max_length=300),
                ),
                (
                    "destination",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        to="telemetry.exportdestination",
                        verbose_name="to",
                    ),
                ),
            ],
            options={
                "verbose_name": "export schedule",
                "db_table": "export_schedule",
                "ordering": ["name"],
            },
        ),
        migrations.CreateModel(
            name="ExportJob",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("datasets", models.JSONField(default=list, verbose_name="what")),
                (
                    "fmt",
                    models.CharField(
                        choices=[
                            ("ndjson", "NDJSON"),
                            ("json", "JSON"),
                            ("csv", "CSV"),
                            ("parquet", "Parquet"),
                        ],
                        max_length=8,
                        verbose_name="format",
                    ),
                ),
                ("chosen", models.JSONField(default=dict, verbose_name="filter")),
                ("keep_days", models.PositiveIntegerField(default=7, verbose_name="keep for days")),
                (
                    "reason",
                    models.CharField(blank=True, default="", max_length=300, verbose_name="reason"),
                ),
                ("uid", models.UUIDField(default=uuid.uuid4, editable=False, unique=True)),
                ("start_at", models.DateTimeField(verbose_name="from")),
                ("end_at", models.DateTimeField(verbose_name="to")),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("waiting", "Waiting"),
                            ("running", "Running"),
                            ("done", "Done"),
                            ("failed", "Failed"),
                            ("cancelled", "Cancelled"),
                            ("expired", "Expired"),
                        ],
                        db_index=True,
                        default="waiting",
                        max_length=10,
                        verbose_name="state",
                    ),
                ),
                ("actor", models.CharField(max_length=200, verbose_name="ordered by")),
                ("slot_at", models.DateTimeField(null=True)),
                ("created_at", models.DateTimeField()),
                ("started_at", models.DateTimeField(null=True)),
                ("finished_at", models.DateTimeField(null=True)),
                ("expires_at", models.DateTimeField(db_index=True, null=True)),
                ("not_before", models.DateTimeField(null=True)),
                ("lease_until", models.DateTimeField(null=True)),
                ("lease_owner", models.CharField(blank=True, default="", max_length=80)),
                ("attempt_count", models.PositiveIntegerField(default=0)),
                ("cancel_asked_at", models.DateTimeField(null=True)),
                ("total_count", models.BigIntegerField(null=True)),
                ("done_count", models.BigIntegerField(default=0)),
                ("done_bytes", models.BigIntegerField(default=0)),
                ("redacted_count", models.BigIntegerField(default=0)),
                ("cursor", models.JSONField(default=dict)),
                ("last_error", models.CharField(blank=True, default="", max_length=300)),
                ("manifest_sha256", models.CharField(blank=True, default="", max_length=64)),
                (
                    "destination",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        to="telemetry.exportdestination",
                        verbose_name="to",
                    ),
                ),
                (
                    "schedule",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        to="telemetry.exportschedule",
                    ),
                ),
            ],
            options={
                "verbose_name": "export",
                "db_table": "export_job",
                "ordering": ["-id"],
                "permissions": [
                    ("cancel_exportjob", "Can cancel exports"),
                    ("download_exportjob", "Can download results of exports"),
                    ("export_content", "Can export content"),
                ],
            },
        ),
        migrations.CreateModel(
            name="FeedEntry",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("install_id", models.UUIDField()),
                ("batch_id", models.UUIDField()),
                ("received_at", models.DateTimeField()),
                ("row_count", models.IntegerField(default=0)),
            ],
            options={
                "verbose_name": "feed entry",
                "ordering": ["id"],
                "indexes": [models.Index(fields=["received_at"], name="telemetry_feed_received")],
            },
        ),
        migrations.CreateModel(
            name="RelayCursor",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("sent_count", models.BigIntegerField(default=0, editable=False)),
                ("rejected_count", models.BigIntegerField(default=0, editable=False)),
                ("retry_count", models.BigIntegerField(default=0, editable=False)),
                ("dead_count", models.BigIntegerField(default=0, editable=False)),
                ("expired_count", models.BigIntegerField(default=0, editable=False)),
                ("failure_count", models.PositiveIntegerField(default=0, editable=False)),
                ("open_until", models.DateTimeField(editable=False, null=True)),
                ("last_ok_at", models.DateTimeField(editable=False, null=True)),
                (
                    "last_error",
                    models.CharField(blank=True, default="", editable=False, max_length=300),
                ),
                ("last_error_at", models.DateTimeField(editable=False, null=True)),
                ("lease_until", models.DateTimeField(editable=False, null=True)),
                (
                    "lease_owner",
                    models.CharField(blank=True, default="", editable=False, max_length=80),
                ),
                (
                    "signal",
                    models.CharField(
                        choices=[("traces", "Traces"), ("metrics", "Metrics"), ("logs", "Logs")],
                        max_length=8,
                    ),
                ),
                ("position", models.BigIntegerField(default=0)),
                ("sending", models.JSONField(default=dict)),
                ("newest_sent_at", models.DateTimeField(null=True)),
                ("lag_s", models.FloatField(null=True)),
                ("waiting_count", models.BigIntegerField(default=0)),
                (
                    "destination",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="cursors",
                        to="telemetry.relaydestination",
                    ),
                ),
            ],
            options={
                "verbose_name": "relay cursor",
                "db_table": "relay_cursor",
                "ordering": ["destination", "signal"],
            },
        ),
        migrations.CreateModel(
            name="DeadLetter",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("signal", models.CharField(max_length=8)),
                ("record_count", models.IntegerField()),
                ("body", models.BinaryField()),
                ("body_bytes", models.IntegerField()),
                ("status", models.IntegerField(null=True)),
                ("error", models.CharField(max_length=300)),
                ("at", models.DateTimeField()),
                ("replay_asked_at", models.DateTimeField(null=True)),
                ("replayed_at", models.DateTimeField(null=True)),
                ("attempt_count", models.PositiveIntegerField(default=0)),
                (
                    "destination",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="dead_letters",
                        to="telemetry.relaydestination",
                    ),
                ),
                (
                    "stream",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="dead_letters",
                        to="telemetry.stream",
                    ),
                ),
            ],
            options={
                "verbose_name": "dead letter",
                "db_table": "relay_deadletter",
                "ordering": ["-id"],
            },
        ),
        migrations.CreateModel(
            name="ExportFile",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("dataset", models.CharField(max_length=40)),
                ("part", models.PositiveIntegerField()),
                ("name", models.CharField(max_length=200)),
                ("row_count", models.BigIntegerField()),
                ("size_bytes", models.BigIntegerField()),
                ("sha256", models.CharField(max_length=64)),
                ("written_at", models.DateTimeField()),
                (
                    "job",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="files",
                        to="telemetry.exportjob",
                    ),
                ),
            ],
            options={
                "verbose_name": "export file",
                "db_table": "export_file",
                "ordering": ["dataset", "part"],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("job", "dataset", "part"), name="telemetry_export_part_once"
                    )
                ],
            },
        ),
        migrations.AddConstraint(
            model_name="exportjob",
            constraint=models.UniqueConstraint(
                condition=models.Q(("slot_at__isnull", False)),
                fields=("schedule", "slot_at"),
                name="telemetry_export_slot_once",
            ),
        ),
        migrations.AddConstraint(
            model_name="relaycursor",
            constraint=models.UniqueConstraint(
                fields=("destination", "signal"), name="telemetry_relaycursor_once"
            ),
        ),
        migrations.AddIndex(
            model_name="deadletter",
            index=models.Index(fields=["destination", "-id"], name="telemetry_dead_destination"),
        ),
    ]
