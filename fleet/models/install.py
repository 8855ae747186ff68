"""An install: one agent environment that enrolled, and what is known of it."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from django.db import models
from django.utils.translation import gettext_lazy as _

from fleet.lib.clock import now
from fleet.models.group import InstallGroup

if TYPE_CHECKING:
    from django_stubs_ext.db.models.manager import RelatedManager

    from fleet.models.checkin import CheckInRecord
    from fleet.models.credential import InstallCredential


class InstallStatus(models.TextChoices):
    """Whether an install may speak at all; its policy state is another question."""

    ACTIVE = "active", _("Active")
    QUARANTINED = "quarantined", _("Quarantined")
    REVOKED = "revoked", _("Revoked")


class SyncState(models.TextChoices):
    """Where an install stands with its policy (``policy_doc.INSTALL_STATES``)."""

    IN_SYNC = "in_sync", _("In sync")
    PENDING = "pending", _("Pending")
    APPLYING = "applying", _("Applying")
    FAILED = "failed", _("Failed")
    DRIFTED = "drifted", _("Drifted")
    BYPASSED = "bypassed", _("Bypassed")
    STALE = "stale", _("Stale")
    HELD = "held", _("Held")
    QUARANTINED = "quarantined", _("Quarantined")
    OFFLINE = "offline", _("Offline")
    NEVER_SEEN = "never_seen", _("Never seen")


class InstallQuerySet(models.QuerySet["Install"]):
    """Reads over installs."""

    def active(self) -> InstallQuerySet:
        """Installs that are neither revoked nor quarantined."""
        return self.filter(status=InstallStatus.ACTIVE)

    def in_group(self, group: InstallGroup | None) -> InstallQuerySet:
        """Installs of one group; None: those in no group."""
        return self.filter(group=group)

    def seen_since(self, moment: datetime) -> InstallQuerySet:
        """Installs that spoke to the console at or after a moment."""
        return self.filter(last_seen_at__gte=moment)

    def silent_since(self, moment: datetime) -> InstallQuerySet:
        """Active installs that have not spoken since a moment, never-seen ones included."""
        return self.active().exclude(last_seen_at__gte=moment)


class Install(models.Model):
    """One agent environment; its id is minted by the agent and keyed into every telemetry row.

    ``machine_id`` is a salted hash of machine facts: the same install id from another
    machine is a copy, and is quarantined.
    """

    if TYPE_CHECKING:
        credentials: RelatedManager[InstallCredential]
        checkins: RelatedManager[CheckInRecord]
        group_id: int | None

    id = models.UUIDField(_("install id"), primary_key=True)
    machine_id = models.CharField(max_length=64)
    label = models.CharField(_("label"), max_length=200, blank=True)
    group = models.ForeignKey(
        InstallGroup,
        models.SET_NULL,
        verbose_name=_("group"),
        related_name="installs",
        null=True,
        blank=True,
    )
    status = models.CharField(
        _("status"), max_length=16, choices=InstallStatus, default=InstallStatus.ACTIVE
    )
    status_reason = models.CharField(_("reason"), max_length=300, blank=True)
    status_at = models.DateTimeField(default=now)

    hostname = models.CharField(_("host"), max_length=255, blank=True)
    os_family = models.CharField(_("system"), max_length=40, blank=True)
    os_version = models.CharField(_("system version"), max_length=200, blank=True)
    arch = models.CharField(_("architecture"), max_length=40, blank=True)
    client_version = models.CharField(_("client version"), max_length=60, blank=True)
    host_version = models.CharField(_("agent version"), max_length=60, blank=True)
    python_version = models.CharField(_("Python version"), max_length=60, blank=True)
    capabilities = models.JSONField(_("capabilities"), default=list, blank=True)
    consent_state = models.CharField(_("consent"), max_length=20, default="unknown")

    enrolled_at = models.DateTimeField(_("enrolled"), default=now)
    enrolled_with = models.ForeignKey(
        "fleet.EnrollmentToken",
        models.SET_NULL,
        verbose_name=_("enrolled with"),
        related_name="installs",
        null=True,
        blank=True,
    )
    last_seen_at = models.DateTimeField(_("last seen"), null=True, blank=True)
    last_seen_address = models.GenericIPAddressField(_("last address"), null=True, blank=True)
    last_checkin_at = models.DateTimeField(_("last check-in"), null=True, blank=True)
    last_push_at = models.DateTimeField(_("last push"), null=True, blank=True)

    sync_state = models.CharField(
        _("policy state"), max_length=16, choices=SyncState, default=SyncState.NEVER_SEEN
    )
    sync_cause = models.CharField(_("cause"), max_length=300, blank=True)
    sync_at = models.DateTimeField(_("policy state since"), default=now)

    objects = InstallQuerySet.as_manager()

    class Meta:
        ordering = ["-last_seen_at", "id"]
        verbose_name = _("install")
        verbose_name_plural = _("installs")
        indexes = [
            models.Index(fields=["-last_seen_at", "id"], name="install_seen"),
            models.Index(fields=["group", "status"], name="install_group"),
            models.Index(fields=["sync_state"], name="install_sync"),
        ]

    def __str__(self) -> str:
        return self.label or self.hostname or str(self.id)

    @property
    def is_active(self) -> bool:
        """Whether it may push, read policy and report."""
        return self.status == InstallStatus.ACTIVE
