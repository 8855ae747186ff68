"""Publishing: pins become an immutable revision, its bundles and an audit row, or nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence

from agent_client.contract.canonical import canonical_json, sha256_hex
from agent_client.contract.policy_doc import Bundle
from fleet.audit import Actor, record_change
from fleet.lib.clock import now, now_ns, ns_to_datetime
from fleet.lib.sql import transaction_lock
from fleet.models import (
    InstallGroup,
    Pin,
    PinScope,
    PolicyBundle,
    PolicyRevision,
    PolicyTarget,
)
from fleet.policy.ack import mark_pending
from fleet.policy.compile import PinSpec, PolicyError, compile_bundle, faults_of, same_content
from fleet.policy.plan import freeze_pins, groups_of, latest_revision
from fleet.policy.signing import fleet_id

LOCK = "fleet.policy.publish"


class BaseStale(PolicyError):
    """Somebody published in between; plan again and look before publishing."""


def publish_revision(
    *, actor: Actor, reason: str, base_version: int | None = None
) -> PolicyRevision:
    """Publish the pins as they stand: revision, bundles, targets and audit row in one transaction.

    ``base_version`` is the plan's; None publishes on whatever is newest.
    Errors: BaseStale when it is no longer the newest; PolicyError for pins that cannot be
    published or when nothing has changed. Nothing is stored then.
    """
    with transaction_lock(LOCK):
        base = _base(base_version)
        held = _pins_of(base)
        pins = freeze_pins(held, version=(base.version if base else 0) + 1)
        if base is not None and pins == held:
            raise PolicyError("Nothing has changed since the last revision.")
        return _store(base, pins, actor=actor, reason=reason)


def roll_back_to(
    revision: PolicyRevision, *, actor: Actor, reason: str, base_version: int | None = None
) -> PolicyRevision:
    """A new revision with an older one's pins; the edited pins become the same again.

    Pins of a group that no longer exists are left out: nobody is in it.
    Errors: as publish_revision; PolicyError when the older one is the one in force.
    """
    with transaction_lock(LOCK):
        base = _base(base_version)
        if base is None or base.pk == revision.pk:
            raise PolicyError("This revision is in force.")
        living = set(InstallGroup.objects.values_list("pk", flat=True)) | {0}
        pins = [pin for pin in _pins_of(revision) if pin.group_number in living]
        _restore_pins(pins)
        return _store(base, pins, actor=actor, reason=reason, rollback_of=revision)


def _base(base_version: int | None) -> PolicyRevision | None:
    base = latest_revision()
    newest = base.version if base else 0
    if base_version is not None and base_version != newest:
        raise BaseStale(f"Revision {newest} was published meanwhile; plan again.")
    return base


def _pins_of(revision: PolicyRevision | None) -> list[PinSpec]:
    return [] if revision is None else [PinSpec.from_dict(pin) for pin in revision.pins]


def _store(
    base: PolicyRevision | None,
    pins: Sequence[PinSpec],
    *,
    actor: Actor,
    reason: str,
    rollback_of: PolicyRevision | None = None,
) -> PolicyRevision:
    faults = faults_of(pins)
    if faults:
        raise PolicyError(*faults)
    version = (base.version if base else 0) + 1
    document = canonical_json({"schema": 1, "pins": [pin.to_dict() for pin in pins]}).decode()
    revision = PolicyRevision.objects.create(
        version=version,
        base_version=base.version if base else 0,
        rollback_of=rollback_of,
        document=document,
        sha256=sha256_hex(document.encode()),
        reason=reason[:300],
        created_by=str(actor)[:200],
    )
    _store_targets(revision, base, pins)
    mark_pending(moment=now())
    record_change(
        actor=actor,
        action="roll_back" if rollback_of else "publish",
        target=revision,
        pre=None if base is None else {"version": base.version, "sha256": base.sha256},
        post={
            "version": version,
            "sha256": revision.sha256,
            "rollback_of": rollback_of.version if rollback_of else 0,
            "pins": {_name(pin): pin.value for pin in pins},
        },
        reason=reason,
    )
    return revision


def _name(pin: PinSpec) -> str:
    return f"{pin.group_name}/{pin.key}" if pin.group_number else pin.key


def _store_targets(
    revision: PolicyRevision, base: PolicyRevision | None, pins: Sequence[PinSpec]
) -> None:
    at_ns, rollback_of = now_ns(), revision.rollback_of.version if revision.rollback_of else 0
    earlier = earlier_keys()
    held = {target.group_number: target.bundle for target in _targets_of(base)}
    for number, name in groups_of(pins).items():
        bundle = compile_bundle(
            pins,
            group_number=number,
            fleet_id=fleet_id(),
            version=revision.version,
            earlier_keys=earlier,
            rollback_of=rollback_of,
            at_ns=at_ns,
        )
        PolicyTarget.objects.create(
            revision=revision,
            group_number=number,
            group_name=name,
            bundle=_stored_bundle(bundle, held.get(number), revision),
        )


def _targets_of(revision: PolicyRevision | None) -> Sequence[PolicyTarget]:
    if revision is None:
        return []
    return list(revision.targets.select_related("bundle"))


def earlier_keys() -> set[str]:
    """Every dotted key that any revision ever pinned, for anyone."""
    documents = PolicyRevision.objects.values_list("document", flat=True)
    return {str(pin["key"]) for text in documents.iterator() for pin in json.loads(text)["pins"]}


def _stored_bundle(
    bundle: Bundle, held: PolicyBundle | None, revision: PolicyRevision
) -> PolicyBundle:
    """The held bundle when nothing in it changes (its installs then fetch nothing), else a new."""
    if held is not None and same_content(bundle, Bundle.from_dict(json.loads(held.payload))):
        return held
    payload = canonical_json(bundle.to_dict())
    stored, _created = PolicyBundle.objects.get_or_create(
        sha256=sha256_hex(payload),
        defaults={
            "revision": revision,
            "payload": payload.decode(),
            "size_bytes": len(payload),
        },
    )
    return stored


def _restore_pins(pins: Sequence[PinSpec]) -> None:
    Pin.objects.all().delete()
    Pin.objects.bulk_create(
        Pin(
            pk=pin.pin_id,
            scope=PinScope.GROUP if pin.group_number else PinScope.FLEET,
            group_id=pin.group_number or None,
            key=pin.key,
            value=pin.value,
            level=pin.level,
            is_locked=pin.is_locked,
            reason=pin.reason,
            ticket=pin.ticket,
            contact=pin.contact,
            expires_at=ns_to_datetime(pin.expires_ns) if pin.expires_ns else None,
            on_expiry=pin.on_expiry,
        )
        for pin in pins
    )
