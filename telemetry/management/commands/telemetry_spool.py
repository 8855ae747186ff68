"""What beat does every five seconds, by hand: look at the spool, drain it, try again."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Final

from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from fleet.audit import record_change
from telemetry.health import spool_in_words
from telemetry.ingest.drain import drain, try_again
from telemetry.ingest.spool import spool_state
from telemetry.models import SpooledBatch

MAX_LISTED: Final = 50


class Command(BaseCommand):
    help = "Show the overload spool, store what waits in it, or retry what was set aside."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("verb", choices=("status", "drain", "retry"), nargs="?")
        parser.add_argument("--seconds", type=float, default=600.0, help="drain: stop after these")

    def handle(
        self, *args: object, verb: str | None = None, seconds: float = 600.0, **options: object
    ) -> None:
        if verb == "drain":
            self._drain(seconds)
        elif verb == "retry":
            self._retry()
        self._status()

    def _drain(self, seconds: float) -> None:
        done = drain(budget_s=seconds)
        self.stdout.write(
            f"stored {done.batch_count} batches, {done.row_count} rows; "
            f"{done.failed_count} failed and are tried again"
        )

    def _retry(self) -> None:
        aside = list(SpooledBatch.objects.filter(set_aside_at__isnull=False).defer("payload"))
        if not aside:
            raise CommandError("No batch is set aside.")
        for batch in aside:
            with transaction.atomic():
                if try_again(batch.pk):
                    record_change(
                        actor="manage.py",
                        action="spool.retry",
                        target=batch,
                        pre={"last_error": batch.last_error, "attempts": batch.attempts},
                        post={"attempts": 0},
                    )
        self.stdout.write(f"{len(aside)} batches will be tried again")

    def _status(self) -> None:
        self.stdout.write(spool_in_words(spool_state()))
        aside = SpooledBatch.objects.filter(set_aside_at__isnull=False).defer("payload")
        for batch in aside[:MAX_LISTED]:
            self.stdout.write(
                f"{batch.batch_id} of install {batch.install_id}: {batch.row_count} rows, "
                f"set aside after {batch.attempts} tries: {batch.last_error}"
            )
