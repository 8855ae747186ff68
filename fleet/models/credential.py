"""Enrollment tokens, waiting requests and install credentials; digests only."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Final

from django.db import models
from django.db.models import F, Q
from django.utils.translation import gettext_lazy as _

from fleet.lib.clock import now
from fleet.lib.tokens import StoredSecret
from fleet.models.group import InstallGroup
from fleet.models.install import Install

STALE_DAYS: Final = 30
"""Enrollment requests that lapsed, and attempts to sign in, are forgotten after so many days."""


class Approval(models.TextChoices):
    """Whether a token admits an install at once or asks a human first."""

    AUTO = "auto", _("Automatic")
    MANUAL = "manual", _("By a person")


class RequestStatus(models.TextChoices):
    """What a person said to a waiting install."""

    PENDING = "pending", _("Waiting")
    APPROVED = "approved", _("Approved")
    DENIED = "denied", _("Denied")
    DONE = "done", _("Enrolled")


class EnrollmentTokenQuerySet(models.QuerySet["EnrollmentToken"]):
    """Reads over tokens, and the one race-safe write."""

    def usable(self, moment: datetime) -> EnrollmentTokenQuerySet:
        """Tokens that would still admit an install at a moment."""
        return self.filter(
            Q(expires_at=None) | Q(expires_at__gt=moment),
            Q(max_uses=None) | Q(uses__lt=F("max_uses")),
            revoked_at=None,
        )

    def take_use(self, token_id: int, *, moment: datetime, install_id: str) -> bool:
        """Count one use; False when the token was used up, revoked or lapsed meanwhile.

        One conditional UPDATE: of two agents that race for the last use, one gets it.
        """
        rows = (
            self.usable(moment)
            .filter(pk=token_id)
            .update(uses=F("uses") + 1, last_used_at=moment, last_used_by=install_id)
        )
        return rows == 1


class EnrollmentToken(models.Model):
    """Admits installs to the fleet; shown once, of which only the digest stays."""

    if TYPE_CHECKING:
        group_id: int | None

    key_id = models.CharField(_("key id"), max_length=12, unique=True)
    digest = models.CharField(max_length=64)
    pepper_id = models.CharField(max_length=16)
    group = models.ForeignKey(
        InstallGroup,
        models.SET_NULL,
        verbose_name=_("group"),
        related_name="enrollment_tokens",
        null=True,
        blank=True,
    )
    approval = models.CharField(
        _("approval"), max_length=8, choices=Approval, default=Approval.AUTO
    )
    max_uses = models.PositiveIntegerField(_("most uses"), null=True, blank=True)
    uses = models.PositiveIntegerField(_("uses"), default=0)
    cidr = models.CharField(_("allowed network"), max_length=64, blank=True)
    expires_at = models.DateTimeField(_("expires"), null=True, blank=True)
    revoked_at = models.DateTimeField(_("revoked"), null=True, blank=True)
    reason = models.CharField(_("reason"), max_length=300, blank=True)
    created_at = models.DateTimeField(_("created"), default=now)
    created_by = models.CharField(_("created by"), max_length=200)
    last_used_at = models.DateTimeField(_("last used"), null=True, blank=True)
    last_used_by = models.UUIDField(_("last used by"), null=True, blank=True)

    objects = EnrollmentTokenQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at"]
        verbose_name = _("enrollment token")
        verbose_name_plural = _("enrollment tokens")

    def __str__(self) -> str:
        return f"hfe_{self.key_id}…"

    @property
    def stored(self) -> StoredSecret:
        """What lib.tokens compares with."""
        return StoredSecret(self.key_id, self.digest, self.pepper_id)

    def state(self, moment: datetime) -> str:
        """One of active, revoked, expired, exhausted."""
        if self.revoked_at is not None:
            return "revoked"
        if self.expires_at is not None and self.expires_at <= moment:
            return "expired"
        if self.max_uses is not None and self.uses >= self.max_uses:
            return "exhausted"
        return "active"


class EnrollmentRequest(models.Model):
    """An install that waits for a person to compare its user code and say yes."""

    token = models.ForeignKey(
        EnrollmentToken, models.CASCADE, verbose_name=_("token"), related_name="requests"
    )
    install_id = models.UUIDField(_("install id"))
    machine_id = models.CharField(max_length=64)
    user_code = models.CharField(_("code"), max_length=9, unique=True)
    status = models.CharField(
        _("status"), max_length=8, choices=RequestStatus, default=RequestStatus.PENDING
    )
    facts = models.JSONField(_("facts"), default=dict)
    address = models.GenericIPAddressField(_("address"))
    created_at = models.DateTimeField(_("created"), default=now)
    expires_at = models.DateTimeField(_("expires"))
    decided_at = models.DateTimeField(_("decided"), null=True, blank=True)
    decided_by = models.CharField(_("decided by"), max_length=200, blank=True)

    class Meta:
        ordering = ["-created_at"]
        verbose_name = _("enrollment request")
        verbose_name_plural = _("enrollment requests")
        constraints = [
            models.UniqueConstraint(
                fields=["token", "install_id", "machine_id"],
                condition=Q(status__in=["pending", "approved"]),
                name="one_open_request",
            )
        ]

    def __str__(self) -> str:
        return self.user_code


class InstallCredential(models.Model):
    """An install's own secret. A candidate replaces the others by being used.

    ``expires_at`` is when a candidate lapses, or the credential itself when it has an end.
    """

    if TYPE_CHECKING:
        install_id: str

    install = models.ForeignKey(
        Install, models.CASCADE, verbose_name=_("install"), related_name="credentials"
    )
    key_id = models.CharField(_("key id"), max_length=12, unique=True)
    digest = models.CharField(max_length=64)
    pepper_id = models.CharField(max_length=16)
    scopes = models.JSONField(_("scopes"), default=list)
    is_candidate = models.BooleanField(_("candidate"), default=False)
    expires_at = models.DateTimeField(_("expires"), null=True, blank=True)
    revoked_at = models.DateTimeField(_("revoked"), null=True, blank=True)
    created_at = models.DateTimeField(_("created"), default=now)
    last_used_at = models.DateTimeField(_("last used"), null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]
        verbose_name = _("credential")
        verbose_name_plural = _("credentials")

    def __str__(self) -> str:
        return f"hfa_{self.key_id}…"

    @property
    def stored(self) -> StoredSecret:
        """What lib.tokens compares with."""
        return StoredSecret(self.key_id, self.digest, self.pepper_id)
