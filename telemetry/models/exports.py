"""Exports: what is to be written where, how far it is, and what came of it.

Orders and their books are the console's own and stay with it when rows move to a store of their
own: their tables are not named telemetry_, and they may point at each other.
"""

from __future__ import annotations

import uuid

from django.db import models
from django.utils.translation import gettext_lazy as _


class ExportFormat(models.TextChoices):
    """How rows are written."""

    NDJSON = "ndjson", "NDJSON"
    JSON = "json", "JSON"
    CSV = "csv", "CSV"
    PARQUET = "parquet", "Parquet"


class ExportDestination(models.Model):
    """A place for results beside the console's own store.

    Shape: ``folder`` lies under one of FLEET_EXPORT_FOLDERS; of an S3-compatible store ``bucket``,
    ``prefix``, ``endpoint`` (empty: AWS) and ``region``. Keys are never stored: ``key_id_env`` and
    ``secret_env`` are NAMES of environment variables that begin with FLEET_S3_.
    """

    class Kind(models.TextChoices):
        """What it is."""

        FOLDER = "folder", _("Folder on the worker's machine")
        S3 = "s3", _("S3-compatible storage")

    name = models.CharField(_("name"), max_length=80, unique=True)
    kind = models.CharField(_("kind"), max_length=8, choices=Kind.choices)
    folder = models.CharField(_("folder"), max_length=500, blank=True, default="")
    bucket = models.CharField(_("bucket"), max_length=63, blank=True, default="")
    prefix = models.CharField(_("prefix"), max_length=300, blank=True, default="")
    endpoint = models.CharField(_("endpoint"), max_length=300, blank=True, default="")
    region = models.CharField(_("region"), max_length=40, blank=True, default="")
    key_id_env = models.CharField(_("key id from"), max_length=80, blank=True, default="")
    secret_env = models.CharField(_("secret from"), max_length=80, blank=True, default="")
    is_enabled = models.BooleanField(_("enabled"), default=True)
    created_at = models.DateTimeField(auto_now_add=True)
    tested_at = models.DateTimeField(null=True, editable=False)
    test_error = models.CharField(max_length=300, blank=True, default="", editable=False)

    class Meta:
        db_table = "export_destination"
        verbose_name = _("export destination")
        ordering = ["name"]
        permissions = [("test_exportdestination", "Can test export destinations")]

    def __str__(self) -> str:
        return self.name


class ExportOrder(models.Model):
    """What a job and a schedule have in common: which rows, in which form, where to.

    Shape: ``datasets`` names of ``telemetry.exports.datasets``; ``chosen`` a filter as
    ``telemetry.exports.choice`` reads it (groups, installs, models, tools, results). No
    destination: the console keeps the result and hands it out. ``is_gzipped`` text is packed with
    gzip; Parquet packs itself.
    """

    datasets = models.JSONField(_("what"), default=list)
    fmt = models.CharField(_("format"), max_length=8, choices=ExportFormat.choices)
    is_gzipped = models.BooleanField(_("compressed"), default=False, db_default=False)
    chosen = models.JSONField(_("filter"), default=dict)
    destination = models.ForeignKey(
        ExportDestination, verbose_name=_("to"), null=True, blank=True, on_delete=models.PROTECT
    )
    keep_days = models.PositiveIntegerField(_("keep for days"), default=7)
    reason = models.CharField(_("reason"), max_length=300, blank=True, default="")

    class Meta:
        abstract = True


