"""What is known of OTLP traces while their spans still come."""

from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("telemetry", "0008_insight"),
    ]

    operations = [
        migrations.CreateModel(
            name="OtlpTrace",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "install_id",
                        "run_id",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("install_id", models.UUIDField()),
                ("run_id", models.CharField(max_length=32)),
                ("start_ns", models.BigIntegerField()),
                ("seq", models.BigIntegerField(default=1)),
                ("said", models.JSONField(default=dict)),
                ("counts", models.JSONField(default=dict)),
                ("updated_at", models.DateTimeField()),
            ],
            options={
                "verbose_name": "OTLP trace",
            },
        ),
    ]
