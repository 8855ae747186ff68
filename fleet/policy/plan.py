"""What publishing would change: pins that differ, and per group the leaves, deletes first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from django.db.models import Count

from agent_client.contract.policy_keys import KEYS
from fleet.lib.clock import datetime_to_ns, now_ns
from fleet.models import Install, InstallStatus, Pin, PolicyRevision
from fleet.policy.compile import EVERYONE, PinSpec, PolicyError, compile_bundle, faults_of, resolve

ChangeKind = Literal["delete", "change", "add"]
_ORDER: Mapping[ChangeKind, int] = {"delete": 0, "change": 1, "add": 2}


@dataclass(frozen=True, slots=True)
class LeafChange:
    """One key that changes for a group. ``is_loosening``: a plane opens wider than before."""

    kind: ChangeKind
    key: str
    before: object
    after: object
    level: str
    is_loosening: bool


@dataclass(frozen=True, slots=True)
class TargetPlan:
    """What changes for one group's installs; group 0 is everybody else."""

    group_number: int
    group_name: str
    install_count: int
    changes: tuple[LeafChange, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole change: every group, and what forbids it. ``base_version`` guards the publish."""

    base_version: int
    pins: tuple[PinSpec, ...]
    targets: tuple[TargetPlan, ...]
    faults: tuple[str, ...]
    has_changes: bool

    @property
    def install_count(self) -> int:
        """Installs for which at least one key changes."""
        return sum(target.install_count for target in self.targets if target.changes)

    @property
    def loosenings(self) -> tuple[LeafChange, ...]:
        """Every change that opens a plane, over all groups."""
        return tuple(
            change for target in self.targets for change in target.changes if change.is_loosening
        )


def plan_publish() -> Plan:
    """What publishing the pins as they stand would do. Reads only."""
    base = latest_revision()
    held = [] if base is None else [PinSpec.from_dict(pin) for pin in base.pins]
    pins = freeze_pins(held, version=(base.version if base else 0) + 1)
    at_ns, groups = now_ns(), groups_of(pins, held)
    counts = _install_counts(set(groups))
    targets = tuple(
        TargetPlan(
            number, groups[number], counts.get(number, 0), diff(held, pins, number, at_ns=at_ns)
        )
        for number in sorted(groups)
    )
    return Plan(
        base_version=base.version if base else 0,
        pins=tuple(pins),
        targets=targets,
        faults=_faults(pins, groups, at_ns=at_ns),
        has_changes=[pin.to_dict() for pin in pins] != [pin.to_dict() for pin in held],
    )


def latest_revision() -> PolicyRevision | None:
    """The revision in force; None before the first publish."""
    return PolicyRevision.objects.order_by("-version").first()


def freeze_pins(held: Sequence[PinSpec], *, version: int) -> list[PinSpec]:
    """The edited pins in frozen form, in a stable order.

    One that is already published unchanged keeps its revision number, so that an
    untouched group's bundle keeps its bytes.
    """
    published = {(pin.group_number, pin.key): pin for pin in held}
    frozen = []
    for pin in Pin.objects.select_related("group").order_by("group_id", "key"):
        spec = spec_of(pin, version=version)
        earlier = published.get((spec.group_number, spec.key))
        is_same = earlier is not None and spec.same_as(earlier)
        frozen.append(earlier if earlier is not None and is_same else spec)
    return sorted(frozen, key=lambda spec: (spec.group_number, spec.key))


def spec_of(pin: Pin, *, version: int) -> PinSpec:
    """A pin's frozen form."""
    return PinSpec(
        pin_id=pin.pk,
        key=pin.key,
        value=pin.value,
        group_number=pin.group_id or EVERYONE,
        group_name=pin.group.name if pin.group else "",
        level=pin.level,
        is_locked=pin.is_locked,
        reason=pin.reason,
        ticket=pin.ticket,
        contact=pin.contact,
        expires_ns=datetime_to_ns(pin.expires_at) if pin.expires_at else 0,
        on_expiry=pin.on_expiry,
        revision=version,
    )


def groups_of(*pin_lists: Sequence[PinSpec]) -> dict[int, str]:
    """Number and name of each group with pins of its own, and group 0."""
    groups = {EVERYONE: ""}
    for pins in pin_lists:
        groups.update({pin.group_number: pin.group_name for pin in pins if pin.group_number})
    return groups


def diff(
    before: Sequence[PinSpec], after: Sequence[PinSpec], group_number: int, *, at_ns: int
) -> tuple[LeafChange, ...]:
    """The leaves that change for a group, deletes first, then by key. Pure."""
    old = resolve(before, group_number=group_number)
    new = resolve(after, group_number=group_number, at_ns=at_ns)
    changes = [
        _leaf(key, old.get(key), new.get(key))
        for key in old.keys() | new.keys()
        if _said(old.get(key)) != _said(new.get(key))
    ]
    return tuple(sorted(changes, key=lambda change: (_ORDER[change.kind], change.key)))


def _said(pin: PinSpec | None) -> object:
    return None if pin is None else replace(pin, revision=0, pin_id=0)


def _leaf(key: str, old: PinSpec | None, new: PinSpec | None) -> LeafChange:
    kind: ChangeKind = "add" if old is None else "delete" if new is None else "change"
    winner = new or old
    return LeafChange(
        kind=kind,
        key=key,
        before=old.value if old else None,
        after=new.value if new else None,
        level=winner.level if winner else "",
        is_loosening=is_loosening(key, old, new),
    )


def is_loosening(key: str, old: PinSpec | None, new: PinSpec | None) -> bool:
    """Whether a change lets more leave a machine than before it. Pure.

    Either the new value opens a plane, or a pin that kept one shut is gone or only advises.
    """
    entry = KEYS.get(key)
    if entry is None:
        return False
    held_shut = old is not None and old.level == "mandatory" and _is_tight(key, old.value)
    if new is None or new.level != "mandatory":
        return held_shut
    if new.value in entry.loosens:
        return old is None or old.value not in entry.loosens
    return held_shut and not _is_tight(key, new.value)


def _is_tight(key: str, value: object) -> bool:
    entry = KEYS[key]
    if entry.loosens:
        return value not in entry.loosens
    return entry.type == "bool" and entry.default is True and value is False


def _install_counts(groups: set[int]) -> dict[int, int]:
    """Installs by bundle: those of a group without pins of its own count under 0."""
    counts: dict[int, int] = {}
    rows = (
        Install.objects.exclude(status=InstallStatus.REVOKED)
        .order_by()
        .values_list("group_id")
        .annotate(count=Count("pk"))
    )
    for group_id, count in rows:
        number = group_id if group_id in groups else EVERYONE
        counts[number] = counts.get(number, 0) + count
    return counts


def _faults(pins: Sequence[PinSpec], groups: Mapping[int, str], *, at_ns: int) -> tuple[str, ...]:
    faults = list(faults_of(pins))
    for number, name in groups.items():
        try:
            compile_bundle(pins, group_number=number, fleet_id="", version=1, at_ns=at_ns)
        except PolicyError as error:
            faults += [f"{name or 'fleet'}: {fault}" for fault in error.faults]
    return tuple(faults)
