"""Fill rollups by hand, or prove that they are what the raw rows say."""

from __future__ import annotations

from argparse import ArgumentParser
from datetime import timedelta

from django.core.management.base import BaseCommand, CommandError

from fleet.lib.clock import floor_hour, now
from telemetry.rollup.fill import (
    Difference,
    fill_hour,
    fill_pending,
    hours_between,
    verifiable_hours,
    verify_hour,
)


class Command(BaseCommand):
    help = "Fill touched hours; --all re-makes every hour, --verify compares cells with raw rows."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--hours", type=int, default=48, help="how far back (default 48)")
        parser.add_argument("--all", action="store_true", help="re-make every hour, touched or not")
        parser.add_argument("--verify", action="store_true", help="change nothing; exit 1 if wrong")

    def handle(self, *args: object, **options: object) -> None:
        hours = options["hours"]
        if not isinstance(hours, int) or hours < 1:
            raise CommandError("--hours: a number from 1")
        until = floor_hour(now()) + timedelta(hours=25)  # clocks of agents may be a day ahead
        since = until - timedelta(hours=25 + hours)
        if options["verify"]:
            checked = list(verifiable_hours(since, until))
            differences = [(hour, found) for hour in checked for found in verify_hour(hour)]
            for hour, found in differences[:20]:
                self.stdout.write(f"{hour:%Y-%m-%d %H}h {_line(found)}")
            if differences:
                raise CommandError(f"{len(differences)} cells differ in {len(checked)} hours.")
            self.stdout.write(f"{len(checked)} hours are exact.")
            return
        if options["all"]:
            filled = sum(fill_hour(hour, is_forced=True) for hour in hours_between(since, until))
        else:
            filled = fill_pending()
        self.stdout.write(f"filled {filled} hours")


def _line(found: Difference) -> str:
    what = "differs" if found.stored and found.counted else "is missing or left over"
    return f"{found.cell} {found.key} {what}"
