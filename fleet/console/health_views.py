"""Settings and health: what is connected, what is not and how to mend it, and what is set."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _

from fleet.console.rendering import page
from fleet.health import Probe, gather, versions

SHOWN: Final = (
    "FLEET_HOME",
    "FLEET_PUBLIC_URL",
    "FLEET_BIND",
    "FLEET_RETENTION_DAYS",
    "FLEET_POLL_SECONDS",
    "FLEET_MIN_CLIENT",
    "FLEET_PROXIES",
    "FLEET_RATE_ADDRESS_PER_MIN",
    "FLEET_RATE_ENROLL_PER_MIN",
    "FLEET_RATE_INSTALL_PER_MIN",
    "FLEET_RATE_INSTALL_ROWS_PER_MIN",
    "FLEET_RATE_INSTALL_BYTES_PER_MIN",
    "FLEET_VALVE",
    "FLEET_VALVE_SLOW_MS",
    "FLEET_VALVE_STORES",
    "FLEET_SPOOL_MAX_BYTES",
    "FLEET_SPOOL_MAX_ROWS",
    "FLEET_LOG_LEVEL",
    "FLEET_DEMO",
)
"""Settings whose value may stand on a page: an allow-list, so that a new secret is not shown."""
SECRETS: Final = (
    "FLEET_SECRET_KEY",
    "FLEET_TOKEN_PEPPER",
    "FLEET_ROOT_KEY",
    "FLEET_POLICY_KEY",
)
_TONES: Final = {"ok": "good", "warn": "warn", "down": "bad"}


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One setting as it is in force, and where it comes from; a secret has no value here."""

    name: str
    value: str
    source: str


def health(request: HttpRequest) -> HttpResponse:
    """The page; 200 even when much is down, so that it can say so."""
    found = gather()
    context: dict[str, object] = {
        "health": found,
        "probes": [
            {"probe": probe, "tone": _TONES[probe.state], "word": _word(probe)}
            for probe in found.probes
        ],
        "tone": _TONES[found.state],
        "versions": versions(),
        "rows": setting_rows(),
    }
    return page(request, "fleet/health.html", _("Settings and health"), context)


def _word(probe: Probe) -> str:
    """How a probe's state is said: what one connects to is connected, the rest is in order."""
    is_connection = probe.name in {"database", "broker", "worker", "beat"}
    if probe.state == "ok":
        return _("Connected") if is_connection else _("In order")
    if probe.state == "warn":
        return _("Needs a look")
    return _("Not connected") if is_connection else _("Not in order")


def setting_rows() -> list[SettingRow]:
    """The effective settings by name; addresses without user names and passwords."""
    rows = [
        SettingRow("DATABASE_URL", _database(), _source("DATABASE_URL")),
        SettingRow("REDIS_URL", _address(str(settings.REDIS_URL)), _source("REDIS_URL")),
    ]
    rows += [SettingRow(name, _text(getattr(settings, name, "")), _source(name)) for name in SHOWN]
    rows += [SettingRow(name, _("secret, not shown"), _secret_source(name)) for name in SECRETS]
    return rows


def _source(name: str) -> str:
    if os.environ.get(f"{name}_FILE"):
        return _("file named by %s_FILE") % name
    return _("environment") if os.environ.get(name) else _("default")


def _secret_source(name: str) -> str:
    if os.environ.get(f"{name}_FILE") or os.environ.get(name):
        return _source(name)
    return _("made once under FLEET_HOME")


def _database() -> str:
    held = settings.DATABASES["default"]
    if str(held["ENGINE"]).endswith("sqlite3"):
        return f"SQLite, {held['NAME']}"
    return f"PostgreSQL, {held.get('HOST') or 'local socket'}, {held['NAME']}"


def _address(url: str) -> str:
    if not url:
        return _("not set: the broker of plain files is used")
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{':' if parts.port else ''}{parts.port or ''}"


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "–"
    return str(value) if value not in {"", None} else "–"
