"""``preview``: what the aggregate plane would send, whether its gate is open, and why not."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from agent_client import config
from agent_client.cli import home_of, is_json
from agent_client.cli.data import since_ns
from agent_client.cli.output import EXIT_OK, paint, rows, say, say_json
from agent_client.policy.posture import Posture, resolve

if TYPE_CHECKING:
    from agent_client.preview import Record


def run_preview(args: argparse.Namespace) -> int:
    """Show the aggregate plane's events and its gate; nothing is sent."""
    from agent_client.preview import heartbeat, summarize

    home = home_of(args)
    settings = config.load(home)
    posture = resolve(settings)
    events = [*_summaries(home, args.days), heartbeat(home)]
    closed = _closed_because(settings, posture)
    found = summarize(events)
    if is_json(args):
        say_json(
            {
                "is_open": not closed,
                "closed_because": closed,
                "consent_state": posture.consent_state,
                "allow_aggregate": posture.allow_aggregate,
                "summary": found,
                "events": events if args.lines else [],
            }
        )
        return EXIT_OK
    if args.lines:
        for event in events:
            say(json.dumps(event, separators=(",", ":")))  # the bytes that a push sends
        return EXIT_OK
    gate = paint("closed", "dim") if closed else paint("open", "green")
    say(f"{paint('Aggregate plane:', 'bold')} {gate}")
    because = "\n".join(closed) or "consent is aggregate and the operator allows it"
    rows([("because", because), *_described(found)], indent="  ")
    say()
    say("Nothing was sent. See every event: hermes-telemetry preview --lines")
    return EXIT_OK


def _summaries(home: Path, days: float | None) -> list[Record]:
    from agent_client.preview import preview
    from agent_client.recovery import recover
    from agent_client.store import Store, database_path

    recover(home)
    if not database_path(home).exists():
        return []
    with Store(home) as store:
        return preview(store.connection, since_ns(days))


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


def _described(summary: dict[str, object]) -> list[tuple[str, str]]:
    """Each kind of event: how many there are, and which fields they have."""
    counts, fields = summary["counts"], summary["fields"]
    assert isinstance(counts, dict)  # noqa: S101  # as summarize says
    assert isinstance(fields, dict)  # noqa: S101  # as above
    return [
        (name.removeprefix("workflow_"), f"{count:,} with {', '.join(fields[name])}")
        for name, count in counts.items()
    ]
