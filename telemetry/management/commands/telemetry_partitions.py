"""What beat does every hour, by hand: print the partition plan, or carry it out."""

from __future__ import annotations

from argparse import ArgumentParser

from django.core.management.base import BaseCommand
from django.db import connection

from telemetry.store import bounds
from telemetry.store.retention import current_plan, maintain


class Command(BaseCommand):
    help = "Print (plan) or carry out (apply) which day partitions are made, dropped or held."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("what", nargs="?", choices=("plan", "apply"), default="plan")

    def handle(self, *args: object, what: str, **options: object) -> None:
        if what == "apply":
            done = maintain()
            self.stdout.write(
                f"created {done.created}, dropped {done.dropped}, "
                f"deleted {done.deleted_rows} rows, held {len(done.held_days)} days"
            )
            return
        if connection.vendor != "postgresql":
            self.stdout.write("SQLite has no partitions; expired rows are deleted by `apply`.")
        else:
            lines = current_plan().lines()
            self.stdout.write("\n".join(lines) if lines else "Nothing to do.")
        self.stdout.write("\nWhat bounds each table:")
        self.stdout.write("\n".join(bounds.lines()))
