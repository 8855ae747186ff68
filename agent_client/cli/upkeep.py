"""``rebuild`` and ``prune``: keeping the local plane whole and within its retention."""

from __future__ import annotations

import argparse
import sys
import time
from importlib import import_module
from typing import Protocol

from agent_client.cli import home_of, is_json
from agent_client.cli.output import (
    EXIT_FAILED,
    EXIT_OK,
    EXIT_USAGE,
    fail,
    is_terminal,
    number,
    say,
    say_json,
    size_text,
    talk,
    time_text,
)
from agent_client.cli.ticker import Ticker
from agent_client.files import telemetry_dir


class PruneReport(Protocol):
    """What ``retention.prune`` answers, as far as it is shown."""

    rows: dict[str, int]
    log_files: int
    log_bytes: int
    expired_unsent: int
    oldest_kept_ns: int


def run_rebuild(args: argparse.Namespace) -> int:
    """Make the database again from the event log."""
    from agent_client.journal import Journal
    from agent_client.recovery import recover

    home = home_of(args)
    if not telemetry_dir(home).exists():
        fail("nothing recorded yet, so there is nothing to rebuild")
        return EXIT_FAILED
    started_s = time.monotonic()
    with Ticker("rebuilding from the event log"):
        recover(home)
        journal = Journal(home)
        try:
            lines = journal.rebuild()
        finally:
            journal.close()
    took_s = time.monotonic() - started_s
    if is_json(args):
        say_json({"lines": lines, "seconds": round(took_s, 3)})
    else:
        say(f"{number(lines, 'event')} indexed again in {took_s:.1f} s")
    return EXIT_OK


def run_prune(args: argparse.Namespace) -> int:
    """Remove what is older than the retention; asks before it removes more than that."""
    from agent_client import config

    home = home_of(args)
    kept_days = config.load(home).get("telemetry.retention_days")
    days = float(kept_days if isinstance(kept_days, int) else 90)
    wanted = days if args.days is None else args.days
    if wanted < days and not (args.yes or args.dry_run):
        if not (is_terminal(sys.stdin) and is_terminal(sys.stderr)):
            fail(
                f"{wanted:g} days is shorter than telemetry.retention_days ({days:g})",
                "Add --yes to remove that much, or --dry-run to see it first.",
            )
            return EXIT_USAGE
        if not _agrees(f"Remove everything older than {wanted:g} days for good? [y/N] "):
            talk("Nothing was removed.")
            return EXIT_FAILED
    with Ticker("pruning") as ticker:
        report: PruneReport = import_module("agent_client.retention").prune(
            home, retention_days=wanted, dry_run=args.dry_run, progress=ticker.note
        )
    if is_json(args):
        say_json(_prune_json(report, wanted, is_dry_run=args.dry_run))
        return EXIT_OK
    done = "would go" if args.dry_run else "removed"
    removed = sum(report.rows.values())
    if not removed and not report.log_files:
        say(f"Nothing is older than {wanted:g} days.")
        return EXIT_OK
    by_table = ", ".join(
        f"{count:,} {name.removeprefix('tel_').replace('_', ' ')}"
        for name, count in report.rows.items()
        if count
    )
    say(f"{number(removed, 'row')} {done}" + (f": {by_table}" if by_table else ""))
    say(f"{number(report.log_files, 'log file')} {done}, {size_text(report.log_bytes)}")
    if report.oldest_kept_ns:
        say(f"oldest kept: {time_text(report.oldest_kept_ns)}")
    if report.expired_unsent:
        talk(f"warning: {number(report.expired_unsent, 'row')} had not been sent to the console")
    return EXIT_OK


def _agrees(question: str) -> bool:
    sys.stderr.write(question)
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def _prune_json(report: PruneReport, days: float, *, is_dry_run: bool) -> dict[str, object]:
    return {
        "dry_run": is_dry_run,
        "days": days,
        "rows": report.rows,
        "log_files": report.log_files,
        "log_bytes": report.log_bytes,
        "expired_unsent": report.expired_unsent,
        "oldest_kept_ns": report.oldest_kept_ns,
    }
