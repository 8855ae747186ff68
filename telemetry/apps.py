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
        """Register checks, probes, gauges, operations and panels, and what follows a fill."""
        from telemetry import checks, facts, health, operations, watch
        from telemetry.insight.boards import keep_boards
        from telemetry.relay.letters import purge_install
        from telemetry.rollup.hooks import register_after_fill
        from telemetry.store.erase import register_erased

        checks.register_checks()
        health.register_probes()
        facts.register_facts()
        operations.register_operations()
        watch.register_gauges()
        register_after_fill(keep_boards)
        register_erased("dead letters", purge_install)
        autodiscover_modules("pages.panels")
