"""The console's look as the theme's settings: names, colours, sidebar. Plain data, no models.

The settings file puts ``UNFOLD`` into place. Callables are named by dotted path,
so that importing this module imports nothing of the console.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from django.http import HttpRequest
from django.templatetags.static import static
from django.urls import reverse_lazy
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

NavigationItem = dict[str, object]


def _static(path: str) -> Callable[[HttpRequest], str]:
    return lambda _request: static(path)


def _allowed(permission: str) -> Callable[[HttpRequest], bool]:
    return lambda request: request.user.has_perm(permission)


def _item(title: Promise | str, icon: str, view: str, permission: str = "") -> NavigationItem:
    item: NavigationItem = {"title": title, "icon": icon, "link": reverse_lazy(view)}
    if permission:
        item["permission"] = _allowed(permission)
    return item


def _lists(model: str) -> str:
    return f"admin:{model}_changelist"


_PRIMARY: Final = {
    "50": "#eff5ff",
    "100": "#dbe8fe",
    "200": "#bfd7fe",
    "300": "#93bbfd",
    "400": "#609afa",
    "500": "#3b7bf6",
    "600": "#1d5ae8",
    "700": "#1a48d2",
    "800": "#1b3caa",
    "900": "#1c3786",
    "950": "#152352",
}

UNFOLD: Final[dict[str, object]] = {
    "SITE_TITLE": _("Hermes Fleet"),
    "SITE_HEADER": _("Hermes Fleet"),
    "SITE_SUBHEADER": _("Operator console"),
    "SITE_URL": None,
    "SITE_ICON": {"light": _static("fleet/logo.svg"), "dark": _static("fleet/logo.svg")},
    "SITE_FAVICONS": [
        {"rel": "icon", "type": "image/svg+xml", "href": _static("fleet/logo.svg")},
    ],
    "SHOW_HISTORY": False,
    "SHOW_VIEW_ON_SITE": False,
    "SHOW_BACK_BUTTON": False,
    "ENVIRONMENT": "fleet.console.context.environment_badge",
    "BORDER_RADIUS": "6px",
    "COLORS": {
        "primary": _PRIMARY,
        "font": {
            # The theme's own subtle greys miss a contrast of 4.5 to 1.
            "subtle-light": "var(--color-base-600)",
            "subtle-dark": "var(--color-base-300)",
            "default-light": "var(--color-base-700)",
            "default-dark": "var(--color-base-300)",
            "important-light": "var(--color-base-900)",
            "important-dark": "var(--color-base-100)",
        },
    },
    "STYLES": [_static("fleet/console.css"), _static("fleet/charts.css")],
    "SCRIPTS": [],
    "COMMAND": {"search_models": "fleet.console.context.searchable_models", "show_history": False},
    "SIDEBAR": {
        "show_search": False,
        "show_all_applications": False,
        "navigation": [
            {
                "title": _("Fleet"),
                "items": [
                    _item(_("Overview"), "space_dashboard", "admin:index"),
                    _item(_("Installs"), "dns", _lists("fleet_install"), "fleet.view_install"),
                    _item(
                        _("Groups"),
                        "workspaces",
                        _lists("fleet_installgroup"),
                        "fleet.view_installgroup",
                    ),
                    _item(
                        _("Enrollment"),
                        "key",
                        _lists("fleet_enrollmenttoken"),
                        "fleet.view_enrollmenttoken",
                    ),
                ],
            },
            {
                "title": _("Policy"),
                "separator": True,
                "items": [
                    _item(_("Pins"), "push_pin", _lists("fleet_pin"), "fleet.view_pin"),
                    _item(
                        _("Publish"),
                        "publish",
                        "admin:console-publish",
                        "fleet.view_policyrevision",
                    ),
                    _item(
                        _("Revisions"),
                        "history",
                        _lists("fleet_policyrevision"),
                        "fleet.view_policyrevision",
                    ),
                    _item(
                        _("Sync state"),
                        "sync",
                        "admin:console-sync",
                        "fleet.view_install",
                    ),
                ],
            },
            {
                "title": _("Data"),
                "separator": True,
                "items": [
                    _item(
                        _("Insights"), "monitoring", "admin:insight-models", "telemetry.view_run"
                    ),
                    _item(_("Runs"), "timeline", "admin:insight-runs", "telemetry.view_run"),
                    _item(
                        _("Summaries"),
                        "summarize",
                        _lists("telemetry_aggregaterecord"),
                        "telemetry.view_aggregaterecord",
                    ),
                    _item(
                        _("Batches"),
                        "inventory_2",
                        _lists("telemetry_ingestbatch"),
                        "telemetry.view_ingestbatch",
                    ),
                    _item(
                        _("Quarantine"),
                        "report",
                        _lists("telemetry_quarantinedline"),
                        "telemetry.view_quarantinedline",
                    ),
                    _item(
                        _("Spool"),
                        "hourglass_top",
                        _lists("telemetry_spooledbatch"),
                        "telemetry.view_spooledbatch",
                    ),
                ],
            },
            {
                "title": _("Exports"),
                "separator": True,
                "items": [
                    _item(
                        _("Exports"),
                        "file_export",
                        _lists("telemetry_exportjob"),
                        "telemetry.view_exportjob",
                    ),
                    _item(
                        _("Schedules"),
                        "event_repeat",
                        _lists("telemetry_exportschedule"),
                        "telemetry.view_exportschedule",
                    ),
                    _item(
                        _("Destinations"),
                        "drive_folder_upload",
                        _lists("telemetry_exportdestination"),
                        "telemetry.view_exportdestination",
                    ),
                    _item(
                        _("Collectors"),
                        "cell_tower",
                        _lists("telemetry_relaydestination"),
                        "telemetry.view_relaydestination",
                    ),
                    _item(
                        _("Streams"),
                        "stream",
                        _lists("telemetry_stream"),
                        "telemetry.view_stream",
                    ),
                    _item(
                        _("Alerts"),
                        "notifications",
                        _lists("telemetry_alertevent"),
                        "telemetry.view_alertevent",
                    ),
                ],
            },
            {
                "title": _("Administration"),
                "separator": True,
                "items": [
                    _item(
                        _("Settings and health"),
                        "health_metrics",
                        "admin:console-health",
                        "fleet.view_processbeat",
                    ),
                    _item(
                        _("Operations"),
                        "monitor_heart",
                        "admin:console-operations",
                        "fleet.view_processbeat",
                    ),
                    _item(
                        _("Audit log"),
                        "fact_check",
                        _lists("fleet_changerecord"),
                        "fleet.view_changerecord",
                    ),
                    _item(
                        _("Erasures"),
                        "delete_forever",
                        _lists("fleet_erasure"),
                        "fleet.view_erasure",
                    ),
                    _item(_("Users"), "person", _lists("auth_user"), "auth.view_user"),
                    _item(_("Roles"), "shield_person", _lists("auth_group"), "auth.view_group"),
                ],
            },
        ],
    },
}
"""What ``settings.UNFOLD`` is."""
