"""Install groups: the one group an install is in decides which group pins it gets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import models
from django.utils.translation import gettext_lazy as _

from fleet.lib.clock import now

if TYPE_CHECKING:
    from django_stubs_ext.db.models.manager import RelatedManager

    from fleet.models.install import Install


class InstallGroup(models.Model):
    """A named set of installs that are governed alike."""

    if TYPE_CHECKING:
        installs: RelatedManager[Install]

    name = models.CharField(_("name"), max_length=100, unique=True)
    description = models.CharField(_("description"), max_length=500, blank=True)
    created_at = models.DateTimeField(_("created"), default=now, editable=False)

    class Meta:
        ordering = ["name"]
        verbose_name = _("group")
        verbose_name_plural = _("groups")

    def __str__(self) -> str:
        return self.name
