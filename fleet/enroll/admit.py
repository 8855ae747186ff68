"""Admission: an enrollment token becomes an install with its own credential."""

from __future__ import annotations

import secrets
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from django.db import transaction

from agent_client.contract.tokens import Token
from fleet.audit import Actor, record_change
from fleet.enroll.credentials import AGENT, new_credential
from fleet.enroll.erasure import ERASED_DETAIL, erasure_lock, is_erased
from fleet.enroll.installs import quarantine_install
from fleet.lib import tokens
from fleet.lib.addresses import is_in_network
from fleet.lib.clock import now
from fleet.lib.sql import transaction_lock
from fleet.models import (
    Approval,
    EnrollmentRequest,
    EnrollmentToken,
    Install,
    InstallStatus,
    RequestStatus,
)

REQUEST_LIFE: Final = timedelta(hours=1)
"""A code that nobody approved by then was probably not meant."""
USER_CODE_ALPHABET: Final = "BCDFGHJKLMNPQRSTVWXZ"
"""No vowels, no digits: it is read aloud, and spells nothing (RFC 8628, 6.1)."""


class EnrollRefused(Exception):
    """An enrollment that is not granted; ``code`` is one of ``wire.PROBLEM_CODES``."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(code)
        self.code = code
        self.detail = detail


@dataclass(frozen=True, slots=True)
class InstallFacts:
    """What an agent says of itself when it enrolls; bounded by the serializer."""

    hostname: str = ""
    os_family: str = ""
    os_version: str = ""
    arch: str = ""
    client_version: str = ""
    host_version: str = ""
    python_version: str = ""
    capabilities: tuple[str, ...] = ()
    consent_state: str = "unknown"


@dataclass(frozen=True, slots=True)
class Applicant:
    """Who asks: install id, machine and address, and what it says of itself."""

    install_id: UUID
    machine_id: str
    address: str
    facts: InstallFacts


@dataclass(frozen=True, slots=True)
class Admitted:
    """An install with its new credential, whose text exists nowhere else."""

    install: Install
    credential: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """A person has to compare this code and approve."""

    user_code: str


def enroll_install(presented: Token, applicant: Applicant) -> Admitted | Waiting:
    """Admit an install, or let it wait for a person.

    Steps: 1. the token is ours and open to this address; 2. the install id is not another
    machine's (else it is quarantined); 3. a person has approved, where the token asks for
    it; 4. one use is counted, unless this install was admitted by this token before: an
    answer that got lost is asked for again; 5. old credentials end, a new one begins.
    Errors: EnrollRefused.
    """
    moment = now()
    token = _open_token(presented, applicant.address, moment)
    _refuse_erased(applicant)
    existing = Install.objects.filter(pk=applicant.install_id).first()
    if existing is not None:
        _check_known(existing, applicant)
    request: EnrollmentRequest | None = None
    if token.approval == Approval.MANUAL:
        request = _request_of(token, applicant, existing, moment)
        if request.status == RequestStatus.PENDING:
            return Waiting(request.user_code)
    with transaction_lock(erasure_lock(applicant.install_id)):
        _refuse_erased(applicant)  # an erasure may have begun while we looked
        _count_use(token, existing, applicant, moment)
        if request is not None:
            EnrollmentRequest.objects.filter(pk=request.pk).update(status=RequestStatus.DONE)
        return _admit(token, applicant, moment)


def _refuse_erased(applicant: Applicant) -> None:
    if is_erased(applicant.install_id):
        raise EnrollRefused("install_erased", ERASED_DETAIL)


def _open_token(presented: Token, address: str, moment: datetime) -> EnrollmentToken:
    token = EnrollmentToken.objects.select_related("group").filter(key_id=presented.key_id).first()
    if token is None or not tokens.matches(presented, token.stored):
        raise EnrollRefused("token_unknown")
    state = token.state(moment)
    if state in {"revoked", "expired"}:
        raise EnrollRefused(f"token_{state}")
    if token.cidr and not is_in_network(address, token.cidr):
        raise EnrollRefused("cidr_denied")
    return token


def _check_known(existing: Install, applicant: Applicant) -> None:
    if existing.machine_id != applicant.machine_id:
        quarantine_install(existing, reason="Another machine enrolled with this install id.")
        raise EnrollRefused(
            "install_exists",
            "This install id belongs to another machine; both are set apart until an operator "
            "decides. For a copied machine run: hermes-telemetry enroll --new-id …",
        )
    if existing.status != InstallStatus.ACTIVE:
        raise EnrollRefused("forbidden", f"This install is {existing.status}; ask the operator.")


def _request_of(
    token: EnrollmentToken, applicant: Applicant, existing: Install | None, moment: datetime
) -> EnrollmentRequest:
    """The open request of this machine under this token; a new one when there is none."""
    mine = EnrollmentRequest.objects.filter(
        token=token, install_id=applicant.install_id, machine_id=applicant.machine_id
    ).exclude(status=RequestStatus.DONE)
    latest = mine.order_by("-created_at").first()
    if latest is not None and latest.expires_at > moment:
        if latest.status == RequestStatus.DENIED:
            raise EnrollRefused("forbidden", "An operator has denied this enrollment.")
        return latest
    if token.state(moment) == "exhausted" and not _was_admitted_by(token, existing):
        raise EnrollRefused("token_exhausted")
    with transaction.atomic():
        mine.filter(expires_at__lte=moment).delete()
        request, _created = EnrollmentRequest.objects.get_or_create(
            token=token,
            install_id=applicant.install_id,
            machine_id=applicant.machine_id,
            status=RequestStatus.PENDING,
            defaults={
                "user_code": _user_code(),
                "facts": asdict(applicant.facts),
                "address": applicant.address,
                "expires_at": moment + REQUEST_LIFE,
            },
        )
    return request


def _user_code() -> str:
    letters = [secrets.choice(USER_CODE_ALPHABET) for _index in range(8)]
    return "".join(letters[:4]) + "-" + "".join(letters[4:])


def _was_admitted_by(token: EnrollmentToken, existing: Install | None) -> bool:
    return existing is not None and existing.enrolled_with_id == token.pk


def _count_use(
    token: EnrollmentToken, existing: Install | None, applicant: Applicant, moment: datetime
) -> None:
    if _was_admitted_by(token, existing):
        return
    uses = EnrollmentToken.objects.all()
    if not uses.take_use(token.pk, moment=moment, install_id=str(applicant.install_id)):
        token.refresh_from_db()
        state = token.state(moment)
        raise EnrollRefused(
            "token_exhausted" if state in {"active", "exhausted"} else f"token_{state}"
        )


def _admit(token: EnrollmentToken, applicant: Applicant, moment: datetime) -> Admitted:
    facts = asdict(applicant.facts) | {"capabilities": list(applicant.facts.capabilities)}
    install, is_new = Install.objects.get_or_create(
        pk=applicant.install_id,
        defaults={
            **facts,
            "machine_id": applicant.machine_id,
            "group": token.group,
            "enrolled_with": token,
            "enrolled_at": moment,
        },
    )
    # Two requests of one install queue here; the later one's credential is the one that lives.
    install = Install.objects.select_for_update(of=("self",)).get(pk=install.pk)
    if install.machine_id != applicant.machine_id:
        raise EnrollRefused("install_exists")
    if not is_new:
        for name, value in facts.items():
            setattr(install, name, value)
        install.enrolled_with = token
        install.save(update_fields=[*facts, "enrolled_with"])
    install.credentials.filter(revoked_at=None).update(revoked_at=moment)
    _row, text = new_credential(install, is_candidate=False, expires_at=None)
    record_change(
        actor=AGENT,
        action="enroll" if is_new else "enroll_again",
        target=install,
        pre=None,
        post={"token": token.key_id, "address": applicant.address, "group": str(token.group or "")},
    )
    return Admitted(install, text)


def decide_request(request: EnrollmentRequest, *, is_approved: bool, actor: Actor) -> bool:
    """A person's yes or no; False when the request was decided or lapsed before."""
    moment = now()
    status = RequestStatus.APPROVED if is_approved else RequestStatus.DENIED
    with transaction.atomic():
        rows = EnrollmentRequest.objects.filter(
            pk=request.pk, status=RequestStatus.PENDING, expires_at__gt=moment
        ).update(status=status, decided_at=moment, decided_by=str(actor)[:200])
        if rows:
            record_change(
                actor=actor,
                action="approve" if is_approved else "deny",
                target=request,
                pre={"status": "pending"},
                post={"status": str(status), "install": str(request.install_id)},
            )
    request.refresh_from_db()
    return rows == 1
