"""The aggregate plane's records: one row a run summary or heartbeat, of installs that opted in."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from django.db import models

RECORD_ID_MAX_CHARS: Final = 400
"""The contract's 120, and what the scrubber may make of them."""


class AggregateRecordQuerySet(models.QuerySet["AggregateRecord"]):
    """Reads of the aggregate plane."""

    def of_install(self, install_id: UUID) -> AggregateRecordQuerySet:
        """Records of one install, newest first."""
        return self.filter(install_id=install_id).order_by("-occurred_at")

    def of_kind(self, kind: str) -> AggregateRecordQuerySet:
        """Records of one kind of the contract."""
        return self.filter(kind=kind)


class AggregateRecord(models.Model):
    """One record as ``agent_client.contract.aggregate`` has it; a later copy has replaced earlier.

    Shape: ``data`` holds every field of its kind. ``batch_id`` is the batch that brought it as it
    is now, and with it the consent that allowed it. ``seq``: the agent's own, higher is later.
    """

    install_id = models.UUIDField()
    kind = models.CharField(max_length=40)
    record_id = models.CharField(max_length=RECORD_ID_MAX_CHARS)
    seq = models.BigIntegerField()
    occurred_at = models.DateTimeField(db_index=True)
    data = models.JSONField()
    batch_id = models.UUIDField()
    received_at = models.DateTimeField()

    objects = AggregateRecordQuerySet.as_manager()

    class Meta:
        verbose_name = "summary"
        verbose_name_plural = "summaries"
        ordering = ["-occurred_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["install_id", "kind", "record_id"], name="telemetry_aggregate_once"
            ),
        ]
        indexes = [
            models.Index(fields=["install_id", "-occurred_at"], name="telemetry_aggregate_install"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.record_id}"
