"""What needs a person today: counted states, worst first, each with the list it leads to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from django.db.models import Count
from django.urls import reverse
from django.utils.translation import ngettext

from fleet.lib.clock import now
from fleet.models import EnrollmentRequest, Install, InstallStatus, RequestStatus, SyncState

SILENT_AFTER: Final = timedelta(hours=24)
"""An assignment lives a day; an install silent for longer holds a stale policy."""


@dataclass(frozen=True, slots=True)
class Notice:
    """One sentence with its tone (bad, warn or info) and where to act on it.

    Shape: ``key`` names the state, whatever the language and the number; ``count`` is how many.
    """

    key: str
    tone: str
    text: str
    url: str
    count: int


def state_counts(group_id: int | None = None) -> dict[str, int]:
    """Active installs by policy state."""
    installs = Install.objects.active()
    if group_id is not None:
        installs = installs.filter(group_id=group_id)
    rows = installs.order_by().values_list("sync_state").annotate(number=Count("pk"))
    return dict(rows)


def notices(group_id: int | None = None) -> list[Notice]:
    """Everything that is not as it is meant to be; empty when all is well. Four queries."""
    found = _policy_notices(state_counts(group_id))
    installs = Install.objects.all()
    if group_id is not None:
        installs = installs.filter(group_id=group_id)
    quarantined = installs.filter(status=InstallStatus.QUARANTINED).count()
    if quarantined:
        text = ngettext("%s install is quarantined", "%s installs are quarantined", quarantined)
        found.append(
            Notice(
                "install_quarantined",
                "bad",
                text % quarantined,
                _installs("status__exact=quarantined"),
                quarantined,
            )
        )
    silent = installs.silent_since(now() - SILENT_AFTER).count()
    if silent:
        text = ngettext("%s install silent for 24 h", "%s installs silent for 24 h", silent)
        url = _installs("silent=24h")
        found.append(Notice("install_silent", "warn", text % silent, url, silent))
    waiting = EnrollmentRequest.objects.filter(
        status=RequestStatus.PENDING, expires_at__gt=now()
    ).count()
    if waiting:
        text = ngettext("%s install waits for approval", "%s installs wait for approval", waiting)
        url = reverse("admin:fleet_enrollmentrequest_changelist")
        found.append(Notice("install_waiting", "info", text % waiting, url, waiting))
    return found


def _policy_notices(counts: Mapping[str, int]) -> list[Notice]:
    found = []
    for state, tone, one, many in (
        (
            SyncState.FAILED,
            "bad",
            "%s install failed to apply its policy",
            "%s installs failed to apply their policy",
        ),
        (
            SyncState.BYPASSED,
            "bad",
            "%s install bypasses its pins",
            "%s installs bypass their pins",
        ),
        (SyncState.DRIFTED, "warn", "%s install drifted", "%s installs drifted"),
        (
            SyncState.STALE,
            "warn",
            "%s install holds a stale policy",
            "%s installs hold a stale policy",
        ),
    ):
        number = counts.get(state, 0)
        if number:
            text = ngettext(one, many, number) % number
            url = _installs(f"sync_state__exact={state}")
            found.append(Notice(f"policy_{state}", tone, text, url, number))
    return found


def _installs(query: str) -> str:
    return f"{reverse('admin:fleet_install_changelist')}?{query}"
