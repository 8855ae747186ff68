"""Enrollment tokens: mint, revoke."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from django.db import transaction

from agent_client.contract.tokens import PREFIX_ENROLL
from fleet.audit import Actor, record_change, snapshot
from fleet.lib import tokens
from fleet.lib.clock import now
from fleet.models import Approval, EnrollmentToken, InstallGroup
from fleet.policy.signing import root_fingerprint

_TOKEN_FIELDS: Final = ("group", "approval", "max_uses", "cidr", "expires_at", "reason")


def mint_token(
    *,
    actor: Actor,
    group: InstallGroup | None = None,
    max_uses: int | None = None,
    expires_at: datetime | None = None,
    cidr: str = "",
    approval: str = Approval.AUTO,
    reason: str = "",
) -> tuple[EnrollmentToken, str]:
    """A new enrollment token and the string to copy, ``hfe_….<root fingerprint>``, shown once."""
    token, stored = tokens.mint(PREFIX_ENROLL)
    with transaction.atomic():
        row = EnrollmentToken.objects.create(
            key_id=stored.key_id,
            digest=stored.digest,
            pepper_id=stored.pepper_id,
            group=group,
            max_uses=max_uses,
            expires_at=expires_at,
            cidr=cidr,
            approval=approval,
            reason=reason[:300],
            created_by=str(actor)[:200],
        )
        record_change(
            actor=actor,
            action="create",
            target=row,
            pre=None,
            post=snapshot(row, _TOKEN_FIELDS),
            reason=reason,
        )
    return row, f"{token.text()}.{root_fingerprint()}"


def revoke_token(token: EnrollmentToken, *, actor: Actor, reason: str = "") -> bool:
    """Stop a token from admitting anyone; False when it was revoked before."""
    with transaction.atomic():
        rows = EnrollmentToken.objects.filter(pk=token.pk, revoked_at=None).update(revoked_at=now())
        if rows:
            record_change(
                actor=actor,
                action="revoke",
                target=token,
                pre={"revoked": False},
                post={"revoked": True},
                reason=reason,
            )
    token.refresh_from_db(fields=["revoked_at"])
    return rows == 1
