"""Schedules wait for late rows, and say what they left out: columns with defaults."""

from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("telemetry", "0013_gzipped_exports"),
    ]

    operations = [
        migrations.AddField(
            model_name="exportschedule",
            name="settle_minutes",
            field=models.PositiveSmallIntegerField(
                default=15, verbose_name="wait for late rows, minutes"
            ),
        ),
        migrations.AddField(
            model_name="exportschedule",
            name="left_out_count",
            field=models.PositiveIntegerField(default=0, editable=False),
        ),
        migrations.AddField(
            model_name="exportschedule",
            name="left_out_at",
            field=models.DateTimeField(editable=False, null=True),
        ),
    ]
