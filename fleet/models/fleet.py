"""What there is one of: the fleet itself; and the beats of its processes."""

from __future__ import annotations

from uuid import uuid4

from django.db import models
from django.utils.translation import gettext_lazy as _

from fleet.lib.clock import now


class Fleet(models.Model):
    """This console's identity; signed into every policy document. One row, made on first use."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    fleet_id = models.UUIDField(_("fleet id"), default=uuid4, editable=False)
    created_at = models.DateTimeField(_("created"), default=now, editable=False)
    # Agents refuse an assignment older than one they saw. A restored database does not know what
    # they saw after its backup, so a restore lifts the floor above all of that.
    assignment_floor = models.PositiveBigIntegerField(default=0, db_default=0, editable=False)

    class Meta:
        verbose_name = _("fleet")
        verbose_name_plural = _("fleet")
        constraints = [models.CheckConstraint(condition=models.Q(id=1), name="fleet_is_one")]

    def __str__(self) -> str:
        return str(self.fleet_id)

    @classmethod
    def current(cls) -> Fleet:
        """The one row; two processes that start at once agree on it."""
        fleet, _created = cls.objects.get_or_create(pk=1)
        return fleet


class ProcessBeat(models.Model):
    """When a process of a kind last showed life: ``beat`` when it sent, ``worker`` when it ran."""

    kind = models.CharField(_("process"), max_length=16, primary_key=True)
    at = models.DateTimeField(_("at"))
    hostname = models.CharField(_("host"), max_length=255, blank=True)

    class Meta:
        verbose_name = _("process beat")
        verbose_name_plural = _("process beats")

    def __str__(self) -> str:
        return f"{self.kind} {self.at:%Y-%m-%d %H:%M:%S}"
