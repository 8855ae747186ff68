"""What the console's own processes leave of themselves: who runs, and how periodic tasks went."""

from __future__ import annotations

from typing import Final

from django.db import models
from django.utils.translation import gettext_lazy as _

SEEN_DAYS: Final = 1
"""A process that was not seen for so long is gone for good: containers change their names."""


class ProcessSeen(models.Model):
    """One kind of process on one host, when it last showed life and which version it runs."""

    key = models.CharField(_("process"), max_length=300, primary_key=True)
    kind = models.CharField(_("kind"), max_length=16)
    hostname = models.CharField(_("host"), max_length=255)
    version = models.CharField(_("version"), max_length=64)
    at = models.DateTimeField(_("at"))

    class Meta:
        verbose_name = _("process")
        verbose_name_plural = _("processes")

    def __str__(self) -> str:
        return f"{self.kind} on {self.hostname}"


class TaskRun(models.Model):
    """How one periodic task went last: its times, its last error's class, and how often it ran."""

    task = models.CharField(_("task"), max_length=200, primary_key=True)
    started_at = models.DateTimeField(_("started"))
    ended_at = models.DateTimeField(_("ended"))
    took_ms = models.PositiveBigIntegerField(_("took, ms"))
    run_count = models.PositiveBigIntegerField(_("runs"), default=0)
    failure_count = models.PositiveBigIntegerField(_("failures"), default=0)
    has_failed = models.BooleanField(_("failed last"), default=False)
    error_kind = models.CharField(_("last error"), max_length=100, blank=True)
    error_at = models.DateTimeField(_("last error at"), null=True)

    class Meta:
        verbose_name = _("periodic task")
        verbose_name_plural = _("periodic tasks")

    def __str__(self) -> str:
        return self.task
