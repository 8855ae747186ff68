"""What an install remembers of its policy: trust, what is in force, and who owns which pin.

Two records. ``$HERMES_HOME/telemetry/policy/state.json`` is the install's own memory. The
ownership record ``fleet-pins.json`` lies beside the managed configuration, as safe from a user's
hand as that file itself, and readable by all: it says which keys are ours to change or remove,
and tells a governed person who pinned what and why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Final, TypeVar

from agent_client.files import read_json, telemetry_dir, write_json

ROOT_FILE: Final = "root.json"
ASSIGNMENT_FILE: Final = "assignment.json"
STATE_FILE: Final = "state.json"
OWNERSHIP_FILE: Final = "fleet-pins.json"

KeyPath = tuple[str, ...]
"""A leaf's place in nested maps. Not a dotted text: a header's name may hold dots."""


@dataclass(frozen=True, slots=True)
class Trust:
    """The highest the install has accepted, for one fleet and one install id; it only rises."""

    fleet_id: str = ""
    install_id: str = ""
    root_version: int = 0
    assignment_version: int = 0
    bundle_sha256: str = ""
    last_issued_ns: int = 0


@dataclass(frozen=True, slots=True)
class Applied:
    """The policy that was last written to managed scope; zeros before the first."""

    assignment_version: int = 0
    bundle_version: int = 0
    bundle_sha256: str = ""
    managed_dir: str = ""
    at_ns: int = 0
    nonce: str = ""


@dataclass(frozen=True, slots=True)
class PolicyState:
    """Everything in state.json. ``drift_seen`` maps a dotted key to when it was first seen."""

    trust: Trust = field(default_factory=Trust)
    applied: Applied = field(default_factory=Applied)
    etag: str = ""
    expires_ns: int = 0
    checkin_seq: int = 0
    drift_seen: dict[str, int] = field(default_factory=dict)
    last_sync_ns: int = 0
    last_status: str = ""
    last_reason: str = ""
    last_contact_ns: int = 0
    poll_seconds: int = 0

    def for_install(self, fleet_id: str, install_id: str) -> PolicyState:
        """This state when it is of that install; else a fresh one that keeps only the counter.

        Versions are monotonic per install and fleet: those of another would refuse every document.
        """
        if (self.trust.fleet_id, self.trust.install_id) == (fleet_id, install_id):
            return self
        trust = Trust(fleet_id=fleet_id, install_id=install_id)
        return PolicyState(trust=trust, checkin_seq=self.checkin_seq)


@dataclass(frozen=True, slots=True)
class Ownership:
    """The pins a fleet wrote into one managed scope, with the leaf's digest as written."""

    fleet_id: str = ""
    install_id: str = ""
    home: str = ""
    console_url: str = ""
    assignment_version: int = 0
    bundle_version: int = 0
    bundle_sha256: str = ""
    written_ns: int = 0
    paths: dict[KeyPath, str] = field(default_factory=dict)
    meta: dict[str, dict[str, object]] = field(default_factory=dict)


def policy_dir(home: Path) -> Path:
    """Where a home keeps the last good documents and its state."""
    return telemetry_dir(home) / "policy"


def bundle_path(home: Path, sha256: str) -> Path:
    """The kept envelope of a bundle, by its payload's digest."""
    return policy_dir(home) / f"bundle-{sha256}.json"


def load_state(home: Path) -> PolicyState:
    """The kept state; a fresh one when it is absent or unusable. Never raises.

    Fields of the wrong type are dropped one by one: a damaged counter does not unpin anything.
    """
    data = read_json(policy_dir(home) / STATE_FILE) or {}
    state = _fill(PolicyState(), data)
    seen = data.get("drift_seen")
    kept = {str(k): v for k, v in seen.items() if _is_int(v)} if isinstance(seen, dict) else {}
    return replace(
        state,
        trust=_fill(Trust(), data.get("trust")),
        applied=_fill(Applied(), data.get("applied")),
        drift_seen=kept,
    )


def save_state(home: Path, state: PolicyState) -> None:
    """Keep the state, 0600, atomically. Errors: OSError."""
    write_json(policy_dir(home) / STATE_FILE, asdict(state))


def load_ownership(managed_dir: Path) -> Ownership:
    """The record beside a managed configuration; an empty one when there is none. Never raises."""
    data = read_json(managed_dir / OWNERSHIP_FILE) or {}
    owned: dict[KeyPath, str] = {}
    listed = data.get("paths")
    for item in listed if isinstance(listed, list) else []:
        path = item.get("path") if isinstance(item, dict) else None
        if isinstance(path, list) and path and all(isinstance(part, str) for part in path):
            owned[tuple(path)] = str(item.get("sha256", ""))
    meta = data.get("meta")
    kept = (
        {str(k): v for k, v in meta.items() if isinstance(v, dict)}
        if isinstance(meta, dict)
        else {}
    )
    return replace(_fill(Ownership(), data), paths=owned, meta=kept)


def ownership_document(ownership: Ownership) -> dict[str, object]:
    """The record's JSON form."""
    values: dict[str, object] = asdict(replace(ownership, paths={}))
    values["paths"] = [
        {"path": list(path), "sha256": digest} for path, digest in sorted(ownership.paths.items())
    ]
    return {"schema": 1, **values}


T = TypeVar("T", PolicyState, Trust, Applied, Ownership)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _fill(blank: T, data: object) -> T:
    """The scalar fields of a record whose types fit; the others keep their default."""
    if not isinstance(data, Mapping):
        return blank
    known: dict[str, object] = {}
    for name in blank.__dataclass_fields__:
        default, value = getattr(blank, name), data.get(name)
        if isinstance(default, int | str) and type(value) is type(default):
            known[name] = value
    return replace(blank, **known)  # type: ignore[arg-type]  # each value has its default's type
