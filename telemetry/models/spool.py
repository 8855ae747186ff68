"""The overload spool: batches that are acknowledged and wait to be stored."""

from __future__ import annotations

from django.db import models


class SpooledBatch(models.Model):
    """One batch on its way: judged, scrubbed, in the ledger, and not in the event tables yet.

    Written in one transaction with its ledger row, deleted in the one that stores its rows, so a
    batch is in exactly one of the two places. ``payload``: see ``ingest.spool``; nothing in it was
    not scrubbed. ``attempts`` counts tries that were begun, so that a batch that kills its worker
    is set aside as well; ``last_error`` names the kind of a failure and never a value.
    """

    install_id = models.UUIDField()
    batch_id = models.UUIDField()
    group_id = models.BigIntegerField(default=0)
    payload = models.BinaryField()
    payload_bytes = models.IntegerField()
    row_count = models.IntegerField()
    received_at = models.DateTimeField()
    attempts = models.PositiveSmallIntegerField(default=0)
    not_before = models.DateTimeField()
    last_error = models.CharField(max_length=200, blank=True, default="")
    set_aside_at = models.DateTimeField(null=True)

    class Meta:
        verbose_name = "spooled batch"
        verbose_name_plural = "spooled batches"
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint(fields=["install_id", "batch_id"], name="telemetry_spool_once"),
        ]
        indexes = [models.Index(fields=["install_id", "id"], name="telemetry_spool_order")]
        permissions = [("retry_spooledbatch", "Can store batches again that were set aside")]

    def __str__(self) -> str:
        return f"Batch {self.batch_id}, {self.row_count} rows"
