"""The aggregate plane's records."""

from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("telemetry", "0002_spans_and_happenings")]

    operations = [
        migrations.CreateModel(
            name="AggregateRecord",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("install_id", models.UUIDField()),
                ("kind", models.CharField(max_length=40)),
                ("record_id", models.CharField(max_length=400)),
                ("seq", models.BigIntegerField()),
                ("occurred_at", models.DateTimeField(db_index=True)),
                ("data", models.JSONField()),
                ("batch_id", models.UUIDField()),
                ("received_at", models.DateTimeField()),
            ],
            options={
                "verbose_name": "summary",
                "verbose_name_plural": "summaries",
                "ordering": ["-occurred_at"],
                "indexes": [
                    models.Index(
                        fields=["install_id", "-occurred_at"], name="telemetry_aggregate_install"
                    )
                ],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("install_id", "kind", "record_id"), name="telemetry_aggregate_once"
                    )
                ],
            },
        ),
    ]
