"""Erasures with their tombstones."""

from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("fleet", "0001_fleet_domain")]

    operations = [
        migrations.CreateModel(
            name="ErasedCredential",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("key_id", models.CharField(max_length=12, unique=True, verbose_name="key id")),
                ("digest", models.CharField(max_length=64)),
                ("pepper_id", models.CharField(max_length=16)),
                ("install_id", models.UUIDField(verbose_name="install id")),
            ],
            options={"verbose_name": "erased credential", "default_permissions": ()},
        ),
        migrations.CreateModel(
            name="Erasure",
            fields=[
                (
                    "install_id",
                    models.UUIDField(primary_key=True, serialize=False, verbose_name="install id"),
                ),
                (
                    "state",
                    models.CharField(
                        choices=[("started", "Under way"), ("done", "Done")],
                        default="started",
                        max_length=8,
                        verbose_name="state",
                    ),
                ),
                ("requested_by", models.CharField(max_length=200, verbose_name="requested by")),
                ("reason", models.CharField(max_length=300, verbose_name="reason")),
                ("requested_at", models.DateTimeField(verbose_name="requested")),
                (
                    "finished_at",
                    models.DateTimeField(blank=True, null=True, verbose_name="finished"),
                ),
                (
                    "counts_before",
                    models.JSONField(blank=True, null=True, verbose_name="rows before"),
                ),
                (
                    "counts_after",
                    models.JSONField(blank=True, null=True, verbose_name="rows after"),
                ),
                ("hours", models.JSONField(blank=True, default=list, verbose_name="hours")),
                (
                    "frozen_hours",
                    models.JSONField(blank=True, default=list, verbose_name="frozen hours"),
                ),
                (
                    "credential_count",
                    models.IntegerField(default=0, verbose_name="credentials revoked"),
                ),
                (
                    "report",
                    models.TextField(blank=True, default="", verbose_name="signed report"),
                ),
            ],
            options={
                "verbose_name": "erasure",
                "verbose_name_plural": "erasures",
                "ordering": ["-requested_at"],
            },
        ),
    ]
