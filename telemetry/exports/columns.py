"""What a column of an export is: its name, its type, its unit and what it says. A stable schema."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["uuid", "id", "text", "json", "digest", "int", "float", "flag", "time"]

TEXTS: Final = frozenset({"id", "text", "json"})
"""Kinds that come from agents and people: redacted again on the way out."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column. ``unit``: ns, ms, us, nusd, usd, tokens, count, UTC or "".

    Shape by kind: ``time`` is RFC 3339 in UTC as text and a timestamp of microseconds in Parquet;
    ``json`` is a text that holds JSON; ``int`` has 64 bits. ``source``: the column it is read from.
    """

    name: str
    kind: Kind
    unit: str = ""
    source: str = ""

    @property
    def stored(self) -> str:
        """The table's name for it."""
        return self.source or self.name


_UNITS: Final = (
    ("_ns", "ns"),
    ("_ms", "ms"),
    ("_us", "us"),
    ("_nusd", "nusd"),
    ("_usd", "usd"),
    ("_tokens", "tokens"),
    ("_bytes", "bytes"),
    ("_count", "count"),
)


def unit_of(name: str, kind: Kind) -> str:
    """The unit that a column's name says."""
    if kind == "time":
        return "UTC"
    return next((unit for ending, unit in _UNITS if name.endswith(ending)), "")


def column(name: str, kind: Kind, source: str = "") -> Column:
    """A column whose unit is in its name."""
    return Column(name, kind, unit_of(name, kind), source)


def columns(kind: Kind, *names: str) -> tuple[Column, ...]:
    """Several of one kind."""
    return tuple(column(name, kind) for name in names)
