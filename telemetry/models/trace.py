"""What is known of each OTLP trace that is a run, until no further span of it is awaited."""

from __future__ import annotations

from django.db import models


class OtlpTrace(models.Model):
    """One trace of one install: what its spans said so far, for those that are still to come.

    Shape: ``said`` holds for each field of the run [rank, time in ns, span id, value], scrubbed;
    ``counts`` the rows of its calls and errors by table. ``seq``: the version of the run's row
    that was stored last. No foreign key: telemetry can move to a store of its own.
    """

    pk = models.CompositePrimaryKey("install_id", "run_id")
    install_id = models.UUIDField()
    run_id = models.CharField(max_length=32)
    start_ns = models.BigIntegerField()
    seq = models.BigIntegerField(default=1)
    said = models.JSONField(default=dict)
    counts = models.JSONField(default=dict)
    updated_at = models.DateTimeField()

    class Meta:
        verbose_name = "OTLP trace"

    def __str__(self) -> str:
        return str(self.run_id)
