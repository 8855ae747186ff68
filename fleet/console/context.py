"""What every console page shows beside its content: the demo badge; what Ctrl-K searches."""

from __future__ import annotations

from django.conf import settings
from django.http import HttpRequest
from django.utils.translation import gettext as _


def environment_badge(_request: HttpRequest) -> list[str] | None:
    """The badge in the header: DEMO when the data is made up, so that nobody acts on it."""
    if getattr(settings, "FLEET_DEMO", False):
        return [_("DEMO data"), "info"]
    return None


def searchable_models(_request: HttpRequest) -> list[str]:
    """Models the command palette looks into; runs are too many to search without a window."""
    return ["fleet.install", "fleet.installgroup", "fleet.pin", "fleet.enrollmenttoken"]
