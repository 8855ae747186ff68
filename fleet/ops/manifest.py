"""What a backup says of itself: from which console, how much of what, and each member's digest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from fleet.ops.files import OpsError

FORMAT: Final = 1
NAME: Final = "manifest.json"
MAX_BYTES: Final = 16 * 1024**2


@dataclass(frozen=True, slots=True)
class Member:
    """One file of the archive."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class TableFacts:
    """How many rows a table has, and their fingerprint; "" where the file's digest says it."""

    row_count: int
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class Manifest:
    """The whole. ``migrations`` are "app.name", in the order in which they were applied."""

    format: int
    made_at: str
    product_version: str
    engine: str
    engine_version: str
    tool_version: str
    fleet_id: str
    hostname: str
    has_secrets: bool
    migrations: tuple[str, ...] = ()
    tables: dict[str, TableFacts] = field(default_factory=dict)
    members: dict[str, Member] = field(default_factory=dict)

    @property
    def row_count(self) -> int:
        """Of all tables."""
        return sum(table.row_count for table in self.tables.values())

    def to_json(self) -> bytes:
        """As it stands in the archive."""
        return (json.dumps(asdict(self), indent=1, sort_keys=True) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """Read one. Errors: OpsError for anything that is none, or of a later format."""
        try:
            found: dict[str, Any] = dict(json.loads(data))  # Any: looked at field by field
            texts = ("made_at", "product_version", "engine", "engine_version", "tool_version")
            if int(found["format"]) > FORMAT:
                raise OpsError("This backup was written by a newer version; install that one.")
            return cls(
                format=int(found["format"]),
                **{name: str(found[name]) for name in (*texts, "fleet_id", "hostname")},
                has_secrets=bool(found["has_secrets"]),
                migrations=tuple(str(name) for name in found["migrations"]),
                tables=_tables(found["tables"]),
                members=_members(found["members"]),
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise OpsError(f"{NAME} cannot be read ({type(error).__name__}).") from error


def _tables(found: Mapping[str, Mapping[str, object]]) -> dict[str, TableFacts]:
    return {
        str(name): TableFacts(int(str(each["row_count"])), str(each.get("fingerprint", "")))
        for name, each in found.items()
    }


def _members(found: Mapping[str, Mapping[str, object]]) -> dict[str, Member]:
    return {
        str(name): Member(str(each["sha256"]), int(str(each["size_bytes"])))
        for name, each in found.items()
    }
