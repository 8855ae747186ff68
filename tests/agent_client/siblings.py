"""Stand-ins for modules of the agent that are written beside this one; gone with the merge.

``stand_in`` does nothing for a module that is there: the tests then run on the real one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest


@dataclass
class PruneReport:
    rows: dict[str, int] = field(default_factory=dict)
    unsent_rows: int = 0
    log_files: int = 0
    log_bytes: int = 0
    oldest_kept_ns: int | None = None
    hold: str = ""


@dataclass
class DrainReport:
    status: str = "closed"
    exit_code: int = 3
    reason: str = "disabled"
    detail: str = "telemetry.export.otlp.enabled is off"
    endpoint: str = ""
    sent: dict[str, int] = field(default_factory=dict)
    rejected: dict[str, int] = field(default_factory=dict)
    left: int = 0
    missing: tuple[str, ...] = ()


@dataclass
class OtlpHeader:
    name: str
    variable: str
    is_set: bool = False


@dataclass
class OtlpState:
    headers: tuple[OtlpHeader, ...] = ()
    problem: str = ""
    left: int = 0
    success_ns: int = 0
    last_ns: int = 0
    last_status: str = ""
    last_reason: str = ""


def _is_there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, **functions: object) -> None:
    """Put a module in place unless the real one is there."""
    if _is_there(name):
        return
    module = ModuleType(name)
    vars(module).update(functions)
    monkeypatch.setitem(sys.modules, name, module)


def stand_in_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """All three, answering as for a home where there is nothing to do."""

    def prune(
        home: Path, *, progress: Callable[[PruneReport], None], **wanted: object
    ) -> PruneReport:
        progress(PruneReport())
        return PruneReport()

    def preview(source: object, since_ns: int | None) -> list[dict[str, object]]:
        return []

    def heartbeat(home: Path) -> dict[str, object]:
        return {"_kind": "heartbeat"}

    def summarize(events: Iterable[Mapping[str, object]]) -> dict[str, object]:
        names = [str(event["_kind"]) for event in events]
        return {
            "counts": {name: names.count(name) for name in names},
            "fields": {name: ["_kind"] for name in names},
        }

    def drain(home: Path, *, on_batch: Callable[[DrainReport], None]) -> DrainReport:
        on_batch(DrainReport())
        return DrainReport()

    def otlp_state(home: Path, config: object) -> OtlpState:
        return OtlpState((OtlpHeader("authorization", "OTLP_TOKEN"),))

    stand_in(monkeypatch, "agent_client.retention", prune=prune)
    stand_in(
        monkeypatch,
        "agent_client.preview",
        preview=preview,
        heartbeat=heartbeat,
        summarize=summarize,
    )
    stand_in(monkeypatch, "agent_client.otlp")
    stand_in(monkeypatch, "agent_client.otlp.drain", drain=drain)
    stand_in(monkeypatch, "agent_client.otlp.state", otlp_state=otlp_state)
