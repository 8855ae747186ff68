"""The hours that a batch's rows begin in: two columns without a default, which are added online."""

from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("telemetry", "0014_schedule_settle"),
    ]

    operations = [
        migrations.AddField(
            model_name="ingestbatch",
            name="first_hour",
            field=models.DateTimeField(null=True),
        ),
        migrations.AddField(
            model_name="ingestbatch",
            name="last_hour",
            field=models.DateTimeField(null=True),
        ),
    ]
