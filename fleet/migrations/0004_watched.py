"""Two small tables of what the console's own processes leave of themselves."""

from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("fleet", "0003_assignment_floor"),
    ]

    operations = [
        migrations.CreateModel(
            name="ProcessSeen",
            fields=[
                (
                    "key",
                    models.CharField(
                        max_length=300, primary_key=True, serialize=False, verbose_name="process"
                    ),
                ),
                ("kind", models.CharField(max_length=16, verbose_name="kind")),
                ("hostname", models.CharField(max_length=255, verbose_name="host")),
                ("version", models.CharField(max_length=64, verbose_name="version")),
                ("at", models.DateTimeField(verbose_name="at")),
            ],
            options={
                "verbose_name": "process",
                "verbose_name_plural": "processes",
            },
        ),
        migrations.CreateModel(
            name="TaskRun",
            fields=[
                (
                    "task",
                    models.CharField(
                        max_length=200, primary_key=True, serialize=False, verbose_name="task"
                    ),
                ),
                ("started_at", models.DateTimeField(verbose_name="started")),
                ("ended_at", models.DateTimeField(verbose_name="ended")),
                ("took_ms", models.PositiveBigIntegerField(verbose_name="took, ms")),
                ("run_count", models.PositiveBigIntegerField(default=0, verbose_name="runs")),
                (
                    "failure_count",
                    models.PositiveBigIntegerField(default=0, verbose_name="failures"),
                ),
                ("has_failed", models.BooleanField(default=False, verbose_name="failed last")),
                (
                    "error_kind",
                    models.CharField(blank=True, max_length=100, verbose_name="last error"),
                ),
                ("error_at", models.DateTimeField(null=True, verbose_name="last error at")),
            ],
            options={
                "verbose_name": "periodic task",
                "verbose_name_plural": "periodic tasks",
            },
        ),
    ]
