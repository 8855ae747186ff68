"""Check-ins: record what an install reports, and decide where it stands with its policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from django.conf import settings
from django.db import transaction

from agent_client.contract.policy_doc import CheckIn
from fleet.models import CheckInRecord, Install, InstallStatus, SyncState
from fleet.policy.plan import latest_revision
from fleet.policy.serve import target_of

OFFLINE_AFTER_POLLS: Final = 10
"""Fewer would flag every restart and every closed laptop lid."""
BYPASS_CAUSES: Final = frozenset({"safe_mode", "plugin_disabled"})
STALE_REASONS: Final = ("stale", "expired")
_SETTLED: Final = (SyncState.IN_SYNC, SyncState.DRIFTED, SyncState.BYPASSED, SyncState.FAILED)


class SequenceFork(Exception):  # the wire's word for it
    """A check-in's sequence was already used for other content, or a later one is known."""


@dataclass(frozen=True, slots=True)
class Report:
    """What decides, of one reporter's latest check-in."""

    reporter: str
    status: str
    reason: str = ""
    bundle_sha256: str = ""
    desired_sha256: str = ""
    effective_sha256: str = ""
    drift: Sequence[Mapping[str, object]] = ()


@dataclass(frozen=True, slots=True)
class SyncFacts:
    """Everything the decision looks at. ``wanted_sha256`` is "" before the first publish."""

    install_status: str
    silent_s: float | None
    offline_after_s: float
    wanted_sha256: str
    reports: Sequence[Report] = ()


@dataclass(frozen=True, slots=True)
class SyncVerdict:
    """The state and its cause in words; "" where the state says it all."""

    state: SyncState
    cause: str = ""


def decide_sync(facts: SyncFacts) -> SyncVerdict:
    """Where an install stands. Pure; the first rule that fits wins.

    1. quarantined, never seen, offline: what the install last said no longer counts.
    2. nothing to obey, or nothing said yet.
    3. failed, held or stale by its own word.
    4. another bundle than the wanted one: pending.
    5. drift and bypass, from whoever saw it with the wanted bundle.
    6. applied is in sync; the rest is on its way.
    """
    if facts.install_status == InstallStatus.QUARANTINED:
        return SyncVerdict(SyncState.QUARANTINED, "Another machine used this install id.")
    if facts.silent_s is None:
        return SyncVerdict(SyncState.NEVER_SEEN)
    if facts.silent_s > facts.offline_after_s:
        return SyncVerdict(SyncState.OFFLINE, f"Silent for {int(facts.silent_s // 60)} minutes.")
    if not facts.wanted_sha256:
        return SyncVerdict(SyncState.IN_SYNC, "No policy is published.")
    leader = next((one for one in facts.reports if one.reporter == "service"), None)
    leader = leader or next(iter(facts.reports), None)
    if leader is None:
        return SyncVerdict(SyncState.PENDING, "It has not reported yet.")
    return _decide_by_reports(facts, leader)


def _decide_by_reports(facts: SyncFacts, leader: Report) -> SyncVerdict:
    if leader.status in {"failed", "rolled_back"}:
        return SyncVerdict(SyncState.FAILED, leader.reason or leader.status)
    if leader.status == "held":
        is_stale = leader.reason.startswith(STALE_REASONS)
        return SyncVerdict(SyncState.STALE if is_stale else SyncState.HELD, leader.reason)
    if leader.bundle_sha256 != facts.wanted_sha256:
        if leader.status == "applying":
            return SyncVerdict(SyncState.APPLYING, leader.reason)
        return SyncVerdict(SyncState.PENDING, "It still holds an earlier policy.")
    # A running agent that started before the pin says nothing about the pin.
    current = [one for one in facts.reports if one.bundle_sha256 == facts.wanted_sha256]
    for report in sorted(current, key=lambda one: one.reporter != "plugin"):
        if verdict := _decide_drift(report):
            return verdict
    if leader.status == "applied":
        return SyncVerdict(SyncState.IN_SYNC)
    return SyncVerdict(SyncState(leader.status), leader.reason)


def _decide_drift(report: Report) -> SyncVerdict | None:
    if report.drift:
        first = report.drift[0]
        cause = str(first.get("cause") or "unknown")
        state = SyncState.BYPASSED if cause in BYPASS_CAUSES else SyncState.DRIFTED
        more = f" and {len(report.drift) - 1} more" if len(report.drift) > 1 else ""
        return SyncVerdict(state, f"{first.get('key', '')}{more}: {cause}")
    differs = report.effective_sha256 and report.desired_sha256
    if differs and report.effective_sha256 != report.desired_sha256:
        return SyncVerdict(SyncState.DRIFTED, "The effective values differ: unknown")
    return None


