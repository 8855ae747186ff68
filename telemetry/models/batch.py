"""The ingest ledger: every batch once, with its receipt; and what was refused of it."""

from __future__ import annotations

from uuid import UUID

from django.db import models


class IngestBatchQuerySet(models.QuerySet["IngestBatch"]):
    """Reads of the ledger."""

    def of_install(self, install_id: UUID) -> IngestBatchQuerySet:
        """Batches of one install, newest first."""
        return self.filter(install_id=install_id).order_by("-received_at")


class IngestBatch(models.Model):
    """One received batch: committed together with its rows.

    Shape: received = inserted + merged + duplicate + rejected + spooled + expired. ``spooled`` rows
    are durable and wait in the spool: the drainer moves them to the first three, or to expired when
    their day was dropped meanwhile, and says when (``drained_at``); nothing else of a batch ever
    changes. ``receipt`` is the answer that a
    repeat of the same batch id gets again. ``content_sha256`` is taken over the decoded bytes, so
    the same content compressed anew is the same batch. No foreign key to the install: telemetry
    can move to a store of its own.
    ``first_hour`` and ``last_hour``: the hours its stored rows begin in, so that whoever wants them
    opens only those days; None of a batch without news, and of an earlier release.
    ``is_fed``: its rows are in the feed (FeedEntry) that relays follow; false again when it leaves
    the spool.
    Units: ``clock_skew_ms`` is the agent's clock minus ours when it sent the batch (its Date
    header, else its id, a UUIDv7); positive: the agent is ahead. The time on the way makes it
    smaller: ``store.clocks`` looks at several.
    """

    class Source(models.TextChoices):
        """How the batch came in."""

        PUSH = "push", "Push"
        FILE = "file", "File"
        OTLP = "otlp", "OpenTelemetry"
        REPLAY = "replay", "Quarantine"

    install_id = models.UUIDField()
    batch_id = models.UUIDField()
    source = models.CharField(max_length=8, choices=Source.choices, default=Source.PUSH)
    plane = models.CharField(max_length=16)
    schema_version = models.PositiveSmallIntegerField(default=1)
    content_sha256 = models.CharField(max_length=64)
    content_encoding = models.CharField(max_length=16, default="identity")
    client = models.CharField(max_length=120, blank=True, default="")
    wire_bytes = models.BigIntegerField(default=0)
    decoded_bytes = models.BigIntegerField(default=0)
    received_count = models.IntegerField(default=0)
    inserted_count = models.IntegerField(default=0)
    merged_count = models.IntegerField(default=0)
    duplicate_count = models.IntegerField(default=0)
    rejected_count = models.IntegerField(default=0)
    spooled_count = models.IntegerField(default=0)
    expired_count = models.IntegerField(default=0)
    quarantined_count = models.IntegerField(default=0)
    scrubbed_count = models.IntegerField(default=0)
    ruleset_version = models.CharField(max_length=40, blank=True, default="")
    receipt = models.JSONField(default=dict)
    consent = models.JSONField(default=dict)
    losses = models.JSONField(default=dict)
    first_seq = models.BigIntegerField(null=True)
    last_seq = models.BigIntegerField(null=True)
    clock_skew_ms = models.BigIntegerField(null=True)
    received_at = models.DateTimeField(db_index=True)
    drained_at = models.DateTimeField(null=True)
    first_hour = models.DateTimeField(null=True)
    last_hour = models.DateTimeField(null=True)
    is_fed = models.BooleanField(default=False, db_default=False)

    objects = IngestBatchQuerySet.as_manager()

    class Meta:
        verbose_name = "batch"
        verbose_name_plural = "batches"
        ordering = ["-received_at"]
        constraints = [
            models.UniqueConstraint(fields=["install_id", "batch_id"], name="telemetry_batch_once"),
        ]
        indexes = [
            models.Index(fields=["install_id", "-received_at"], name="telemetry_batch_install"),
            models.Index(
                fields=["drained_at"],
                name="telemetry_batch_drained",
                condition=models.Q(drained_at__isnull=False),
            ),
            models.Index(
                fields=["id"], name="telemetry_batch_unfed", condition=models.Q(is_fed=False)
            ),
        ]

    def __str__(self) -> str:
        return f"Batch {self.batch_id}"


class QuarantinedLine(models.Model):
    """One refused line, kept for the operator: bounded, and scrubbed before it was stored.

    Shape: ``code`` of contract.wire.LINE_CODES, ``detail`` a column's name and never a value,
    ``raw_text`` the first 4 KiB, bytes that are no UTF-8 and NUL written as escapes.
    ``is_replayable``: the text is the whole line as it came, so that it can be judged again.
    """

    install_id = models.UUIDField()
    batch_id = models.UUIDField()
    line = models.IntegerField()
    code = models.CharField(max_length=40)
    detail = models.CharField(max_length=200, blank=True, default="")
    raw_text = models.TextField(blank=True, default="")
    plane = models.CharField(max_length=16, default="local")
    is_replayable = models.BooleanField(default=False)
    received_at = models.DateTimeField(db_index=True)

    class Meta:
        verbose_name = "quarantined line"
        ordering = ["-received_at", "line"]
        constraints = [
            models.UniqueConstraint(
                fields=["install_id", "batch_id", "line"], name="telemetry_quarantine_once"
            ),
        ]
        indexes = [models.Index(fields=["code", "detail"], name="telemetry_quarantine_why")]
        permissions = [
            ("replay_quarantinedline", "Can replay quarantined lines"),
            ("purge_quarantinedline", "Can discard quarantined lines"),
        ]

    def __str__(self) -> str:
        return f"{self.batch_id} line {self.line}: {self.code}"


class ClosedPlane(models.Model):
    """How often an install knocked at a plane that is closed for it; nothing else is stored."""

    install_id = models.UUIDField()
    plane = models.CharField(max_length=16)
    refused_count = models.BigIntegerField(default=0)
    last_refused_at = models.DateTimeField()

    class Meta:
        verbose_name = "closed plane"
        constraints = [
            models.UniqueConstraint(fields=["install_id", "plane"], name="telemetry_closed_once"),
        ]

    def __str__(self) -> str:
        return f"{self.install_id} {self.plane}: {self.refused_count}"


class InstallIntake(models.Model):
    """What came in from one install so far: the running sums of its batches.

    Shape: ``losses`` counts what the agent says it dropped, by reason, since it enrolled; the
    ledger has each batch's share. Units: ``clock_skew_ms`` of the last batch, see IngestBatch.
    """

    install_id = models.UUIDField(primary_key=True)
    batch_count = models.BigIntegerField(default=0)
    stored_count = models.BigIntegerField(default=0)
    duplicate_count = models.BigIntegerField(default=0)
    rejected_count = models.BigIntegerField(default=0)
    scrubbed_count = models.BigIntegerField(default=0)
    lost_count = models.BigIntegerField(default=0)
    losses = models.JSONField(default=dict)
    last_seq = models.BigIntegerField(null=True)
    clock_skew_ms = models.BigIntegerField(null=True)
    last_batch_at = models.DateTimeField(null=True)

    class Meta:
        verbose_name = "intake"

    def __str__(self) -> str:
        return f"{self.install_id}: {self.batch_count} batches"
