"""Builders: one function per thing, every argument with a default that works."""

from __future__ import annotations

import itertools
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID, uuid4

from django.http.response import ResponseHeaders
from django.test import Client

from agent_client.contract.policy_doc import CheckIn
from fleet.enroll import Admitted, Applicant, InstallFacts, enroll_install, mint_token
from fleet.lib.clock import now
from fleet.models import EnrollmentToken, Install, InstallGroup, Pin, PinScope, PolicyRevision
from fleet.policy.publish import publish_revision


class Answer(Protocol):
    """What the test client answers; its own stub type cannot be named."""

    @property
    def status_code(self) -> int: ...
    @property
    def content(self) -> bytes: ...
    @property
    def headers(self) -> ResponseHeaders: ...


MACHINE = "a" * 64
OTHER_MACHINE = "b" * 64
_numbers = itertools.count(1)


def make_group(name: str = "") -> InstallGroup:
    """A group; its name is unique unless given."""
    return InstallGroup.objects.create(name=name or f"group {next(_numbers)}")


def make_install(
    *,
    install_id: UUID | None = None,
    group: InstallGroup | None = None,
    machine_id: str = MACHINE,
    hostname: str = "host-1",
    last_seen_at: datetime | None = None,
) -> Install:
    """An install without a credential."""
    return Install.objects.create(
        id=install_id or uuid4(),
        machine_id=machine_id,
        group=group,
        hostname=hostname,
        last_seen_at=last_seen_at,
    )


def make_token(
    *,
    group: InstallGroup | None = None,
    max_uses: int | None = None,
    expires_at: datetime | None = None,
    cidr: str = "",
    approval: str = "auto",
) -> tuple[EnrollmentToken, str]:
    """A token and its text as it travels: without the fingerprint."""
    row, text = mint_token(
        actor="operator",
        group=group,
        max_uses=max_uses,
        expires_at=expires_at,
        cidr=cidr,
        approval=approval,
    )
    return row, text.partition(".")[0]


def make_applicant(
    *, install_id: UUID | None = None, machine_id: str = MACHINE, address: str = "127.0.0.1"
) -> Applicant:
    """Somebody who wants in."""
    return Applicant(install_id or uuid4(), machine_id, address, InstallFacts(hostname="host-1"))


def enroll_one(
    *, group: InstallGroup | None = None, install_id: UUID | None = None
) -> tuple[Install, str]:
    """An enrolled install and its credential."""
    from agent_client.contract.tokens import parse_token

    _row, text = make_token(group=group)
    presented = parse_token(text)
    assert presented is not None
    outcome = enroll_install(presented, make_applicant(install_id=install_id))
    assert isinstance(outcome, Admitted)
    return outcome.install, outcome.credential


def agent_client_of(credential: str) -> Client:
    """A test client that carries a bearer token."""
    return Client(headers={"Authorization": f"Bearer {credential}"})


def enroll_body(
    *, install_id: UUID | str | None = None, machine_id: str = MACHINE
) -> dict[str, object]:
    """The body of an enrollment."""
    return {
        "install_id": str(install_id or uuid4()),
        "machine_id": machine_id,
        "agent": {"client_version": "0.1.0", "host_version": "0.19.0", "python_version": "3.11.9"},
        "host": {"os_family": "linux", "os_version": "6.1", "arch": "x86_64", "hostname": "h1"},
        "capabilities": ["push", "policy"],
        "consent_state": "unknown",
    }


def make_pin(
    key: str = "telemetry.allow_aggregate",
    value: object = False,
    *,
    group: InstallGroup | None = None,
    level: str = "mandatory",
    is_locked: bool = False,
    reason: str = "because",
) -> Pin:
    """A pin; a group makes it the group's."""
    return Pin.objects.create(
        scope=PinScope.GROUP if group else PinScope.FLEET,
        group=group,
        key=key,
        value=value,
        level=level,
        is_locked=is_locked,
        reason=reason,
    )


def publish(reason: str = "test") -> PolicyRevision:
    """The pins as they stand, published."""
    return publish_revision(actor="operator", reason=reason)


def make_checkin(
    *, seq: int = 1, status: str = "applied", bundle_sha256: str = "", **fields: object
) -> CheckIn:
    """A service's check-in."""
    values = {"seq": seq, "status": status, "bundle_sha256": bundle_sha256, **fields}
    return CheckIn.from_dict(values)


def minutes_ago(minutes: float) -> datetime:
    """A moment in the past."""
    return now() - timedelta(minutes=minutes)
