"""What installs did in the windows that pages ask about, counted once for all who look."""

from __future__ import annotations

from django.db import models


class InstallBoard(models.Model):
    """Active and top installs of one trailing window, for one group level.

    Installs cannot be added up from cells of hours and days without reading one for each install
    and day: 300,000 rows for a month of 10,000 installs. A board is that reading, done beside the
    pages and kept until the cells change or the window moves; ``counted_at`` says how old it is.

    Shape: ``tops`` maps runs, cost and failures to lines in order, each a list of install id and
    the numbers of LINE_FIELDS in ``insight.boards``. ``took_ms`` is how long the reading took.
    """

    window_hours = models.IntegerField()
    group_id = models.BigIntegerField()
    end_at = models.DateTimeField()
    counted_at = models.DateTimeField()
    took_ms = models.IntegerField(default=0)
    active_count = models.BigIntegerField(default=0)
    previous_active_count = models.BigIntegerField(default=0)
    tops = models.JSONField(default=dict)

    class Meta:
        verbose_name = "install board"
        constraints = [
            models.UniqueConstraint(
                fields=["window_hours", "group_id"], name="telemetry_installboard_once"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.window_hours} h to {self.end_at:%Y-%m-%d %H}h, group {self.group_id}"
