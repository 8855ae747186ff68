"""Erasing an install: the tombstone first, the fleet's own rows and the signed report last.

What telemetry holds goes in between (``telemetry.store.erase``). From the commit of the tombstone
on nothing of the install is taken in, whatever was on its way.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

from django.db import transaction

from fleet.audit import Actor, record_change
from fleet.enroll.erasure_report import REPORT_SCHEMA, seal_report
from fleet.lib.clock import datetime_to_ns, now
from fleet.lib.prepared import PreparedFirst
from fleet.lib.sql import transaction_lock
from fleet.models import (
    EnrollmentRequest,
    EnrollmentToken,
    ErasedCredential,
    Erasure,
    Install,
    InstallCredential,
    InstallStatus,
)
from fleet.policy.signing import fleet_id

MAX_HOURS_LISTED: Final = 5_000
"""A report has at most 512 KiB; 90 days have 2,160 hours."""
KEPT: Final = (
    "the audit trail: who did what to the install, its host name as it was then, cannot be changed",
    "sums over all installs of hours whose rows retention has dropped before",
    "this tombstone: the install id, and digests of its credentials",
)


ERASED_DETAIL: Final = (
    "Everything of this install was erased here, and nothing of it is taken in any more. To report "
    "again as a new install run: hermes-telemetry enroll --new-id …"
)


class ErasureError(Exception):
    """An erasure that cannot go on; what was done stays done, and it can be run again."""


def erasure_lock(install_id: UUID) -> str:
    """The lock under which an install id is either enrolled or erased."""
    return f"fleet-erase-{install_id}"


_tombstone: Final = PreparedFirst(lambda pk: Erasure.objects.filter(pk=pk), UUID(int=1))


def is_erased(install_id: UUID) -> bool:
    """Whether an install's tombstone stands."""
    return _tombstone(install_id) is not None


def begin_erasure(install_id: UUID, *, actor: Actor, reason: str) -> Erasure:
    """Set the tombstone and end the credentials, or find what was begun before.

    Must run inside the transaction that holds the install's ingest lock, so that a load either
    committed before or sees the tombstone.
    """
    with transaction_lock(erasure_lock(install_id)):
        known = Erasure.objects.filter(pk=install_id).first()
        if known is not None:
            return known
        moment = now()
        held = InstallCredential.objects.filter(install_id=install_id)
        ErasedCredential.objects.bulk_create(
            ErasedCredential(
                key_id=one.key_id,
                digest=one.digest,
                pepper_id=one.pepper_id,
                install_id=install_id,
            )
            for one in held
        )
        revoked = held.filter(revoked_at=None).update(revoked_at=moment)
        Install.objects.filter(pk=install_id).update(
            status=InstallStatus.REVOKED, status_reason="erased", status_at=moment
        )
        erasure = Erasure.objects.create(
            install_id=install_id,
            requested_by=str(actor)[:200],
            reason=reason[:300],
            requested_at=moment,
            credential_count=revoked,
        )
        record_change(
            actor=actor,
            action="erase",
            target=erasure,
            pre=None,
            post={"credentials_revoked": revoked},
            reason=reason,
        )
    return erasure


def fleet_counts(install_id: UUID) -> dict[str, int]:
    """Rows of the fleet's own tables that go with an install."""
    install = Install.objects.filter(pk=install_id)
    counts = {Install._meta.db_table: install.count()}
    for relation in Install._meta.related_objects:
        model = relation.related_model
        assert not isinstance(model, str)  # noqa: S101 -- every model is loaded by now
        found = model._default_manager.filter(**{relation.field.name: install_id})  # noqa: SLF001 -- the documented way from a model class
        counts[model._meta.db_table] = found.count()
    counts[EnrollmentRequest._meta.db_table] = EnrollmentRequest.objects.filter(
        install_id=install_id
    ).count()
    return counts


def finish_erasure(erasure: Erasure, telemetry_after: dict[str, int]) -> Erasure:
    """Remove the fleet's own rows, sign the report, write the audit row; one transaction.

    Errors: ErasureError when anything is left.
    """
    with transaction.atomic(), transaction_lock(erasure_lock(erasure.pk)):
        held = Erasure.objects.get(pk=erasure.pk)
        if held.is_done:
            return held
        Install.objects.filter(pk=held.pk).delete()
        EnrollmentRequest.objects.filter(install_id=held.pk).delete()
        EnrollmentToken.objects.filter(last_used_by=held.pk).update(last_used_by=None)
        held.counts_after = telemetry_after | fleet_counts(held.pk)
        left = {table: count for table, count in held.counts_after.items() if count}
        if left:
            raise ErasureError(f"rows are left in {', '.join(sorted(left))}")
        held.state, held.finished_at = Erasure.State.DONE, now()
        held.report = seal_report(report_of(held)).decode("ascii")
        held.save()
        record_change(
            actor=held.requested_by,
            action="erased",
            target=held,
            pre={"rows": held.counts_before},
            post={"rows": held.counts_after, "hours": len(held.hours)},
            reason=held.reason,
        )
    return held


def report_of(erasure: Erasure) -> dict[str, object]:
    """What is signed: who, why, when, and every table with its rows before and after."""
    before, after = erasure.counts_before or {}, erasure.counts_after or {}
    finished_at = erasure.finished_at
    return {
        "schema": REPORT_SCHEMA,
        "fleet_id": fleet_id(),
        "install_id": str(erasure.pk),
        "requested_by": erasure.requested_by,
        "reason": erasure.reason,
        "requested_ns": datetime_to_ns(erasure.requested_at),
        "finished_ns": datetime_to_ns(finished_at) if finished_at else 0,
        "tables": [
            {"table": table, "rows_before": before.get(table, 0), "rows_after": count}
            for table, count in sorted(after.items())
        ],
        "credentials_revoked": erasure.credential_count,
        "hours_summed_anew_count": len(erasure.hours),
        "hours_summed_anew": erasure.hours[:MAX_HOURS_LISTED],
        "hours_frozen_count": len(erasure.frozen_hours),
        "hours_frozen": erasure.frozen_hours[:MAX_HOURS_LISTED],
        "kept": list(KEPT),
    }
