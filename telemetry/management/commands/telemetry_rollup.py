"""Bring rollups up to date by hand, make hours again, or prove that they are what the rows say."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

from django.core.management.base import BaseCommand, CommandError

from fleet.lib.clock import floor_hour, now
from telemetry.rollup.fill import fill_pending, hours_between, refill_all
from telemetry.rollup.verify import Difference, Report, verify_cells

SHOWN = 20
"""Differences that are printed; --json has more."""


class Command(BaseCommand):
    help = (
        "Fold what waits into the sums; --all makes hours again from their rows, --verify compares "
        "every hour and day with the rows and changes nothing."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--hours", type=int, default=48, help="how far back (default 48)")
        parser.add_argument("--since", type=_time, help="how far back, as 2026-11-28 or …T13:00Z")
        parser.add_argument("--hour", type=_time, help="make this one hour again")
        parser.add_argument("--all", action="store_true", help="make every hour again")
        parser.add_argument("--verify", action="store_true", help="change nothing; exit 1 if wrong")
        parser.add_argument("--json", action="store_true", help="--verify: the report as JSON")

    def handle(self, *args: object, **options: object) -> None:
        since, until = _window(options)
        if options["verify"]:
            self._verify(since, until, is_json=bool(options["json"]))
        elif options["hour"] is not None:
            self._refill([since])
        elif options["all"]:
            self._refill(hours_between(since, until))
        else:
            self.stdout.write(f"filled {fill_pending()} hours")

    def _refill(self, hours: list[datetime]) -> None:
        done = 0
        for filled in refill_all(hours):
            done += len(filled)
            self._say(f"{done} of {len(hours)} hours")
        self.stdout.write(f"filled {done} hours")
        if done < len(hours):
            self.stdout.write(
                f"{len(hours) - done} hours have lost their rows and stay as they are"
            )

    def _verify(self, since: datetime, until: datetime, *, is_json: bool) -> None:
        report = verify_cells(
            since, until, progress=lambda day, done, count: self._say(f"{day:%F}: {done}/{count}")
        )
        if is_json:
            self.stdout.write(json.dumps(asdict(report), default=str))
        else:
            self._print(report)
        if report.difference_count:
            raise CommandError(f"{report.difference_count} cells differ.")

    def _print(self, report: Report) -> None:
        for found in report.differences[:SHOWN]:
            self.stdout.write(_line(found))
        if report.difference_count == 0:
            self.stdout.write(
                f"{report.hour_count} hours are exact. {report.cell_count} cells were compared."
            )
        if report.waiting_touches:
            self.stdout.write(f"{report.waiting_touches} hours of batches wait to be folded.")
        if report.skipped_hours:
            self.stdout.write(
                f"{report.skipped_hours} hours were not compared: no rows, or waiting."
            )
        if report.saturated_count:
            self.stdout.write(f"{report.saturated_count} cells have a sum beyond what is kept.")

    def _say(self, text: str) -> None:
        """Progress, for a person who waits."""
        if self.stderr.isatty():
            self.stderr.write(text)


def _time(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _window(options: dict[str, object]) -> tuple[datetime, datetime]:
    """What hours are meant; the clocks of agents may be a day ahead."""
    hours = options["hours"]
    if not isinstance(hours, int) or hours < 1:
        raise CommandError("--hours: a number from 1")
    until = floor_hour(now()) + timedelta(hours=25)
    for name in ("hour", "since"):
        given = options[name]
        if isinstance(given, datetime):
            return floor_hour(given), max(until, given)
    return until - timedelta(hours=25 + hours), until


def _line(found: Difference) -> str:
    unit, at, *rest = found.key
    what = "differs" if found.stored and found.counted else "is missing or left over"
    when = f"{at:%Y-%m-%d %H}h" if unit == "h" else f"{at:%Y-%m-%d}"
    return f"{found.cell} {when} {rest} {what}"
