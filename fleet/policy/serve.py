"""Which document an install gets now: the assignment, freshly signed when it must be."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import Q

from agent_client.contract.canonical import sha256_hex
from agent_client.contract.policy_doc import ASSIGNMENT_LIFE_S, Assignment
from fleet.lib.clock import datetime_to_ns
from fleet.lib.prepared import PreparedFirst
from fleet.models import (
    Fleet,
    Install,
    InstallBundle,
    InstallPolicy,
    PolicyBundle,
    PolicyTarget,
)
from fleet.policy.compile import EVERYONE
from fleet.policy.signing import seal_assignment

ETAG_NONE = "none"
"""The entity tag of "no policy was ever published": absent, neither empty nor failed."""


@dataclass(frozen=True, slots=True)
class Served:
    """An assignment as it goes out."""

    envelope: bytes
    etag: str
    version: int
    bundle_sha256: str


_newest_target: Final = PreparedFirst(
    lambda everyone, own: PolicyTarget.objects.filter(
        Q(group_number=everyone) | Q(group_number=own)
    ).order_by("-revision__version", "-group_number"),
    1,
    2,
)
_held_policy: Final = PreparedFirst(lambda pk: InstallPolicy.objects.filter(pk=pk), UUID(int=1))


def target_of(install: Install) -> PolicyTarget | None:
    """The newest revision's target for an install's group; None before the first publish.

    One query: newest revision first, in which the group's own target wins over everyone's,
    which every revision has.
    """
    return _newest_target(EVERYONE, install.group_id or EVERYONE)


def assignment_for(
    install: Install, *, moment: datetime, target: PolicyTarget | None = None
) -> Served | None:
    """The assignment in force for an install; None before the first publish.

    ``target``: what ``target_of`` just said, for who has it at hand.

    A new one is issued when the bundle changed or less than a quarter of its life is left.
    Its version rises by one; of two requests that race, the conditional UPDATE lets one
    issue and the other serve what that one issued.
    """
    target = target or target_of(install)
    if target is None:
        return None
    for _attempt in range(5):
        held = _held_policy(install.pk)
        if held is not None and held.bundle_id == target.bundle_id and held.is_fresh(moment):
            return _served(held)
        issued = _issue(install, held, target.bundle_id, moment=moment)
        if issued is not None:
            return _served(issued)
    raise RuntimeError("the assignment changed five times under one request")


def served_etag(install: Install, *, moment: datetime, target: PolicyTarget | None = None) -> str:
    """The entity tag assignment_for would serve; the place where a cache will answer."""
    served = assignment_for(install, moment=moment, target=target)
    return served.etag if served else ETAG_NONE


def _served(row: InstallPolicy) -> Served:
    return Served(bytes(row.envelope), row.etag, row.version, row.bundle_id)


def _issue(
    install: Install, held: InstallPolicy | None, bundle_sha256: str, *, moment: datetime
) -> InstallPolicy | None:
    """Sign and store the next assignment; None when another request was faster."""
    expires_at = moment + timedelta(seconds=ASSIGNMENT_LIFE_S)
    fleet = Fleet.current()
    version = max(held.version if held else 0, fleet.assignment_floor) + 1
    nonce = secrets.token_hex(8)
    document = Assignment(
        fleet_id=str(fleet.fleet_id),
        install_id=str(install.pk),
        version=version,
        bundle_sha256=bundle_sha256,
        issued_ns=datetime_to_ns(moment),
        expires_ns=datetime_to_ns(expires_at),
        poll_seconds=settings.FLEET_POLL_SECONDS,
        phase_seconds=phase_seconds(install),
        stage=held.stage if held else "all",
        nonce=nonce,
    )
    envelope = seal_assignment(document.to_dict())
    is_same_bundle = held is not None and held.bundle_id == bundle_sha256
    values: dict[str, object] = {
        "bundle_id": bundle_sha256,
        "version": version,
        "stage": document.stage,
        "nonce": nonce,
        "envelope": envelope,
        "etag": sha256_hex(envelope),
        "issued_at": moment,
        "expires_at": expires_at,
        "bundle_since": held.bundle_since if held and is_same_bundle else moment,
    }
    with transaction.atomic():
        if held is None:
            row, is_ours = InstallPolicy.objects.get_or_create(pk=install.pk, defaults=values)
        else:
            is_ours = (
                InstallPolicy.objects.filter(pk=install.pk, version=held.version).update(**values)
                == 1
            )
            row = InstallPolicy(pk=install.pk, **values)
        if not is_ours:
            return None
        InstallBundle.objects.get_or_create(install=install, bundle_id=bundle_sha256)
    return row


def phase_seconds(install: Install) -> int:
    """When in the poll interval an install comes, so that a fleet never comes at once."""
    return install.pk.int % int(settings.FLEET_POLL_SECONDS)


def bundle_for(install: Install, sha256: str) -> PolicyBundle | None:
    """A bundle that this install was ever assigned; None for any other, existing or not."""
    assigned = InstallBundle.objects.filter(install=install, bundle_id=sha256)
    return PolicyBundle.objects.filter(pk__in=assigned.values("bundle_id")).first()
