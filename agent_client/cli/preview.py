"""``preview``: what the aggregate plane would send, whether its gate is open, and why not."""

from __future__ import annotations

import argparse
import json
import sqlite3
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol, TypedDict, cast

from agent_client import config
from agent_client.cli import home_of, is_json
from agent_client.cli.data import since_ns
from agent_client.cli.output import EXIT_OK, paint, rows, say, say_json
from agent_client.policy.posture import Posture, resolve

Event = Mapping[str, object]


class Summary(TypedDict):
    """What ``preview.summarize`` answers."""

    counts: Mapping[str, int]
    fields: Mapping[str, Sequence[str]]


class PreviewModule(Protocol):
    """``agent_client.preview``, as far as it is called here."""

    def preview(self, source: sqlite3.Connection, since_ns: int | None) -> Sequence[Event]:
        """One event for each completed run."""

    def heartbeat(self, home: Path) -> Event:
        """The event that says which install, versions and system there are."""

    def summarize(self, events: Sequence[Event]) -> Summary:
        """Events by name, and the fields present."""


def run_preview(args: argparse.Namespace) -> int:
    """Show the aggregate plane's events and its gate; nothing is sent."""
    home = home_of(args)
    settings = config.load(home)
    posture = resolve(settings)
    module = cast("PreviewModule", import_module("agent_client.preview"))
    events = [*_events(home, module, args.days), module.heartbeat(home)]
    closed = _closed_because(settings, posture)
    if is_json(args):
        say_json(
            {
                "is_open": not closed,
                "closed_because": closed,
                "consent_state": posture.consent_state,
                "allow_aggregate": posture.allow_aggregate,
                "summary": module.summarize(events),
                "events": events if args.lines else [],
            }
        )
        return EXIT_OK
    if args.lines:
        for event in events:
            say(json.dumps(event, ensure_ascii=True, default=str))
        return EXIT_OK
    gate = paint("closed", "dim") if closed else paint("open", "green")
    say(f"{paint('Aggregate plane:', 'bold')} {gate}")
    summary = module.summarize(events)
    rows(
        [
            ("because", "\n".join(closed) or "consent is aggregate and the operator allows it"),
            ("events", ", ".join(f"{count:,} {name}" for name, count in summary["counts"].items())),
            ("fields", "\n".join(f"{n}: {', '.join(f)}" for n, f in summary["fields"].items())),
        ],
        indent="  ",
    )
    say()
    say("Nothing was sent. See every event: hermes-telemetry preview --lines")
    return EXIT_OK


def _events(home: Path, module: PreviewModule, days: float | None) -> Sequence[Event]:
    from agent_client.recovery import recover
    from agent_client.store import Store, database_path

    recover(home)
    if not database_path(home).exists():
        return []
    with Store(home) as store:
        return list(module.preview(store.connection, since_ns(days)))


def _closed_because(settings: config.ClientConfig, posture: Posture) -> list[str]:
    """Each reason why the gate is shut, with the key that would open it; empty when it is open."""
    reasons = []
    if not posture.allow_aggregate:
        source = settings.source("telemetry.allow_aggregate")
        reasons.append(f"telemetry.allow_aggregate is off ({source}); it wins over any consent")
    if posture.consent_state != "aggregate":
        source = settings.source("telemetry.consent_state")
        reasons.append(f"telemetry.consent_state is {posture.consent_state} ({source})")
    return reasons
