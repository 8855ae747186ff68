"""Differences of two JSON values, leaf by leaf, for people."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Leaf:
    """One dotted path with its values as JSON text; "" on the side where it is absent."""

    path: str
    before: str
    after: str


def changed_leaves(before: object, after: object) -> list[Leaf]:
    """Leaves that differ, removals first, then by path; lists are compared as a whole."""
    old, new = dict(_leaves(before)), dict(_leaves(after))
    changed = [
        Leaf(path or "value", old.get(path, ""), new.get(path, ""))
        for path in sorted(old.keys() | new.keys())
        if old.get(path) != new.get(path)
    ]
    return sorted(changed, key=lambda leaf: bool(leaf.after))


def value_text(value: object) -> str:
    """A value as JSON on one line."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _leaves(value: object, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, part in value.items():
            yield from _leaves(part, f"{path}.{key}" if path else str(key))
    elif value is not None or path:
        yield path, value_text(value)
