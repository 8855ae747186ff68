"""The fleet's own panel of the overview: policy state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from fleet.console.attention import state_counts
from fleet.console.charts import Tone, meter
from fleet.console.labels import TONES
from fleet.console.registry import Panel, PanelRequest, register_panel
from fleet.models import PolicyRevision, SyncState
from fleet.templatetags.fleet_format import exact, percent, words


def policy_state(wanted: PanelRequest) -> Mapping[str, object]:
    """Active installs by policy state, and the revision in force."""
    counts = state_counts(wanted.group_id)
    total = sum(counts.values())
    in_sync = counts.get(SyncState.IN_SYNC, 0)
    rows = [
        {
            "code": state,
            "number": counts[state],
            "bar": meter(
                counts[state] / total,
                f"{words(state)}: {exact(counts[state])}",
                _tone(state),
            ),
        }
        for state in SyncState.values
        if counts.get(state)
    ]
    return {
        "rows": rows,
        "share": percent(in_sync / total if total else None),
        "total": total,
        "revision": PolicyRevision.objects.defer("document").order_by("-version").first(),
    }


_METER_TONES: Final[Mapping[str, Tone]] = {
    "good": "good",
    "warn": "warn",
    "bad": "bad",
    "info": "1",
}


def _tone(state: str) -> Tone:
    return _METER_TONES.get(TONES.get(state, ""), "6")


def register() -> None:
    """Put the fleet's own panels on the overview."""
    register_panel(
        Panel("policy", "fleet/panels/policy.html", policy_state, "side", 20, "fleet.view_install")
    )
