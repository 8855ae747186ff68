"""What an install's policy makes of each key, and where each value comes from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from agent_client.contract.policy_keys import KEYS
from fleet.models import Install, PolicyBundle, PolicyTarget
from fleet.policy.serve import target_of

Source = Literal["fleet", "group", "default"]


@dataclass(frozen=True, slots=True)
class EffectiveValue:
    """A key's value and its source. ``source_name`` is the group's; revision 0 is the default."""

    key: str
    value: object
    source: Source
    level: str = ""
    source_name: str = ""
    pin_id: int = 0
    revision: int = 0
    is_locked: bool = False
    reason: str = ""
    ticket: str = ""
    contact: str = ""
    expires_ns: int = 0
    on_expiry: str = ""


def effective_values(install: Install) -> dict[str, EffectiveValue]:
    """Every ``telemetry.*`` key and every other pinned key of an install, by key.

    What the newest published policy asks for; whether the agent obeys is its check-in's to say.
    """
    values = {
        entry.key: EffectiveValue(entry.key, entry.default, "default") for entry in KEYS.values()
    }
    target = target_of(install)
    if target is not None:
        values.update(_bundle_values(target.bundle_id))
    return dict(sorted(values.items()))


def mandatory_values(install: Install) -> dict[str, object]:
    """The bound keys of an install and their values: what gates a plane on the console."""
    return mandatory_of(target_of(install))


def mandatory_of(target: PolicyTarget | None) -> dict[str, object]:
    """The same of the install's target, for who has it at hand."""
    if target is None:
        return {}
    return {
        key: value.value
        for key, value in _bundle_values(target.bundle_id).items()
        if value.level == "mandatory"
    }


@lru_cache(maxsize=256)
def _bundle_values(sha256: str) -> Mapping[str, EffectiveValue]:
    """Cached for ever: a digest names the same bytes for ever."""
    payload = json.loads(PolicyBundle.objects.values_list("payload", flat=True).get(pk=sha256))
    return {value.key: value for value in values_of(payload)}


def values_of(payload: Mapping[str, dict[str, object]]) -> Iterator[EffectiveValue]:
    """The pinned leaves of a bundle's JSON with their sources. Pure."""
    for key, raw in payload["meta"].items():
        meta = raw if isinstance(raw, dict) else {}
        level = str(meta.get("level", "mandatory"))
        yield EffectiveValue(
            key=key,
            value=_at(payload[level], key),
            source="group" if meta.get("layer") == "group" else "fleet",
            level=level,
            source_name=str(meta.get("layer_name", "")),
            pin_id=int(meta.get("policy_id", 0)),
            revision=int(meta.get("revision", 0)),
            is_locked=bool(meta.get("locked")),
            reason=str(meta.get("reason", "")),
            ticket=str(meta.get("ticket", "")),
            contact=str(meta.get("contact", "")),
            expires_ns=int(meta.get("expires_ns", 0)),
            on_expiry=str(meta.get("on_expiry", "")),
        )


def _at(tree: object, key: str) -> object:
    for part in key.split("."):
        tree = tree[part] if isinstance(tree, dict) else None
    return tree
