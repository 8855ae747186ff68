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
        """Register the checks, probes, gauges and console panels, and what follows a fill."""
        from telemetry import checks, health, watch
        from telemetry.insight.boards import keep_boards
        from telemetry.rollup.hooks import register_after_fill

        checks.register_checks()
        health.register_probes()
        watch.register_gauges()
        register_after_fill(keep_boards)
        autodiscover_modules("pages.panels")
