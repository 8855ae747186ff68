"""Bring a folder of partitioned Parquet to date with the rows and sums of the console."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

from django.core.management.base import BaseCommand, CommandError

from fleet.templatetags.fleet_format import byte_size, exact
from telemetry.exports.analytics import CopyRefused, DayDone, copy
from telemetry.exports.faults import ExportFault
from telemetry.exports.rows import RedactionAway


class Command(BaseCommand):
    help = "Copy rows and sums of the local plane to partitioned Parquet; only what changed."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("folder", type=Path, help="an empty folder, or that of an earlier copy")

    def handle(self, *args: object, folder: Path, **options: object) -> None:
        try:
            done = copy(folder, on_day=self.tell)
        except CopyRefused as error:
            raise CommandError(str(error)) from None
        except ExportFault as fault:
            raise CommandError(f"{fault.words} What was copied before is whole.") from None
        except RedactionAway:
            raise CommandError("Secrets cannot be removed here: install google-re2.") from None
        except OSError as error:
            raise CommandError(f"{folder}: {error.strerror}") from None
        rows = sum(one.row_count for one in done)
        self.stdout.write(f"{exact(len(done))} days written, {exact(rows)} rows: {folder}")

    def tell(self, done: DayDone) -> None:
        if done.erased_count:
            self.stderr.write(
                f"{done.day}: {exact(done.erased_count)} rows of erased installs removed"
            )
            return
        self.stderr.write(f"{done.day}: {exact(done.row_count)} rows, {byte_size(done.size_bytes)}")
