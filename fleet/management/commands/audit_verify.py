"""Verify the audit trail's hash chain; exit code 1 names the first broken row."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from fleet.audit import verify_chain
from fleet.models import ChangeRecord


class Command(BaseCommand):
    help = "Verify the hash chain of the audit trail."

    def handle(self, *args: Any, **options: Any) -> None:  # noqa: ANN401  # Any: Django's signature
        fault = verify_chain()
        if fault is not None:
            raise CommandError(f"Row {fault.record_id}: {fault.problem}.")
        newest = ChangeRecord.objects.order_by("-id").first()
        count, head = ChangeRecord.objects.count(), newest.sha256 if newest else "-"
        self.stdout.write(f"{count} rows, whole. Newest digest: {head}")
