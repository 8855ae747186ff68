"""App configurations: the fleet domain, and the admin with our own site."""

from __future__ import annotations

from django.apps import AppConfig
from django.contrib.admin.apps import AdminConfig
from django.utils.translation import gettext_lazy as _


class FleetConfig(AppConfig):
    """The fleet domain."""

    name = "fleet"
    verbose_name = _("Fleet")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the system checks and make our Celery app the current one."""
        from fleet import celery, checks

        celery.app.set_default()
        checks.register_all()


class FleetAdminConfig(AdminConfig):
    """Django's admin, autodiscovered, on our site class."""

    default = False
    default_site = "fleet.console.site.FleetAdminSite"
