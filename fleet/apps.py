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
        """Register the system checks and gauges, and make our Celery app the current one."""
        from fleet import celery, checks
        from fleet.ops import shown
        from fleet.watch import gauges, queues, runs, traced

        celery.app.set_default()
        checks.register_all()
        gauges.register_own()
        shown.register_facts()
        queues.connect()
        traced.connect()  # before runs: what those write is not the task's own
        runs.connect()


class FleetAdminConfig(AdminConfig):
    """Django's admin, autodiscovered, on our site class."""

    default = False
    default_site = "fleet.console.site.FleetAdminSite"
