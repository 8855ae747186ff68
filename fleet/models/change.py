"""The audit trail: append-only rows in a hash chain, held by a database trigger."""

from __future__ import annotations

import json

from django.db import models
from django.utils.translation import gettext_lazy as _

from agent_client.contract.canonical import digest_of
from fleet.lib.clock import datetime_to_ns

GENESIS_SHA256 = "0" * 64
"""What the first row names as its predecessor."""


class ChangeRecord(models.Model):
    """One change: who, what, when, before and after. Names are frozen as text.

    ``pre_json`` and ``post_json`` are canonical JSON text: a database's own JSON type
    rewrites numbers, and the digest must hold for ever.
    """

    at = models.DateTimeField(_("at"))
    actor = models.CharField(_("who"), max_length=200)
    action = models.CharField(_("action"), max_length=40)
    object_type = models.CharField(_("type"), max_length=60)
    object_id = models.CharField(_("id"), max_length=80)
    object_label = models.CharField(_("object"), max_length=300)
    reason = models.CharField(_("reason"), max_length=300, blank=True)
    request_id = models.CharField(_("request"), max_length=64, blank=True)
    pre_json = models.TextField(_("before"))
    post_json = models.TextField(_("after"))
    prev_sha256 = models.CharField(max_length=64, unique=True)
    sha256 = models.CharField(_("digest"), max_length=64, unique=True)

    class Meta:
        ordering = ["-id"]
        verbose_name = _("change")
        verbose_name_plural = _("changes")
        indexes = [
            models.Index(fields=["object_type", "object_id", "-id"], name="change_object"),
            models.Index(fields=["-at"], name="change_at"),
        ]

    def __str__(self) -> str:
        return f"{self.actor}: {self.action} {self.object_label}"

    @property
    def pre(self) -> object:
        """The value before; None when the object is new."""
        return json.loads(self.pre_json)

    @property
    def post(self) -> object:
        """The value after; None when the object is gone."""
        return json.loads(self.post_json)

    def computed_sha256(self) -> str:
        """The digest of everything the row says, its predecessor's digest included."""
        return digest_of(
            {
                "at_ns": datetime_to_ns(self.at),
                "actor": self.actor,
                "action": self.action,
                "object_type": self.object_type,
                "object_id": self.object_id,
                "object_label": self.object_label,
                "reason": self.reason,
                "request_id": self.request_id,
                "pre": self.pre_json,
                "post": self.post_json,
                "prev_sha256": self.prev_sha256,
            }
        )
