"""The telemetry app's model admins: batches, the spool, quarantined lines, summaries."""

from __future__ import annotations

from telemetry.admin import batches, quarantine, spool

__all__ = ["batches", "quarantine", "spool"]