class ExportSchedule(ExportOrder):
    """An order that is given again and again, at a time of day where its people live.

    Shape: each time stands for one slot; a job covers the time from the slot before to its own.
    ``next_at`` is the next slot in UTC. ``catch_up``: what becomes of slots that passed
    while nothing ran. A job is ordered ``settle_minutes`` after its slot: what arrives later is in
    no other window. ``left_out_count`` are slots without a job so far, ``left_out_at`` the last.
    """

    class Every(models.TextChoices):
        """How often."""

        HOUR = "hour", _("Hour")
        DAY = "day", _("Day")
        WEEK = "week", _("Week")
        MONTH = "month", _("Month")

    class CatchUp(models.TextChoices):
        """What becomes of slots that were missed."""

        ALL = "all", _("Each missed time gets its job")
        LAST = "last", _("Only the last missed time gets a job")
        NONE = "none", _("Missed times are left out")

    name = models.CharField(_("name"), max_length=80, unique=True)
    every = models.CharField(_("every"), max_length=8, choices=Every.choices, default=Every.DAY)
    at_minute = models.PositiveSmallIntegerField(_("minute"), default=15)
    at_hour = models.PositiveSmallIntegerField(_("hour"), default=2)
    weekday = models.PositiveSmallIntegerField(_("weekday"), default=0)
    day_of_month = models.PositiveSmallIntegerField(_("day of the month"), default=1)
    time_zone = models.CharField(_("time zone"), max_length=64, default="UTC")
    catch_up = models.CharField(
        _("catch up"), max_length=8, choices=CatchUp.choices, default=CatchUp.ALL
    )
    settle_minutes = models.PositiveSmallIntegerField(_("wait for late rows, minutes"), default=15)
    is_enabled = models.BooleanField(_("enabled"), default=True)
    owner = models.CharField(max_length=200, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    next_at = models.DateTimeField(null=True, editable=False, db_index=True)
    last_error = models.CharField(max_length=300, blank=True, default="", editable=False)
    left_out_count = models.PositiveIntegerField(default=0, editable=False)
    left_out_at = models.DateTimeField(null=True, editable=False)

    class Meta:
        db_table = "export_schedule"
        verbose_name = _("export schedule")
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class ExportJob(ExportOrder):
    """One export: the row is the truth, a task a nudge that may come twice or not at all.

    Shape: rows of ``[start_at, end_at)`` that had arrived by ``created_at``. Work is done in parts
    (ExportFile); a part counts when its file is whole and its row committed, so that a job that was
    killed goes on with the next part. ``lease_until`` is until when nobody else may work on it,
    ``lease_owner`` who does; each take-over counts an attempt. ``slot_at`` with its schedule is
    unique: a schedule that is looked at twice orders once.
    Units: ``total_count`` is an estimate made at the start, ``done_count`` rows written.
    """

    class State(models.TextChoices):
        """Where it is."""

        WAITING = "waiting", _("Waiting")
        RUNNING = "running", _("Running")
        DONE = "done", _("Done")
        FAILED = "failed", _("Failed")
        CANCELLED = "cancelled", _("Cancelled")
        EXPIRED = "expired", _("Expired")

    OPEN = (State.WAITING, State.RUNNING)

    uid = models.UUIDField(unique=True, default=uuid.uuid4, editable=False)
    start_at = models.DateTimeField(_("from"))
    end_at = models.DateTimeField(_("to"))
    state = models.CharField(
        _("state"), max_length=10, choices=State.choices, default=State.WAITING, db_index=True
    )
    actor = models.CharField(_("ordered by"), max_length=200)
    schedule = models.ForeignKey(ExportSchedule, null=True, on_delete=models.SET_NULL)
    slot_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    expires_at = models.DateTimeField(null=True, db_index=True)
    not_before = models.DateTimeField(null=True)
    lease_until = models.DateTimeField(null=True)
    lease_owner = models.CharField(max_length=80, blank=True, default="")
    attempt_count = models.PositiveIntegerField(default=0)
    cancel_asked_at = models.DateTimeField(null=True)
    total_count = models.BigIntegerField(null=True)
    done_count = models.BigIntegerField(default=0)
    done_bytes = models.BigIntegerField(default=0)
    redacted_count = models.BigIntegerField(default=0)
    cursor = models.JSONField(default=dict)
    last_error = models.CharField(max_length=300, blank=True, default="")
    manifest_sha256 = models.CharField(max_length=64, blank=True, default="")

    class Meta:
        db_table = "export_job"
        verbose_name = _("export")
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["schedule", "slot_at"],
                name="telemetry_export_slot_once",
                condition=models.Q(slot_at__isnull=False),
            ),
        ]
        permissions = [
            ("cancel_exportjob", "Can cancel exports"),
            ("download_exportjob", "Can download results of exports"),
            ("export_content", "Can export content"),
        ]

    def __str__(self) -> str:
        return f"Export {self.pk}"

    @property
    def is_open(self) -> bool:
        """Whether it still waits or runs."""
        return self.state in self.OPEN


class ExportFile(models.Model):
    """One file of a result, written whole: a part of one dataset.

    Shape: ``name`` is relative to the job's folder; ``sha256`` is over the bytes as they lie there.
    """

    job = models.ForeignKey(ExportJob, related_name="files", on_delete=models.CASCADE)
    dataset = models.CharField(max_length=40)
    part = models.PositiveIntegerField()
    name = models.CharField(max_length=200)
    row_count = models.BigIntegerField()
    size_bytes = models.BigIntegerField()
    sha256 = models.CharField(max_length=64)
    written_at = models.DateTimeField()

    class Meta:
        db_table = "export_file"
        verbose_name = _("export file")
        ordering = ["dataset", "part"]
        constraints = [
            models.UniqueConstraint(
                fields=["job", "dataset", "part"], name="telemetry_export_part_once"
            ),
        ]

    def __str__(self) -> str:
        return self.name
