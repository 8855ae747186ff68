"""An install's own credentials: new, candidate, accepted."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from django.db import transaction

from agent_client.contract.tokens import PREFIX_INSTALL
from agent_client.contract.wire import SCOPES
from fleet.audit import record_change
from fleet.lib import tokens
from fleet.lib.clock import now
from fleet.models import Install, InstallCredential

CANDIDATE_LIFE: Final = timedelta(hours=1)
AGENT: Final = "agent"
"""Actor of changes that an agent's own request made."""


def new_credential(
    install: Install, *, is_candidate: bool, expires_at: datetime | None
) -> tuple[InstallCredential, str]:
    """A stored credential and its text, which exists nowhere else."""
    token, stored = tokens.mint(PREFIX_INSTALL)
    row = InstallCredential.objects.create(
        install=install,
        key_id=stored.key_id,
        digest=stored.digest,
        pepper_id=stored.pepper_id,
        scopes=list(SCOPES),
        is_candidate=is_candidate,
        expires_at=expires_at,
    )
    return row, token.text()


def propose_credential(install: Install) -> str:
    """The text of a candidate credential; an earlier candidate that was never used ends.

    The old credential stays good until the candidate is used.
    """
    with transaction.atomic():
        install.credentials.filter(is_candidate=True).delete()
        _row, text = new_credential(install, is_candidate=True, expires_at=now() + CANDIDATE_LIFE)
    return text


def accept_candidate(credential: InstallCredential) -> bool:
    """First use of a candidate: it becomes the credential and the others are deleted.

    False when another request accepted it first, which is as good.
    """
    with transaction.atomic():
        rows = InstallCredential.objects.filter(pk=credential.pk, is_candidate=True).update(
            is_candidate=False, expires_at=None
        )
        if rows:
            InstallCredential.objects.filter(install_id=credential.install_id).exclude(
                pk=credential.pk
            ).delete()
            record_change(
                actor=AGENT,
                action="rotate",
                target=credential.install,
                pre=None,
                post={"credential": credential.key_id},
            )
    credential.is_candidate, credential.expires_at = False, None
    return rows == 1
