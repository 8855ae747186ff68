"""Boards: active and top installs of the windows that pages ask about."""

from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("telemetry", "0007_cells"),
    ]

    operations = [
        migrations.CreateModel(
            name="InstallBoard",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("window_hours", models.IntegerField()),
                ("group_id", models.BigIntegerField()),
                ("end_at", models.DateTimeField()),
                ("counted_at", models.DateTimeField()),
                ("took_ms", models.IntegerField(default=0)),
                ("active_count", models.BigIntegerField(default=0)),
                ("previous_active_count", models.BigIntegerField(default=0)),
                ("tops", models.JSONField(default=dict)),
            ],
            options={
                "verbose_name": "install board",
                "constraints": [
                    models.UniqueConstraint(
                        fields=("window_hours", "group_id"), name="telemetry_installboard_once"
                    )
                ],
            },
        ),
    ]
