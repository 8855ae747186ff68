"""``export --otlp``: what is pending goes to the configured OpenTelemetry collector."""

from __future__ import annotations

import argparse
from typing import Final

from agent_client.cli import home_of, is_json
from agent_client.cli.output import clean, fail, number, say, say_json, talk
from agent_client.cli.ticker import Ticker

CLOSED_HINT: Final = (
    "Set telemetry.export.otlp.enabled: true and an endpoint; "
    "'hermes-telemetry policy why telemetry.export.otlp.enabled' says who decides."
)


def drain_otlp(args: argparse.Namespace) -> int:
    """Send once what is pending; the exit code says whether anything is left to be done."""
    from agent_client.otlp.drain import drain

    home = home_of(args)
    with Ticker("sending to the collector") as ticker:
        report = drain(home, on_batch=lambda so_far: ticker.note(_counts(so_far.sent)))
    if is_json(args):
        say_json(
            {
                "status": report.status,
                "exit_code": report.exit_code,
                "sent": report.sent,
                "rejected": report.rejected,
                "left": report.left,
                "held": report.held,
                "endpoint": report.endpoint,
                "reason": report.reason,
                "detail": report.detail,
                "missing_variables": list(report.missing),
            }
        )
        return report.exit_code
    where = f" to {clean(report.endpoint)}" if report.endpoint else ""
    say(
        f"{_counts(report.sent)} sent{where}, {sum(report.rejected.values()):,} refused, "
        f"{number(report.left, 'row')} left"
    )
    if report.held:
        say(f"{number(report.held, 'run waits', 'runs wait')} for its end: it may yet go on")
    if report.exit_code:
        because = [
            part for part in (report.reason, report.detail) if part and part != report.status
        ]
        hint = CLOSED_HINT if report.reason in {"plane_closed", "no_endpoint"} else ""
        fail(": ".join(clean(part) for part in (report.status, *because)), hint)
    for variable in report.missing:
        talk(f"  ${clean(variable)} has no usable value here: its header was not sent")
    return report.exit_code


def _counts(by_signal: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in by_signal.items() if count) or "nothing"
