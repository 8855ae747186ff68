"""Where other apps join in: what they check before an upgrade, and mend after a restore."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Severity = Literal["ok", "warn", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: how bad it is, what was found, and what to do."""

    name: str
    severity: Severity
    detail: str
    mend: str = ""


Risk = Literal["online", "window"]


@dataclass(frozen=True, slots=True)
class Stated:
    """What a person says of a migration whose risk cannot be read off its operations."""

    risk: Risk
    why: str


type Look = Callable[[], list[Finding]]
type Mend = Callable[[], str]

_doctors: dict[str, Look] = {}
_before_upgrade: dict[str, Look] = {}
_after_restore: dict[str, Mend] = {}
_for_rehearsal: dict[str, Mend] = {}
_live: set[str] = {"fleet_install", "fleet_changerecord", "fleet_checkinrecord"}
_stated: dict[str, Stated] = {
    "fleet.0001_fleet_domain": Stated("online", "makes the first tables, and their triggers"),
}


def register_doctor(name: str, look: Look) -> None:
    """Let an app add what ``doctor`` looks at when the database answers."""
    _doctors[name] = look


def register_before_upgrade(name: str, look: Look) -> None:
    """Let an app say what stands against an upgrade now."""
    _before_upgrade[name] = look


def register_after_restore(name: str, mend: Mend) -> None:
    """Let an app mend its tables in a restored database; it says what it did, "" for nothing."""
    _after_restore[name] = mend


def register_for_rehearsal(name: str, switch_off: Mend) -> None:
    """Let an app switch off what it sends, in a restored copy; it says what, "" for nothing."""
    _for_rehearsal[name] = switch_off


def doctors() -> list[Look]:
    """What other apps look at."""
    return list(_doctors.values())


def before_upgrade() -> list[Look]:
    """What other apps look at before an upgrade."""
    return list(_before_upgrade.values())


def after_restore() -> list[Mend]:
    """What other apps mend after a restore."""
    return list(_after_restore.values())


def for_rehearsal() -> list[Mend]:
    """What other apps switch off in a copy."""
    return list(_for_rehearsal.values())


def register_live_tables(*tables: str) -> None:
    """Let an app name tables that are written all the time, whose rows nothing may lose."""
    _live.update(tables)


def register_stated(name: str, stated: Stated) -> None:
    """Let an app say how risky a migration is: "app.name"."""
    _stated[name] = stated


def live_tables() -> frozenset[str]:
    """Tables that are written all the time."""
    return frozenset(_live)


def stated(name: str) -> Stated | None:
    """What was said of a migration."""
    return _stated.get(name)
