"""The telemetry app's model admins: batches, the spool, quarantined lines, summaries."""

from __future__ import annotations

from telemetry.admin import batches, spool

__all__ = ["batches", "spool"]
