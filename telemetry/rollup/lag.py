"""How far the cells are behind what was acknowledged."""

from __future__ import annotations

from django.db.models import Min

from fleet.lib.clock import now
from telemetry.models import TouchedHour


def lag_s() -> float | None:
    """The age of the oldest batch that is to be folded, in seconds; None: nothing waits.

    What the database refused to fold is not among it: ``failed_batches`` counts that.
    """
    oldest = TouchedHour.objects.filter(failed_at=None).aggregate(oldest=Min("touched_at"))[
        "oldest"
    ]
    return None if oldest is None else max(0.0, (now() - oldest).total_seconds())


def failed_batches() -> int:
    """How many batches the database refused to fold; they are tried again each hour."""
    failed = TouchedHour.objects.filter(failed_at__isnull=False)
    return failed.values("install_id", "batch_id").distinct().count()
