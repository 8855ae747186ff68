"""Pure: frozen pins and a group become the bundle its installs get; no I/O, no clock."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final, Self

from agent_client.contract.canonical import canonical_json
from agent_client.contract.policy_doc import MAX_BUNDLE_BYTES, Bundle
from agent_client.contract.policy_keys import key_fault, nest, value_fault

MANDATORY: Final = "mandatory"
EVERYONE: Final = 0
"""Group number of installs without a group, and of groups that have no pin of their own."""


class PolicyError(Exception):
    """Pins that cannot become a bundle; ``faults`` says each in one sentence."""

    def __init__(self, *faults: str) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


@dataclass(frozen=True, slots=True)
class PinSpec:
    """A pin as it is frozen into a revision. ``group_number`` is 0 for the fleet's pins.

    ``revision`` is the one that first published it in this form; ``expires_ns`` 0 is never.
    """

    pin_id: int
    key: str
    value: object
    group_number: int = EVERYONE
    group_name: str = ""
    level: str = MANDATORY
    is_locked: bool = False
    reason: str = ""
    ticket: str = ""
    contact: str = ""
    expires_ns: int = 0
    on_expiry: str = "hold"
    revision: int = 0

    def to_dict(self) -> dict[str, object]:
        """The JSON object frozen into a revision's document."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Self:
        """A pin of a revision's document; unknown keys are ignored."""
        known = {name: data[name] for name in cls.__dataclass_fields__ if name in data}
        return cls(**known)  # type: ignore[arg-type]  # our own document, written by to_dict

    def same_as(self, other: PinSpec) -> bool:
        """Whether two frozen forms say the same, whenever they were published."""
        return replace(self, revision=0) == replace(other, revision=0)


def faults_of(pins: Iterable[PinSpec]) -> tuple[str, ...]:
    """Every reason why pins could not be published, one sentence each."""
    faults = []
    for pin in pins:
        fault = key_fault(pin.key) or value_fault(pin.key, pin.value)
        if fault:
            faults.append(f"{pin.key}: {fault}")
    return tuple(faults)


def resolve(pins: Iterable[PinSpec], *, group_number: int, at_ns: int = 0) -> dict[str, PinSpec]:
    """The winning pin of each key for the installs of a group.

    The group's pin wins, unless the fleet's is locked, or the fleet's is mandatory where
    the group only recommends. A pin past its end that releases its key does not count.
    """
    winners: dict[str, PinSpec] = {}
    # The fleet's first, so that a group's pin meets what it wants to overrule.
    for pin in sorted(pins, key=lambda pin: (pin.group_number, pin.key)):
        if pin.group_number not in {EVERYONE, group_number} or _is_released(pin, at_ns):
            continue
        held = winners.get(pin.key)
        if held is None or _overrules(pin, held):
            winners[pin.key] = pin
    return winners


def _is_released(pin: PinSpec, at_ns: int) -> bool:
    return pin.on_expiry == "release" and 0 < pin.expires_ns <= at_ns


def _overrules(pin: PinSpec, held: PinSpec) -> bool:
    if held.is_locked:
        return False
    return pin.level == MANDATORY or held.level != MANDATORY


def compile_bundle(
    pins: Sequence[PinSpec],
    *,
    group_number: int,
    fleet_id: str,
    version: int,
    earlier_keys: Iterable[str] = (),
    rollback_of: int = 0,
    at_ns: int = 0,
) -> Bundle:
    """The bundle of a group. ``earlier_keys`` are all keys ever published to anyone.

    Those of them that nothing binds now are named in ``delete``: an install that moves
    between groups, or slept through revisions, is cleaned too.
    Errors: PolicyError when one pin lies inside another or the bundle is too large.
    """
    winners = resolve(pins, group_number=group_number, at_ns=at_ns)
    try:
        mandatory = nest({key: pin.value for key, pin in winners.items() if _binds(pin)})
        recommended = nest({key: pin.value for key, pin in winners.items() if not _binds(pin)})
    except ValueError as error:
        raise PolicyError(str(error)) from error
    bundle = Bundle(
        fleet_id=fleet_id,
        version=version,
        mandatory=mandatory,
        recommended=recommended,
        rollback_of=rollback_of,
        meta={key: meta_of(pin) for key, pin in sorted(winners.items())},
        # A pin softened to a recommendation binds no more: it is taken out of managed scope too.
        delete=tuple(sorted(set(earlier_keys) - {k for k, p in winners.items() if _binds(p)})),
    )
    if len(canonical_json(bundle.to_dict())) > MAX_BUNDLE_BYTES:
        raise PolicyError("The bundle is larger than 256 KiB.")
    return bundle


def _binds(pin: PinSpec) -> bool:
    return pin.level == MANDATORY


def meta_of(pin: PinSpec) -> dict[str, object]:
    """Where a key's value comes from and whom to ask, as it travels in ``Bundle.meta``."""
    return {
        "layer": "group" if pin.group_number else "fleet",
        "layer_name": pin.group_name,
        "policy_id": str(pin.pin_id),
        "revision": pin.revision,
        "level": pin.level,
        "merge": "replace",
        "locked": pin.is_locked,
        "reason": pin.reason,
        "ticket": pin.ticket,
        "contact": pin.contact,
        "expires_ns": pin.expires_ns,
        "on_expiry": pin.on_expiry,
    }


def same_content(left: Bundle, right: Bundle) -> bool:
    """Whether two bundles ask the same of an install, whatever revision they came with."""
    blank = {"version": 0, "rollback_of": 0}
    return replace(left, **blank) == replace(right, **blank)  # type: ignore[arg-type]  # two ints
