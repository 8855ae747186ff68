"""Erasures: an install that is to be forgotten, and the tombstone that keeps it forgotten."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

from fleet.lib.tokens import StoredSecret


class Erasure(models.Model):
    """One erased install. The row is three things: tombstone, job and report.

    While it stands, nothing of the install is taken in and its id cannot be enrolled again; it is
    never removed. Shape: ``counts_before`` and ``counts_after`` rows by table, ``hours`` the UTC
    hours whose sums were made again and ``frozen_hours`` those that could not (seconds since the
    epoch), ``report`` the signed report's file once it is DONE.
    """

    class State(models.TextChoices):
        """STARTED is committed before anything is removed; whoever finds it goes on with it."""

        STARTED = "started", _("Under way")
        DONE = "done", _("Done")

    install_id = models.UUIDField(_("install id"), primary_key=True)
    state = models.CharField(_("state"), max_length=8, choices=State, default=State.STARTED)
    requested_by = models.CharField(_("requested by"), max_length=200)
    reason = models.CharField(_("reason"), max_length=300)
    requested_at = models.DateTimeField(_("requested"))
    finished_at = models.DateTimeField(_("finished"), null=True, blank=True)
    counts_before = models.JSONField(_("rows before"), null=True, blank=True)
    counts_after = models.JSONField(_("rows after"), null=True, blank=True)
    hours = models.JSONField(_("hours"), default=list, blank=True)
    frozen_hours = models.JSONField(_("frozen hours"), default=list, blank=True)
    credential_count = models.IntegerField(_("credentials revoked"), default=0)
    report = models.TextField(_("signed report"), blank=True, default="")

    class Meta:
        ordering = ["-requested_at"]
        verbose_name = _("erasure")
        verbose_name_plural = _("erasures")

    def __str__(self) -> str:
        return str(self.install_id)

    @property
    def is_done(self) -> bool:
        """Whether everything is gone and the report is signed."""
        return self.state == self.State.DONE


class ErasedCredential(models.Model):
    """The digest of an erased install's credential: who still uses it is told why it is refused."""

    key_id = models.CharField(_("key id"), max_length=12, unique=True)
    digest = models.CharField(max_length=64)
    pepper_id = models.CharField(max_length=16)
    install_id = models.UUIDField(_("install id"))

    class Meta:
        default_permissions = ()
        verbose_name = _("erased credential")

    def __str__(self) -> str:
        return f"hfa_{self.key_id}…"

    @property
    def stored(self) -> StoredSecret:
        """What lib.tokens compares with."""
        return StoredSecret(self.key_id, self.digest, self.pepper_id)
