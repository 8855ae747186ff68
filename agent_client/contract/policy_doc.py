"""The signed policy documents: root, bundle, assignment; and the check-in.

Source: TUF's roles and version rules (The Update Framework, specification
1.0.33): root pins the keys, the bundle is the target, the assignment is the
timestamp. Times are integer nanoseconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Final, Self

TYPE_ROOT: Final = "application/vnd.hermes-fleet.root.v1+json"
TYPE_BUNDLE: Final = "application/vnd.hermes-fleet.bundle.v1+json"
TYPE_ASSIGNMENT: Final = "application/vnd.hermes-fleet.assignment.v1+json"
SCHEMA: Final = 1
MAX_BUNDLE_BYTES: Final = 256 * 1024
ASSIGNMENT_LIFE_S: Final = 24 * 3600
"""An agent that hears nothing for a day holds its policy as ``stale``."""

CHECKIN_STATUSES: Final = ("pending", "applying", "applied", "failed", "rolled_back", "held")
INSTALL_STATES: Final = (
    "in_sync",
    "pending",
    "applying",
    "failed",
    "drifted",
    "bypassed",
    "stale",
    "held",
    "quarantined",
    "offline",
    "never_seen",
)
DRIFT_CAUSES: Final = (
    "user_environment",
    "unreadable_file",
    "malformed_yaml",
    "safe_mode",
    "plugin_disabled",
    "older_process",
    "foreign_key",
    "missing_file",
    "unknown",
)


class _Document:
    __slots__ = ()

    def to_dict(self) -> dict[str, object]:
        """The JSON object; sign its canonical bytes."""
        return asdict(self)  # type: ignore[call-overload, no-any-return]  # every subclass is a dataclass

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """A document from parsed JSON; unknown keys are ignored.

        Errors: ValueError naming the first key that is missing or of the wrong type.
        """
        if not isinstance(data, Mapping):
            raise ValueError("not an object")  # noqa: TRY004  # one error for one broken promise
        values: dict[str, object] = {}
        for name, spec in cls.__dataclass_fields__.items():  # type: ignore[attr-defined]  # as above
            if name not in data:
                if spec.name in cls._required():
                    raise ValueError(f"{name}: missing")
                continue
            value = data[name]
            if not _fits(str(spec.type), value):
                raise ValueError(f"{name}: wrong type")
            values[name] = tuple(value) if str(spec.type).startswith("tuple") else value
        return cls(**values)

    @classmethod
    def _required(cls) -> frozenset[str]:
        return frozenset()


def _fits(annotation: str, value: object) -> bool:
    if annotation == "int":
        return isinstance(value, int) and not isinstance(value, bool)
    if annotation == "str":
        return isinstance(value, str)
    if annotation == "bool":
        return isinstance(value, bool)
    if annotation.startswith("dict"):
        return isinstance(value, dict)
    return isinstance(value, list | tuple)


@dataclass(frozen=True, slots=True)
class Root(_Document):
    """Who may sign what. Self-signed by the key whose fingerprint the enrollment string pins.

    Shape: ``keys`` maps key id to ``{"scheme": "ed25519", "public": <64 hex>}``;
    ``roles`` maps root | bundle | assignment to ``{"key_ids": [...], "threshold": n}``.
    """

    fleet_id: str
    version: int
    issued_ns: int
    expires_ns: int
    keys: dict[str, dict[str, str]]
    roles: dict[str, dict[str, object]]
    schema: int = SCHEMA

    @classmethod
    def _required(cls) -> frozenset[str]:
        return frozenset({"fleet_id", "version", "issued_ns", "expires_ns", "keys", "roles"})


@dataclass(frozen=True, slots=True)
class Bundle(_Document):
    """Resolved content, immutable, addressed by its digest, shared by installs that resolve alike.

    Shape: ``mandatory`` and ``recommended`` are nested configuration; ``meta`` maps a dotted key to
    its source (layer, policy_id, revision, reason, ticket, contact, expires_ns, on_expiry);
    ``delete`` lists dotted keys whose pin is removed. Omission never deletes.
    """

    fleet_id: str
    version: int
    mandatory: dict[str, object]
    schema: int = SCHEMA
    rollback_of: int = 0
    not_before_ns: int = 0
    min_agent: str = ""
    recommended: dict[str, object] = field(default_factory=dict)
    constraints: tuple[dict[str, object], ...] = ()
    meta: dict[str, dict[str, object]] = field(default_factory=dict)
    delete: tuple[str, ...] = ()

    @classmethod
    def _required(cls) -> frozenset[str]:
        return frozenset({"fleet_id", "version", "mandatory"})


@dataclass(frozen=True, slots=True)
class Assignment(_Document):
    """Which bundle one install holds; short-lived, its version only ever rises."""

    fleet_id: str
    install_id: str
    version: int
    bundle_sha256: str
    issued_ns: int
    expires_ns: int
    poll_seconds: int
    phase_seconds: int = 0
    stage: str = "all"
    nonce: str = ""
    schema: int = SCHEMA

    @classmethod
    def _required(cls) -> frozenset[str]:
        return frozenset(
            {
                "fleet_id",
                "install_id",
                "version",
                "bundle_sha256",
                "issued_ns",
                "expires_ns",
                "poll_seconds",
            }
        )


@dataclass(frozen=True, slots=True)
class CheckIn(_Document):
    """What an install holds, what it wrote, what is effective, and how it fares.

    Shape: ``drift`` items are ``{"key", "want", "got", "cause", "first_seen_ns"}``;
    ``reporter`` is service (knows what was written) or plugin (knows what is effective).
    """

    seq: int
    status: str
    reporter: str = "service"
    reason: str = ""
    assignment_version: int = 0
    bundle_sha256: str = ""
    desired_sha256: str = ""
    written_sha256: str = ""
    effective_sha256: str = ""
    nonce_seen: str = ""
    drift: tuple[dict[str, object], ...] = ()
    health: dict[str, object] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    @classmethod
    def _required(cls) -> frozenset[str]:
        return frozenset({"seq", "status"})
