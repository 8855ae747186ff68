"""``rebuild`` and ``prune``: keeping the local plane whole and within its retention."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING, Final

from agent_client.cli import home_of, is_json
from agent_client.cli.output import (
    EXIT_FAILED,
    EXIT_OK,
    EXIT_USAGE,
    counts_text,
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

if TYPE_CHECKING:
    from agent_client.pruner import PruneReport


_HOLDS: Final = {
    "clock": (
        "this machine's clock has jumped, or the machine was off for long; nothing goes by it yet",
        "Look at the clock. If it is right: hermes-telemetry prune --force",
    ),
    "push": ("a push is under way", "What is left goes with the next prune."),
}


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
    from agent_client.retention import prune

    home = home_of(args)
    kept_days = config.load(home).get("telemetry.retention_days")
    assert isinstance(kept_days, int)  # noqa: S101  # the configuration has a usable value
    days: int = kept_days if args.days is None else args.days
    if days < kept_days and not (args.yes or args.dry_run):
        code = _refusal(days, kept_days)
        if code is not None:
            return code
    with Ticker("pruning") as ticker:
        report = prune(
            home,
            retention_days=days,
            dry_run=args.dry_run,
            force=args.force,
            progress=lambda so_far: ticker.note(number(sum(so_far.rows.values()), "row")),
        )
    if is_json(args):
        say_json(_prune_json(report, days, is_dry_run=args.dry_run))
    else:
        _show_prune(report, days, is_dry_run=args.dry_run)
    if report.hold:
        fail(*_HOLDS.get(report.hold, (report.hold, "")))
        return EXIT_OK if args.dry_run else EXIT_FAILED
    return EXIT_OK


def _refusal(days: int, kept_days: int) -> int | None:
    """The exit code when more is not to go; None when the person at the terminal agrees to it."""
    if not (is_terminal(sys.stdin) and is_terminal(sys.stderr)):
        fail(
            f"{number(days, 'day')} is shorter than telemetry.retention_days ({kept_days})",
            "Add --yes to remove that much, or --dry-run to see it first.",
        )
        return EXIT_USAGE
    question = f"Remove everything older than {number(days, 'day')} for good? [y/N] "
    sys.stderr.write(question)
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() in {"y", "yes"}:
        return None
    talk("Nothing was removed.")
    return EXIT_FAILED


def _show_prune(report: PruneReport, days: int, *, is_dry_run: bool) -> None:
    done = "would go" if is_dry_run else "removed"
    removed = sum(report.rows.values())
    if not removed and not report.log_files:
        say(f"Nothing older than {number(days, 'day')} {done}.")
        return
    by_table = counts_text(report.rows)
    say(f"{number(removed, 'row')} {done}" + (f": {by_table}" if by_table else ""))
    say(f"{number(report.log_files, 'log file')} {done}, {size_text(report.log_bytes)} of the log")
    if report.oldest_kept_ns:
        say(f"oldest kept: {time_text(report.oldest_kept_ns)}")
    if report.unsent_rows:
        talk(f"{number(report.unsent_rows, 'row')} of them had not been sent to the console")


def _prune_json(report: PruneReport, days: int, *, is_dry_run: bool) -> dict[str, object]:
    return {
        "dry_run": is_dry_run,
        "days": days,
        "rows": report.rows,
        "unsent_rows": report.unsent_rows,
        "log_files": report.log_files,
        "log_bytes": report.log_bytes,
        "oldest_kept_ns": report.oldest_kept_ns or 0,
        "hold": report.hold,
    }
