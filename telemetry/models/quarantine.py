"""What is done with quarantined lines: each order as a row, with how far it has come."""

from __future__ import annotations

from django.db import models


class QuarantineJob(models.Model):
    """One order to replay or discard quarantined lines; the row is the truth, a task a nudge.

    Shape: ``chosen`` is a filter of ``ingest.quarantine``, ``last_line_id`` the newest line when
    the order was given: lines that come later are not meant. Lines are taken in the order of their
    ids, ``cursor`` is the last one done, so that an order that was cut off goes on where it was.
    Counts: total = stored + already there + kept + removed + what is still to do.
    """

    class Action(models.TextChoices):
        """What is done."""

        REPLAY = "replay", "Replay"
        PURGE = "purge", "Discard"

    class State(models.TextChoices):
        """How far it is."""

        WAITING = "waiting", "Waiting"
        RUNNING = "running", "Running"
        DONE = "done", "Done"

    action = models.CharField(max_length=8, choices=Action.choices)
    state = models.CharField(max_length=8, choices=State.choices, default=State.WAITING)
    actor = models.CharField(max_length=200)
    reason = models.CharField(max_length=300)
    chosen = models.JSONField(default=dict)
    last_line_id = models.BigIntegerField(default=0)
    cursor = models.BigIntegerField(default=0)
    total_count = models.IntegerField(default=0)
    stored_count = models.IntegerField(default=0)
    duplicate_count = models.IntegerField(default=0)
    kept_count = models.IntegerField(default=0)
    removed_count = models.IntegerField(default=0)
    last_error = models.CharField(max_length=80, blank=True, default="")
    created_at = models.DateTimeField()
    lease_until = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        verbose_name = "quarantine job"
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.get_action_display()} #{self.pk}"
