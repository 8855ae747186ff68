"""The audit trail: append a row to the hash chain, verify the chain.

A caller opens the transaction of its change; the row is written in it, so a change
and its record are one. Writers queue on one lock: a chain has one end.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

import structlog
from django.contrib.auth.models import AbstractBaseUser
from django.db import models

from agent_client.contract.canonical import canonical_json
from fleet.lib.clock import now
from fleet.lib.sql import transaction_lock
from fleet.models.change import GENESIS_SHA256, ChangeRecord

type Actor = str | AbstractBaseUser


@dataclass(frozen=True, slots=True)
class ChainFault:
    """Where the chain breaks: the row's id and what is wrong with it."""

    record_id: int
    problem: str


def record_change(
    *,
    actor: Actor,
    action: str,
    target: models.Model,
    pre: object,
    post: object,
    reason: str = "",
) -> ChangeRecord:
    """Append one row about a target; ``pre`` and ``post`` are JSON values, never secrets.

    Call it last in the transaction: it holds the chain's lock to the commit, and a change
    that waits for a row another holder of that lock has locked would be a deadlock.

    Errors: TypeError or ValueError for what canonical JSON has no form for.
    """
    with transaction_lock("fleet.audit"):
        last = ChangeRecord.objects.order_by("-id").values_list("sha256", flat=True).first()
        record = ChangeRecord(
            at=now(),
            actor=str(actor)[:200],
            action=action,
            object_type=target._meta.model_name or "",  # Django's public Meta API
            object_id=str(target.pk),
            object_label=str(target)[:300],
            reason=reason[:300],
            request_id=str(structlog.contextvars.get_contextvars().get("request_id", "")),
            pre_json=canonical_json(pre).decode(),
            post_json=canonical_json(post).decode(),
            prev_sha256=last or GENESIS_SHA256,
        )
        record.sha256 = record.computed_sha256()
        record.save(force_insert=True)
    return record


def snapshot(target: models.Model, fields: Iterable[str]) -> dict[str, object]:
    """Named fields of a model as JSON values; times in ISO form, keys as they are stored."""
    return {name: _plain(getattr(target, name)) for name in fields}


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | int | float | str | list | dict):
        return value
    isoformat = getattr(value, "isoformat", None)
    if callable(isoformat):
        return isoformat()
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, models.Model):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form in an audit row")


def first_fault(records: Iterable[ChangeRecord]) -> ChainFault | None:
    """The first break of a chain read in order of id; None when it is whole. Pure.

    What it cannot see: rows cut off at the end. Keep the newest digest elsewhere to see that.
    """
    previous = GENESIS_SHA256
    for record in records:
        if record.prev_sha256 != previous:
            return ChainFault(record.pk, "its predecessor was removed or replaced")
        if record.computed_sha256() != record.sha256:
            return ChainFault(record.pk, "its content was altered")
        previous = record.sha256
    return None


def verify_chain() -> ChainFault | None:
    """The first break of the stored chain, read in steps of 2,000 rows."""
    return first_fault(ChangeRecord.objects.order_by("id").iterator(chunk_size=2000))
