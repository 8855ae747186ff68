"""The telemetry app: its checks, its panels on the console."""

from __future__ import annotations

from django.apps import AppConfig
from django.utils.module_loading import autodiscover_modules


class TelemetryConfig(AppConfig):
    """Ingest, store, rollups, insights."""

    name = "telemetry"
    verbose_name = "Telemetry"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the system checks, the probes and the console panels."""
        from telemetry import checks, health

        checks.register_checks()
        health.register_probes()
        autodiscover_modules("pages.panels")
