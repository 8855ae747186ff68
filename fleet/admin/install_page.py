"""The install page: identity, consent, effective policy with sources, drift, what others add."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from django.conf import settings
from django.db.models.options import Options
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from fleet.console.diff import value_text
from fleet.console.registry import clock_skews, install_panels_for
from fleet.console.rendering import page
from fleet.models import CheckInRecord, Install, InstallCredential
from fleet.policy.effective import EffectiveValue, effective_values, mandatory_values

MAX_DRIFT_ROWS: Final = 200
"""A hostile check-in may name thousands of keys; the page stays readable."""


@dataclass(frozen=True, slots=True)
class PlaneRow:
    """One plane: whether it is open for this install and why."""

    name: str
    is_open: bool
    why: str


@dataclass(frozen=True, slots=True)
class EffectiveRow:
    """One key of the effective policy, its value and its source in words."""

    item: EffectiveValue
    value: str
    source: str


@dataclass(frozen=True, slots=True)
class DriftRow:
    """One key that is not as it was pinned."""

    key: str
    want: str
    got: str
    cause: str
    first_seen_ns: int
    reporter: str


def install_page(
    request: HttpRequest, install: Install, opts: Options[Install], *, may_change: bool
) -> HttpResponse:
    """The page of one install."""
    values = effective_values(install)
    effective = [_effective_row(item) for item in values.values()]
    checkins = list(install.checkins.all())
    context: dict[str, object] = {
        "install": install,
        "opts": opts,
        "original": install,
        "may_change": may_change,
        "policy": getattr(install, "policy", None),
        "pinned": [row for row in effective if row.item.source != "default"],
        "defaults": [row for row in effective if row.item.source == "default"],
        "planes": plane_rows(install, mandatory_values(install), values),
        "clock_skew_ms": clock_skews([install.pk]).get(install.pk),
        "drift": drift_rows(checkins),
        "checkins": checkins,
        "credentials": InstallCredential.objects.filter(install=install)[:5],
        "panels": _panels(request, install),
    }
    return page(request, "fleet/install.html", str(install), context)


def plane_rows(
    install: Install, pinned: dict[str, object], effective: Mapping[str, EffectiveValue]
) -> list[PlaneRow]:
    """The three planes as this console, the install's consent and its policy leave them."""
    local = pinned.get("telemetry.local", True) is not False
    pushes = pinned.get("telemetry.export.console.enabled", True) is not False
    gate = pinned.get("telemetry.allow_aggregate", True) is not False
    consents = install.consent_state == "aggregate"
    return [
        PlaneRow(
            _("Local, pushed to this console"),
            local and pushes,
            _("enrolled by its owner") if local and pushes else _("closed by a pin"),
        ),
        PlaneRow(
            _("Aggregate"),
            gate and consents,
            _("gate closed by a pin")
            if not gate
            else (_("consent given") if consents else _("no consent")),
        ),
        _content_row(effective),
    ]


def _content_row(effective: Mapping[str, EffectiveValue]) -> PlaneRow:
    """Content is never open by itself: each batch has to bring its owner's consent."""
    name = _("Trajectories (content)")
    if not settings.FLEET_TRAJECTORIES:
        return PlaneRow(name, is_open=False, why=_("this console takes no content in"))
    if effective["telemetry.trajectories.enabled"].value is not True:
        return PlaneRow(name, is_open=False, why=_("its policy asks for none"))
    return PlaneRow(name, is_open=True, why=_("for batches that carry the owner's consent"))


def drift_rows(checkins: list[CheckInRecord]) -> list[DriftRow]:
    """What the reporters last named as drift; malformed items are shown as far as they go."""
    rows = []
    for checkin in checkins:
        for item in checkin.drift if isinstance(checkin.drift, list) else []:
            if not isinstance(item, dict):
                continue
            first_seen = item.get("first_seen_ns")
            rows.append(
                DriftRow(
                    key=str(item.get("key", "")),
                    want=value_text(item.get("want")),
                    got=value_text(item.get("got")),
                    cause=str(item.get("cause", "unknown")),
                    first_seen_ns=first_seen if isinstance(first_seen, int) else 0,
                    reporter=checkin.reporter,
                )
            )
    return rows[:MAX_DRIFT_ROWS]


def _effective_row(item: EffectiveValue) -> EffectiveRow:
    return EffectiveRow(item, value_text(item.value), _source_text(item))


def _source_text(value: EffectiveValue) -> str:
    if value.source == "default":
        return _("Default, not pinned")
    names = {"fleet": _("Fleet pin"), "group": _("Pin of group %s") % value.source_name}
    text = f"{names[value.source]}, #{value.revision}"
    if value.level == "recommended":
        text = _("%s, recommended") % text
    return _("%s, locked") % text if value.is_locked else text


def _panels(request: HttpRequest, install: Install) -> list[SafeString]:
    return [
        render_to_string(panel.template, dict(panel.context(request, install.pk)), request=request)
        for panel in install_panels_for(request)
    ]
