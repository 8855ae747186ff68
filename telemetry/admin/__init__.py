"""The telemetry app's model admins: batches, the spool, quarantined lines, summaries, exports."""

from __future__ import annotations

from telemetry.admin import (
    batches,
    exports,
    exports_places,
    exports_schedules,
    quarantine,
    spool,
)

__all__ = ["batches", "exports", "exports_places", "exports_schedules", "quarantine", "spool"]
