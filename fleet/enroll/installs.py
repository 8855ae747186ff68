"""Installs: revoke, quarantine, release, move between groups."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from django.db import transaction

from fleet.audit import Actor, record_change, snapshot
from fleet.enroll.credentials import AGENT
from fleet.lib.clock import now
from fleet.lib.sql import transaction_lock
from fleet.models import Install, InstallGroup, InstallStatus, SyncState
from fleet.policy.ack import refresh_sync
from fleet.policy.publish import LOCK as PUBLISH_LOCK

_STATUS_FIELDS: Final = ("status", "status_reason")


def revoke_install(install: Install, *, actor: Actor, reason: str = "") -> bool:
    """End an install's credentials at once; False when it was revoked before."""
    return _set_status(install, InstallStatus.REVOKED, actor=actor, reason=reason)


def quarantine_install(install: Install, *, reason: str, actor: Actor = AGENT) -> bool:
    """Set an install apart: nothing of it is accepted until somebody releases it."""
    return _set_status(install, InstallStatus.QUARANTINED, actor=actor, reason=reason)


def release_install(install: Install, *, actor: Actor, reason: str = "") -> bool:
    """Let a quarantined or revoked install in again; a revoked one must enroll anew."""
    return _set_status(install, InstallStatus.ACTIVE, actor=actor, reason=reason)


def _set_status(install: Install, status: InstallStatus, *, actor: Actor, reason: str) -> bool:
    moment, before = now(), snapshot(install, _STATUS_FIELDS)
    values = {"status": status, "status_reason": reason[:300], "status_at": moment}
    held = Install.objects.filter(pk=install.pk).exclude(status=status)
    if status == InstallStatus.QUARANTINED:
        # A revoked install stays revoked: quarantine is the weaker word.
        held = held.filter(status=InstallStatus.ACTIVE)
    with transaction.atomic():
        rows = held.update(**values)
        if not rows:
            return False
        if status == InstallStatus.REVOKED:
            install.credentials.filter(revoked_at=None).update(revoked_at=moment)
        install.refresh_from_db()
        if status == InstallStatus.QUARANTINED:
            Install.objects.filter(pk=install.pk).update(
                sync_state=SyncState.QUARANTINED, sync_cause=reason[:300], sync_at=moment
            )
        elif status == InstallStatus.ACTIVE:
            refresh_sync(install, moment=moment)
        record_change(
            actor=actor,
            action={"revoked": "revoke", "quarantined": "quarantine", "active": "release"}[status],
            target=install,
            pre=before,
            post=snapshot(install, _STATUS_FIELDS),
            reason=reason,
        )
    install.refresh_from_db()
    return True


def move_installs(
    installs: Iterable[Install], group: InstallGroup | None, *, actor: Actor, reason: str = ""
) -> int:
    """Put installs into a group; returns how many moved. Their policy follows at the next poll."""
    moved: list[tuple[Install, str]] = []
    moment = now()
    # Publishing marks many installs in one UPDATE; the two must not lock rows crosswise.
    with transaction_lock(PUBLISH_LOCK):
        # In the order of their ids, so that two who move the same installs do not deadlock.
        for install in sorted(installs, key=lambda install: install.pk):
            before = str(install.group or "")
            number = group.pk if group else None
            rows = (
                Install.objects.filter(pk=install.pk).exclude(group_id=number).update(group=group)
                if number
                else Install.objects.filter(pk=install.pk, group__isnull=False).update(group=None)
            )
            if not rows:
                continue
            install.refresh_from_db()
            refresh_sync(install, moment=moment)
            moved.append((install, before))
        for install, before in moved:
            record_change(
                actor=actor,
                action="move",
                target=install,
                pre={"group": before},
                post={"group": str(group or "")},
                reason=reason,
            )
    return len(moved)
