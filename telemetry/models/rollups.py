"""What waits to be folded into the cells, and the state of each hour's filling."""

from __future__ import annotations

from typing import Final

from django.db import models

NO_GROUP: Final = 0
"""``group_id`` of an install that has no group, or is not known (any more)."""


class TouchedHour(models.Model):
    """One batch touched one hour: written with the rows, removed by the fill that counted them.

    A row for each batch and hour, not a counter for each hour: two batches of the same hour
    would wait for each other's commit. ``batch_id``: the batch whose rows are not in the cells yet,
    received at ``touched_at`` as they were; None: the hour as a whole is to be made again.
    ``failed_at``: the database refused to fold it, with this ``fault``; it is tried again later.
    """

    hour = models.DateTimeField(db_index=True)
    touched_at = models.DateTimeField()
    install_id = models.UUIDField(null=True)
    batch_id = models.UUIDField(null=True)
    failed_at = models.DateTimeField(null=True)
    fault = models.CharField(max_length=200, blank=True, default="", db_default="")

    def __str__(self) -> str:
        return f"{self.hour:%Y-%m-%d %H}h"


class FillState(models.Model):
    """How far an hour's cells are: STARTED is committed before the work, DONE with it.

    A STARTED one that nobody works on was left by a worker that died: its transaction undid the
    half-made cells, the next fill makes them anew. EXPIRED: the rows are gone by retention, the
    cells stay and must not be re-made from nothing. MOVED: an earlier release made the cells, from
    rows that do not know their group. ``is_daily``: only the day has cells any more.
    """

    class State(models.TextChoices):
        """Where the fill of an hour stands."""

        STARTED = "started", "Started"
        DONE = "done", "Done"
        EXPIRED = "expired", "Expired"
        MOVED = "moved", "Moved"

    hour = models.DateTimeField(unique=True)
    state = models.CharField(max_length=8, choices=State.choices)
    started_at = models.DateTimeField()
    filled_at = models.DateTimeField(null=True, db_index=True)
    fill_count = models.IntegerField(default=0)
    is_daily = models.BooleanField(default=False)

    class Meta:
        ordering = ["-hour"]

    def __str__(self) -> str:
        return f"{self.hour:%Y-%m-%d %H}h {self.state}"
