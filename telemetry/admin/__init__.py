"""The telemetry app's model admins: batches, spool, quarantine, exports, what is sent on."""

from __future__ import annotations

from telemetry.admin import (
    batches,
    exports,
    exports_places,
    exports_schedules,
    quarantine,
    relay_alerts,
    relay_collectors,
    relay_letters,
    relay_streams,
    spool,
)

__all__ = [
    "batches",
    "exports",
    "exports_places",
    "exports_schedules",
    "quarantine",
    "relay_alerts",
    "relay_collectors",
    "relay_letters",
    "relay_streams",
    "spool",
]
