"""The telemetry app's model admins: batches, the spool, quarantined lines, what is sent on."""

from __future__ import annotations

from telemetry.admin import (
    batches,
    quarantine,
    relay_alerts,
    relay_collectors,
    relay_letters,
    relay_streams,
    spool,
)

__all__ = [
    "batches",
    "quarantine",
    "relay_alerts",
    "relay_collectors",
    "relay_letters",
    "relay_streams",
    "spool",
]
