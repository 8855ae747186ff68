"""Whether an export's text is packed: a column with a constant default, made at once."""

from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("telemetry", "0012_feed"),
    ]

    operations = [
        migrations.AddField(
            model_name=name,
            name="is_gzipped",
            field=models.BooleanField(db_default=False, default=False, verbose_name="compressed"),
        )
        for name in ("exportjob", "exportschedule")
    ]
