"""The overload spool, orders on quarantined lines, and which of these can be judged again."""

from __future__ import annotations

from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import StateApps


def nothing(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """The way forward has nothing to look after."""


def keep_the_spool(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """Refuse to drop rows that were acknowledged and are in no other table."""
    waiting = apps.get_model("telemetry", "SpooledBatch").objects.count()
    if waiting:
        raise RuntimeError(
            f"{waiting} acknowledged batches wait in the spool and would be lost: let the drainer "
            "store them (and try again, or delete, those that were set aside), then migrate"
        )


class Migration(migrations.Migration):
    dependencies = [
        ("telemetry", "0004_stamps"),
    ]

    operations = [
        migrations.CreateModel(
            name="QuarantineJob",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "action",
                    models.CharField(
                        choices=[("replay", "Replay"), ("purge", "Discard")], max_length=8
                    ),
                ),
                (
                    "state",
                    models.CharField(
                        choices=[("waiting", "Waiting"), ("running", "Running"), ("done", "Done")],
                        default="waiting",
                        max_length=8,
                    ),
                ),
                ("actor", models.CharField(max_length=200)),
                ("reason", models.CharField(max_length=300)),
                ("chosen", models.JSONField(default=dict)),
                ("last_line_id", models.BigIntegerField(default=0)),
                ("cursor", models.BigIntegerField(default=0)),
                ("total_count", models.IntegerField(default=0)),
                ("stored_count", models.IntegerField(default=0)),
                ("duplicate_count", models.IntegerField(default=0)),
                ("kept_count", models.IntegerField(default=0)),
                ("removed_count", models.IntegerField(default=0)),
                ("last_error", models.CharField(blank=True, default="", max_length=80)),
                ("created_at", models.DateTimeField()),
                ("lease_until", models.DateTimeField(null=True)),
                ("finished_at", models.DateTimeField(null=True)),
            ],
            options={
                "verbose_name": "quarantine job",
                "ordering": ["-id"],
            },
        ),
        migrations.CreateModel(
            name="SpooledBatch",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("install_id", models.UUIDField()),
                ("batch_id", models.UUIDField()),
                ("group_id", models.BigIntegerField(default=0)),
                ("payload", models.BinaryField()),
                ("payload_bytes", models.IntegerField()),
                ("row_count", models.IntegerField()),
                ("received_at", models.DateTimeField()),
                ("attempts", models.PositiveSmallIntegerField(default=0)),
                ("not_before", models.DateTimeField()),
                ("last_error", models.CharField(blank=True, default="", max_length=200)),
                ("set_aside_at", models.DateTimeField(null=True)),
            ],
            options={
                "verbose_name": "spooled batch",
                "verbose_name_plural": "spooled batches",
                "ordering": ["id"],
                "permissions": [
                    ("retry_spooledbatch", "Can store batches again that were set aside")
                ],
            },
        ),
        migrations.AlterModelOptions(
            name="quarantinedline",
            options={
                "ordering": ["-received_at", "line"],
                "permissions": [
                    ("replay_quarantinedline", "Can replay quarantined lines"),
                    ("purge_quarantinedline", "Can discard quarantined lines"),
                ],
                "verbose_name": "quarantined line",
            },
        ),
        migrations.AddField(
            model_name="ingestbatch",
            name="drained_at",
            field=models.DateTimeField(null=True),
        ),
        migrations.AddField(
            model_name="ingestbatch",
            name="expired_count",
            field=models.IntegerField(default=0),
        ),
        migrations.AddField(
            model_name="ingestbatch",
            name="spooled_count",
            field=models.IntegerField(default=0),
        ),
        migrations.AddField(
            model_name="quarantinedline",
            name="is_replayable",
            field=models.BooleanField(default=False),
        ),
        migrations.AddField(
            model_name="quarantinedline",
            name="plane",
            field=models.CharField(default="local", max_length=16),
        ),
        migrations.AddIndex(
            model_name="ingestbatch",
            index=models.Index(
                condition=models.Q(("drained_at__isnull", False)),
                fields=["drained_at"],
                name="telemetry_batch_drained",
            ),
        ),
        migrations.AddIndex(
            model_name="quarantinedline",
            index=models.Index(fields=["code", "detail"], name="telemetry_quarantine_why"),
        ),
        migrations.AddIndex(
            model_name="spooledbatch",
            index=models.Index(fields=["install_id", "id"], name="telemetry_spool_order"),
        ),
        migrations.AddConstraint(
            model_name="spooledbatch",
            constraint=models.UniqueConstraint(
                fields=("install_id", "batch_id"), name="telemetry_spool_once"
            ),
        ),
        migrations.RunPython(nothing, keep_the_spool),
    ]
