"""What each install's reporters said last: held, written, effective, healthy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import models
from django.utils.translation import gettext_lazy as _

from fleet.lib.clock import now
from fleet.models.install import Install


class CheckInRecord(models.Model):
    """The latest check-in of one reporter of one install; replaced by a higher sequence.

    ``service`` knows what was written, ``plugin`` what is effective inside the agent.
    """

    if TYPE_CHECKING:
        install_id: str

    install = models.ForeignKey(
        Install, models.CASCADE, verbose_name=_("install"), related_name="checkins"
    )
    reporter = models.CharField(_("reporter"), max_length=16)
    seq = models.PositiveBigIntegerField(_("sequence"))
    body_sha256 = models.CharField(max_length=64)
    status = models.CharField(_("status"), max_length=16)
    reason = models.CharField(_("reason"), max_length=300, blank=True)
    assignment_version = models.PositiveBigIntegerField(_("assignment"), default=0)
    bundle_sha256 = models.CharField(_("bundle"), max_length=64, blank=True)
    desired_sha256 = models.CharField(_("desired"), max_length=64, blank=True)
    written_sha256 = models.CharField(_("written"), max_length=64, blank=True)
    effective_sha256 = models.CharField(_("effective"), max_length=64, blank=True)
    nonce_seen = models.CharField(_("nonce seen"), max_length=64, blank=True)
    drift = models.JSONField(_("drift"), default=list, blank=True)
    health = models.JSONField(_("health"), default=dict, blank=True)
    versions = models.JSONField(_("versions"), default=dict, blank=True)
    received_at = models.DateTimeField(_("received"), default=now)

    class Meta:
        ordering = ["-received_at"]
        verbose_name = _("check-in")
        verbose_name_plural = _("check-ins")
        constraints = [
            models.UniqueConstraint(fields=["install", "reporter"], name="checkin_one_per_reporter")
        ]

    def __str__(self) -> str:
        return f"{self.install_id} {self.reporter} {self.seq}"
