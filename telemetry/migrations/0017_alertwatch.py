"""States that differ from their last alert, until they have held for two rounds."""

from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    """A small table of the console's own."""

    dependencies = [("telemetry", "0016_relay_not_offered")]

    operations = [
        migrations.CreateModel(
            name="AlertWatch",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("key", models.CharField(max_length=80, unique=True)),
                ("is_present", models.BooleanField()),
                ("since_at", models.DateTimeField()),
            ],
            options={"verbose_name": "watched state", "db_table": "relay_alertwatch"},
        ),
    ]
