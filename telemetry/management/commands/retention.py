"""What retention takes: shown with its reasons (the default), or carried out."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from telemetry.store.retention import maintain
from telemetry.store.retention_report import Item, report


class Command(BaseCommand):
    help = "Print what would go, when, why and how much, and what is held; --apply does it."

    def add_arguments(self, parser: ArgumentParser) -> None:
        what = parser.add_mutually_exclusive_group()
        what.add_argument("--dry-run", action="store_true", help="change nothing (the default)")
        what.add_argument("--apply", action="store_true", help="do it now, as beat does hourly")
        parser.add_argument("--days", type=int, default=0, metavar="N", help="as it will be then")
        parser.add_argument("--json", action="store_true", help="for a machine")

    def handle(self, *args: Any, **options: Any) -> None:  # noqa: ANN401  # Any: Django's signature
        if not 0 <= options["days"] <= 3650:
            raise CommandError("--days: 0 to 3650")
        if options["apply"]:
            if options["days"]:
                raise CommandError("--apply does what is due now; --days only looks ahead.")
            done = maintain()
            self.stdout.write(
                f"dropped {done.dropped} partitions, deleted {done.deleted_rows} rows, "
                f"held {len(done.held_days)} days"
            )
            return
        items = report(ahead_days=options["days"])
        if options["json"]:
            self.stdout.write(json.dumps([asdict(each) for each in items], default=str, indent=2))
            return
        for each in items:
            self.stdout.write(_line(each))
        self.stdout.write(_sum(items))


def _line(item: Item) -> str:
    size = "" if item.size_bytes is None else f", {item.size_bytes / 1024**2:.1f} MiB"
    return (
        f"{item.fate}  {item.table} {item.what}: {item.row_count} rows{size}; "
        f"due {item.due_on}: {item.why}"
    )


def _sum(items: list[Item]) -> str:
    goes = [each for each in items if each.fate == "goes"]
    size = sum(each.size_bytes or 0 for each in goes) / 1024**2
    rows, held = sum(each.row_count for each in goes), len(items) - len(goes)
    return f"{rows} rows would go ({size:.1f} MiB of partitions); {held} entries are held."
