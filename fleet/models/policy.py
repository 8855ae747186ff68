"""Pins as they are edited; revisions, bundles and assignments as they were published."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from agent_client.contract.policy_keys import key_fault, value_fault
from fleet.lib.clock import now
from fleet.models.group import InstallGroup
from fleet.models.install import Install


class PinScope(models.TextChoices):
    """Whom a pin governs."""

    FLEET = "fleet", _("Whole fleet")
    GROUP = "group", _("One group")


class PinLevel(models.TextChoices):
    """Whether a pin binds or only advises."""

    MANDATORY = "mandatory", _("Mandatory")
    RECOMMENDED = "recommended", _("Recommended")


class OnExpiry(models.TextChoices):
    """What an agent does with a pin whose end has come."""

    HOLD = "hold", _("Hold the value")
    TIGHTEN = "tighten", _("Fall back to the tighter value")
    RELEASE = "release", _("Release the key")


class Pin(models.Model):
    """One key's value for the fleet or for a group; takes effect when published.

    A group's pin wins over the fleet's unless the fleet's is locked.
    """

    if TYPE_CHECKING:
        group_id: int | None

    scope = models.CharField(_("scope"), max_length=8, choices=PinScope, default=PinScope.FLEET)
    group = models.ForeignKey(
        InstallGroup,
        models.CASCADE,
        verbose_name=_("group"),
        related_name="pins",
        null=True,
        blank=True,
    )
    key = models.CharField(_("key"), max_length=200)
    value = models.JSONField(_("value"))
    level = models.CharField(
        _("level"), max_length=12, choices=PinLevel, default=PinLevel.MANDATORY
    )
    is_locked = models.BooleanField(
        _("locked"), default=False, help_text=_("A group may not overrule it.")
    )
    reason = models.CharField(_("reason"), max_length=300)
    ticket = models.CharField(_("ticket"), max_length=100, blank=True)
    contact = models.CharField(_("whom to ask"), max_length=200, blank=True)
    expires_at = models.DateTimeField(_("expires"), null=True, blank=True)
    on_expiry = models.CharField(
        _("on expiry"), max_length=8, choices=OnExpiry, default=OnExpiry.HOLD
    )
    created_at = models.DateTimeField(_("created"), default=now, editable=False)
    created_by = models.CharField(_("created by"), max_length=200, blank=True, editable=False)
    updated_at = models.DateTimeField(_("updated"), auto_now=True)

    class Meta:
        ordering = ["key", "scope", "group__name"]
        verbose_name = _("pin")
        verbose_name_plural = _("pins")
        constraints = [
            models.CheckConstraint(
                condition=Q(scope="fleet", group=None) | Q(scope="group", group__isnull=False),
                name="pin_scope_has_its_group",
                violation_error_message=_("A group pin names its group; a fleet pin has none."),
            ),
            models.CheckConstraint(
                condition=Q(scope="fleet") | Q(is_locked=False),
                name="pin_group_is_not_locked",
                violation_error_message=_("Only a fleet pin can be locked."),
            ),
            models.UniqueConstraint(
                fields=["key"],
                condition=Q(scope="fleet"),
                name="pin_one_per_fleet",
                violation_error_message=_("The fleet already has a pin for this key."),
            ),
            models.UniqueConstraint(
                fields=["group", "key"],
                condition=Q(scope="group"),
                name="pin_one_per_group",
                violation_error_message=_("This group already has a pin for this key."),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.key} ({self.group or self.get_scope_display()})"

    def clean(self) -> None:
        """Refuse what no agent could take.

        Errors: ValidationError on ``key`` or ``value``, in the registry's own words.
        """
        if fault := key_fault(self.key):
            raise ValidationError({"key": fault})
        if fault := value_fault(self.key, self.value):
            raise ValidationError({"value": fault})


class PolicyRevision(models.Model):
    """A published state of all pins; immutable, held by a database trigger.

    ``document`` is canonical JSON text, so that its digest can be checked for ever.
    """

    version = models.PositiveIntegerField(_("version"), unique=True)
    base_version = models.PositiveIntegerField(_("based on"), default=0)
    rollback_of = models.ForeignKey(
        "self", models.PROTECT, verbose_name=_("rolls back to"), null=True, blank=True
    )
    document = models.TextField(_("document"))
    sha256 = models.CharField(_("digest"), max_length=64)
    reason = models.CharField(_("reason"), max_length=300)
    created_at = models.DateTimeField(_("published"), default=now)
    created_by = models.CharField(_("published by"), max_length=200)

    class Meta:
        ordering = ["-version"]
        verbose_name = _("policy revision")
        verbose_name_plural = _("policy revisions")

    def __str__(self) -> str:
        return f"#{self.version}"

    @property
    def pins(self) -> list[dict[str, object]]:
        """The frozen pins, as ``policy.compile.PinSpec.to_dict`` wrote them."""
        return list(json.loads(self.document)["pins"])


class PolicyBundle(models.Model):
    """A bundle's signed bytes, addressed by their digest; immutable like its revision.

    The envelope is sealed when it is served, so that a new signing key needs no new bundle.
    """

    sha256 = models.CharField(_("digest"), max_length=64, primary_key=True)
    revision = models.ForeignKey(
        PolicyRevision, models.PROTECT, verbose_name=_("first published in"), related_name="bundles"
    )
    payload = models.TextField(_("payload"))
    size_bytes = models.PositiveIntegerField(_("size"))
    created_at = models.DateTimeField(_("created"), default=now)

    class Meta:
        ordering = ["-created_at"]
        verbose_name = _("policy bundle")
        verbose_name_plural = _("policy bundles")

    def __str__(self) -> str:
        return self.sha256[:12]


class PolicyTarget(models.Model):
    """Which bundle a revision gives to a group; the row without a group is for all others.

    The group is kept by number, not by key: history outlives the group.
    """

    revision = models.ForeignKey(PolicyRevision, models.PROTECT, related_name="targets")
    group_number = models.PositiveBigIntegerField(_("group id"), default=0)
    group_name = models.CharField(_("group"), max_length=100, blank=True)
    bundle = models.ForeignKey(PolicyBundle, models.PROTECT, related_name="targets")

    class Meta:
        ordering = ["revision", "group_number"]
        verbose_name = _("policy target")
        verbose_name_plural = _("policy targets")
        constraints = [
            models.UniqueConstraint(
                fields=["revision", "group_number"], name="target_one_per_group"
            )
        ]

    def __str__(self) -> str:
        return f"{self.group_name or _('everyone else')} → {self.bundle_id[:12]}"


class InstallPolicy(models.Model):
    """The assignment an install holds or is to fetch; its version only ever rises."""

    if TYPE_CHECKING:
        install_id: str
        bundle_id: str

    install = models.OneToOneField(
        Install, models.CASCADE, primary_key=True, related_name="policy", verbose_name=_("install")
    )
    bundle = models.ForeignKey(PolicyBundle, models.PROTECT, verbose_name=_("bundle"))
    version = models.PositiveBigIntegerField(_("version"))
    stage = models.CharField(_("stage"), max_length=40, default="all")
    nonce = models.CharField(max_length=32)
    envelope = models.BinaryField()
    etag = models.CharField(max_length=64)
    issued_at = models.DateTimeField(_("issued"))
    expires_at = models.DateTimeField(_("expires"))
    bundle_since = models.DateTimeField(_("bundle since"))

    class Meta:
        verbose_name = _("assignment")
        verbose_name_plural = _("assignments")

    def __str__(self) -> str:
        return f"{self.install_id} v{self.version}"

    def is_fresh(self, moment: datetime) -> bool:
        """Whether more than a quarter of its life is left."""
        return self.fresh_for(moment) > timedelta()

    def fresh_for(self, moment: datetime) -> timedelta:
        """How long until only a quarter of its life is left; negative afterwards."""
        return self.expires_at - (self.expires_at - self.issued_at) / 4 - moment


class InstallBundle(models.Model):
    """A bundle that an install was assigned, now or earlier: what it may fetch."""

    install = models.ForeignKey(Install, models.CASCADE, related_name="bundles")
    bundle = models.ForeignKey(PolicyBundle, models.PROTECT, related_name="+")
    first_assigned_at = models.DateTimeField(default=now)

    class Meta:
        verbose_name = _("assigned bundle")
        verbose_name_plural = _("assigned bundles")
        constraints = [
            models.UniqueConstraint(fields=["install", "bundle"], name="install_bundle_once")
        ]

    def __str__(self) -> str:
        return f"{self.install_id} {self.bundle_id[:12]}"
