"""Below which no assignment is issued: a column with a constant default, made in no time."""

from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("fleet", "0002_erasure"),
    ]

    operations = [
        migrations.AddField(
            model_name="fleet",
            name="assignment_floor",
            field=models.PositiveBigIntegerField(db_default=0, default=0, editable=False),
        ),
    ]
