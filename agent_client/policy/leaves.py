"""Nested configuration taken apart: a bundle's pins by dotted key, and leaves by path.

A pin may hold a map (``telemetry.export.otlp.headers_env``, or a host key with a map for its
value). Where the pin ends and its value begins is what the bundle's ``meta`` says; the leaves
below it are what the host merges, and what we write, own and compare.
"""

from __future__ import annotations

from collections.abc import Mapping

from agent_client.contract.policy_keys import KEYS
from agent_client.policy.state import KeyPath


def pins_of(tree: Mapping[str, object], meta: Mapping[str, object]) -> dict[str, object]:
    """Dotted pins of a bundle's mandatory part with their values."""
    found: dict[str, object] = {}

    def walk(node: Mapping[str, object], prefix: str) -> None:
        for name, value in node.items():
            key = f"{prefix}.{name}" if prefix else name
            if isinstance(value, dict) and value and key not in meta and key not in KEYS:
                walk(value, key)
            else:
                found[key] = value

    walk(tree, "")
    return found


def leaves(tree: Mapping[str, object]) -> dict[KeyPath, object]:
    """Every leaf of nested maps by its path. An empty map pins nothing on the host: left out."""
    found: dict[KeyPath, object] = {}

    def walk(node: Mapping[str, object], prefix: KeyPath) -> None:
        for name, value in node.items():
            path = (*prefix, str(name))
            if isinstance(value, dict):
                walk(value, path)
            else:
                found[path] = value

    walk(tree, ())
    return found


def find(tree: Mapping[str, object], path: KeyPath) -> tuple[bool, object]:
    """Whether a path leads to something, and to what."""
    node: object = tree
    for part in path:
        if not isinstance(node, dict) or part not in node:
            return False, None
        node = node[part]
    return True, node


def project(want: Mapping[str, object], got: object) -> dict[str, object]:
    """What ``got`` holds at the places ``want`` names; equal to ``want`` when all is in force."""
    result: dict[str, object] = {}
    for name, value in want.items():
        if isinstance(value, dict) and not value:
            result[name] = {}
        elif isinstance(got, dict) and name in got:
            found = got[name]
            is_branch = isinstance(value, dict) and isinstance(found, dict)
            result[name] = project(value, found) if is_branch else found  # type: ignore[arg-type]  # is_branch says so
    return result


def dotted(path: KeyPath) -> str:
    """A path for people."""
    return ".".join(path)


def same(want: object, got: object) -> bool:
    """Equality as YAML readers see it: true is not 1, and 1 is not 1.0."""
    if isinstance(want, list) and isinstance(got, list):
        return len(want) == len(got) and all(
            same(one, two) for one, two in zip(want, got, strict=True)
        )
    if isinstance(want, dict) and isinstance(got, dict):
        return want.keys() == got.keys() and all(same(want[key], got[key]) for key in want)
    return type(want) is type(got) and want == got
