"""The hourly cells go: 0007 moved what they held. Reversed, their tables come back empty."""

from __future__ import annotations

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [
        ("telemetry", "0009_otlp_traces"),
    ]

    operations = [
        migrations.DeleteModel(name="ErrorCell"),
        migrations.DeleteModel(name="InstallHour"),
        migrations.DeleteModel(name="ModelCell"),
        migrations.DeleteModel(name="RunCell"),
        migrations.DeleteModel(name="ToolCell"),
    ]
