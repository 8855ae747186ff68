"""Who pinned what, why, and whether it holds: for the person at the machine.

Read from the record beside the managed configuration, so that it also answers for a user who
cannot read the root service's home. No network, nothing written, never raises.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from agent_client import config
from agent_client.contract.policy_keys import KEYS
from agent_client.credential import load_credential
from agent_client.policy.leaves import dotted, find, leaves, same
from agent_client.policy.state import (
    KeyPath,
    Ownership,
    PolicyState,
    load_ownership,
    load_state,
)

Holder = Literal["fleet", "administrator"]
STATES: Final = ("none", "in_sync", "drifted", "stale", "held", "failed", "pending", "offline")


@dataclass(frozen=True, slots=True)
class PinView:
    """One pinned key of managed scope. Times are ns, 0 for never; texts are "" when unknown."""

    key: str
    value: object
    effective: object
    in_force: bool
    holder: Holder
    layer: str = ""
    revision: int = 0
    reason: str = ""
    ticket: str = ""
    contact: str = ""
    expires_ns: int = 0

    def to_dict(self) -> dict[str, object]:
        """For ``--json``."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class PolicyView:
    """The policy of a home: ``state`` is one of STATES; ``pins`` in key order."""

    state: str
    reason: str
    managed_dir: str
    fleet_id: str
    console_url: str
    assignment_version: int
    bundle_version: int
    written_ns: int
    last_sync_ns: int
    expires_ns: int
    pins: tuple[PinView, ...]
    problems: tuple[config.Problem, ...]

    def fleet_pins(self) -> tuple[PinView, ...]:
        """The pins that the fleet wrote."""
        return tuple(pin for pin in self.pins if pin.holder == "fleet")


def view_policy(home: Path | None = None, *, now_ns: int | None = None) -> PolicyView:
    """The policy in force for a home."""
    layers = config.read_layers(home, expand=False)  # to be shown: no value of the environment
    owned = Ownership() if layers.managed_dir is None else load_ownership(layers.managed_dir)
    state = load_state(layers.home)
    credential = load_credential(layers.home)
    if credential is not None:
        state = state.for_install(credential.fleet_id, credential.install_id)
    pins = _pins(layers, owned)
    name, reason = _state_of(state, owned, pins, time.time_ns() if now_ns is None else now_ns)
    managed_dir = "" if layers.managed_dir is None else str(layers.managed_dir)
    written_to = state.applied.managed_dir  # "" for a user whose machine's service syncs
    if name == "in_sync" and written_to not in {"", managed_dir}:
        name, reason = "drifted", f"it stands in {written_to}, which is not read any more"
    return PolicyView(
        state=name,
        reason=reason,
        managed_dir=managed_dir,
        fleet_id=owned.fleet_id or (credential.fleet_id if credential else ""),
        console_url=owned.console_url or (credential.console_url if credential else ""),
        assignment_version=owned.assignment_version,
        bundle_version=owned.bundle_version,
        written_ns=owned.written_ns,
        last_sync_ns=state.last_sync_ns,
        expires_ns=state.expires_ns,
        pins=pins,
        problems=tuple(p for p in layers.problems if p.code.startswith("managed")),
    )


def _pins(layers: config.Layers, owned: Ownership) -> tuple[PinView, ...]:
    """Pins of the file, one for each key of the fleet's, one for each leaf of others'."""
    effective = layers.effective()
    ours: dict[str, list[KeyPath]] = {}
    others: list[KeyPath] = []
    for path in leaves(layers.managed):
        if path in owned.paths:
            ours.setdefault(_pin_key(path, owned), []).append(path)
        else:
            others.append(path)
    missing: dict[str, list[KeyPath]] = {}
    for path in owned.paths:
        if not find(layers.managed, path)[0]:
            missing.setdefault(_pin_key(path, owned), []).append(path)
    found = [_fleet_pin(key, layers.managed, effective, owned) for key in {**missing, **ours}]
    for path in others:
        value = find(layers.managed, path)[1]
        got = find(effective, path)[1]
        found.append(PinView(dotted(path), value, got, same(value, got), "administrator"))
    return tuple(sorted(found, key=lambda pin: pin.key))


def _pin_key(path: KeyPath, owned: Ownership) -> str:
    """The pin a leaf belongs to: the longest key with a source of its own, else the leaf."""
    for length in range(len(path), 0, -1):
        key = ".".join(path[:length])
        if key in owned.meta or key in KEYS:
            return key
    return dotted(path)


def _fleet_pin(
    key: str, managed: dict[str, object], effective: dict[str, object], owned: Ownership
) -> PinView:
    path = tuple(key.split("."))
    is_written, value = find(managed, path)
    is_there, got = find(effective, path)
    meta = owned.meta.get(key, {})

    def text(name: str) -> str:
        return str(meta.get(name) or "")[:500]

    def whole(name: str) -> int:
        number = meta.get(name)
        return number if isinstance(number, int) and not isinstance(number, bool) else 0

    return PinView(
        key=key,
        value=value,
        effective=got,
        in_force=is_written and is_there and _holds(value, got),
        holder="fleet",
        layer=text("layer"),
        revision=whole("revision"),
        reason=text("reason"),
        ticket=text("ticket"),
        contact=text("contact"),
        expires_ns=whole("expires_ns"),
    )


def _holds(value: object, got: object) -> bool:
    """Whether a pinned value is in force; a map may have more keys below it from the user."""
    if isinstance(value, dict) and isinstance(got, dict):
        return all(key in got and _holds(item, got[key]) for key, item in value.items())
    return same(value, got)


def _state_of(
    state: PolicyState, owned: Ownership, pins: tuple[PinView, ...], now_ns: int
) -> tuple[str, str]:
    if state.last_status in {"held", "failed", "pending"}:
        return state.last_status, state.last_reason
    if not owned.paths and not state.applied.assignment_version:
        return "none", ""
    if any(not pin.in_force for pin in pins if pin.holder == "fleet") or state.drift_seen:
        return "drifted", ", ".join(state.drift_seen)[:300]
    if state.expires_ns and state.expires_ns <= now_ns:
        return "stale", "no word from the console; the last policy stays in force"
    if state.last_status == "offline":
        return "offline", state.last_reason
    return "in_sync", ""
