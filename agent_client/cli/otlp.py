"""``export --otlp``: what is pending goes to the configured OpenTelemetry collector."""

from __future__ import annotations

import argparse
from importlib import import_module
from typing import Protocol

from agent_client.cli import home_of, is_json
from agent_client.cli.output import clean, fail, number, say, say_json, talk
from agent_client.cli.shown import shown_url
from agent_client.cli.ticker import Ticker


class DrainReport(Protocol):
    """What ``otlp.drain`` answers, as far as it is shown."""

    status: str
    exit_code: int
    sent: int
    rejected: int
    left: int
    endpoint: str
    reason: str
    detail: str
    missing: tuple[str, ...]


def drain_otlp(args: argparse.Namespace) -> int:
    """Drain once; the exit code says whether anything is left to be done."""
    from agent_client.recovery import recover

    home = home_of(args)
    with Ticker("sending to the collector"):
        recover(home)
        report: DrainReport = import_module("agent_client.otlp").drain(home)
    endpoint = shown_url(report.endpoint)
    if is_json(args):
        say_json(
            {
                "status": report.status,
                "exit_code": report.exit_code,
                "sent": report.sent,
                "rejected": report.rejected,
                "left": report.left,
                "endpoint": endpoint,
                "reason": report.reason,
                "detail": report.detail,
                "missing_variables": list(report.missing),
            }
        )
        return report.exit_code
    counts = (
        f"{number(report.sent, 'span')} sent, {report.rejected:,} refused, {report.left:,} left"
    )
    if report.exit_code:
        why = ": ".join(clean(part) for part in (report.reason, report.detail) if part)
        fail(f"{report.status.replace('_', ' ')}: {why}")
        for variable in report.missing:
            talk(f"  ${variable} is not set: export it where this command runs.")
    say(f"{counts}" + (f" ({endpoint})" if endpoint else ""))
    return report.exit_code