def record_checkin(
    install: Install, checkin: CheckIn, *, body_sha256: str, moment: datetime
) -> int:
    """Store a check-in and the state that follows; returns the sequence to acknowledge.

    The same check-in again is acknowledged again and changes nothing but last_checkin_at.
    Errors: SequenceFork when the sequence did not rise or was used for other content.
    """
    with transaction.atomic():
        _store_checkin(install, checkin, body_sha256, moment)
        Install.objects.filter(pk=install.pk).update(last_checkin_at=moment, last_seen_at=moment)
        install.last_checkin_at = install.last_seen_at = moment
        refresh_sync(install, moment=moment)
    return checkin.seq


def _store_checkin(install: Install, checkin: CheckIn, body_sha256: str, moment: datetime) -> None:
    values: dict[str, object] = {
        "seq": checkin.seq,
        "body_sha256": body_sha256,
        "status": checkin.status,
        "reason": checkin.reason[:300],
        "assignment_version": checkin.assignment_version,
        "bundle_sha256": checkin.bundle_sha256,
        "desired_sha256": checkin.desired_sha256,
        "written_sha256": checkin.written_sha256,
        "effective_sha256": checkin.effective_sha256,
        "nonce_seen": checkin.nonce_seen,
        "drift": list(checkin.drift),
        "health": checkin.health,
        "versions": checkin.versions,
        "received_at": moment,
    }
    mine = CheckInRecord.objects.filter(install=install, reporter=checkin.reporter)
    if mine.filter(seq__lt=checkin.seq).update(**values):
        return
    record, created = CheckInRecord.objects.get_or_create(
        install=install, reporter=checkin.reporter, defaults=values
    )
    if created or (record.seq == checkin.seq and record.body_sha256 == body_sha256):
        return
    raise SequenceFork(f"The newest known sequence is {record.seq}.")


def refresh_sync(install: Install, *, moment: datetime) -> SyncVerdict:
    """Decide an install's state anew and store it when it changed."""
    verdict = decide_sync(_facts_of(install, moment))
    Install.objects.filter(pk=install.pk).exclude(
        sync_state=verdict.state, sync_cause=verdict.cause[:300]
    ).update(sync_state=verdict.state, sync_cause=verdict.cause[:300], sync_at=moment)
    return verdict


def _facts_of(install: Install, moment: datetime) -> SyncFacts:
    target = target_of(install)
    seen = install.last_seen_at
    return SyncFacts(
        install_status=install.status,
        silent_s=None if seen is None else (moment - seen).total_seconds(),
        offline_after_s=offline_after().total_seconds(),
        wanted_sha256=target.bundle_id if target else "",
        reports=[
            Report(
                reporter=row.reporter,
                status=row.status,
                reason=row.reason,
                bundle_sha256=row.bundle_sha256,
                desired_sha256=row.desired_sha256,
                effective_sha256=row.effective_sha256,
                drift=row.drift,
            )
            for row in install.checkins.all()
        ],
    )


def offline_after() -> timedelta:
    """How long an install may be silent before it counts as offline."""
    return timedelta(seconds=OFFLINE_AFTER_POLLS * settings.FLEET_POLL_SECONDS)


def mark_offline(*, moment: datetime) -> int:
    """Mark active installs that fell silent; returns how many. One conditional UPDATE."""
    return (
        Install.objects.active()
        .filter(last_seen_at__lt=moment - offline_after())
        .exclude(sync_state=SyncState.OFFLINE)
        .update(sync_state=SyncState.OFFLINE, sync_cause="", sync_at=moment)
    )


def mark_pending(*, moment: datetime) -> int:
    """After a publish: installs whose last word was another bundle are pending; returns how many.

    One conditional UPDATE per target of the newest revision, not one per install.
    """
    revision = latest_revision()
    if revision is None:
        return 0
    targets = list(revision.targets.all())
    own_groups = [target.group_number for target in targets if target.group_number]
    count = 0
    for target in targets:
        installs = Install.objects.active().filter(sync_state__in=_SETTLED)
        if target.group_number:
            installs = installs.filter(group_id=target.group_number)
        else:
            installs = installs.exclude(group_id__in=own_groups)
        holders = CheckInRecord.objects.filter(bundle_sha256=target.bundle_id)
        count += installs.exclude(pk__in=holders.values("install_id")).update(
            sync_state=SyncState.PENDING,
            sync_cause="It still holds an earlier policy.",
            sync_at=moment,
        )
    return count
