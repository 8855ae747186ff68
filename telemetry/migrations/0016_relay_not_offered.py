"""When a receiver said that it takes a signal not at all: a column without a default."""

from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("telemetry", "0015_batch_hours"),
    ]

    operations = [
        migrations.AddField(
            model_name="relaycursor",
            name="not_offered_at",
            field=models.DateTimeField(null=True),
        ),
    ]
