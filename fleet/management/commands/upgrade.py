"""Put this release into force: checks, migrations that stop nobody for long, checks."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError

from fleet.ops import upgrade
from fleet.ops.doctor import worst
from fleet.ops.files import OpsError
from fleet.ops.hooks import Finding

MARKS = {"ok": "ok   ", "warn": "WARN ", "error": "ERROR"}
EXIT = {"ok": 0, "warn": 0, "error": 2}


class Command(BaseCommand):
    help = "Look, migrate without stopping writers for long, and look again."
    requires_system_checks = []  # they speak of tables that are not there yet

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--check", action="store_true", help="look, change nothing")
        parser.add_argument("--yes", action="store_true", help="do not ask")
        parser.add_argument("--no-backup", action="store_true", help="do not ask for a fresh one")

    def handle(self, *args: Any, **options: Any) -> None:  # noqa: ANN401  # Any: Django's signature
        try:
            self._handle(options)
        except OpsError as error:
            raise CommandError(str(error)) from error
        except DatabaseError as error:
            first = (str(error).strip().splitlines() or ["?"])[0]
            raise CommandError(f"The database: {first}") from error

    def _handle(self, options: dict[str, Any]) -> None:  # Any: parsed options
        found = upgrade.look_before(needs_backup=not options["no_backup"])
        self._tell(found)
        state = worst(found)
        if options["check"]:
            sys.exit(EXIT[state])
        if state == "error":
            raise CommandError("Nothing was changed: mend the errors first.", returncode=2)
        if upgrade.pending() and not options["yes"]:
            self.stderr.write("Type yes to go on: ", ending="")
            if sys.stdin.readline().strip() != "yes":
                raise CommandError("Nothing was changed.")
        before = upgrade.count_rows()
        busy = upgrade.migrate_patiently(self.stderr.write)
        self.stdout.write(f"Migrated; tables were busy {busy} times.")
        after = upgrade.look_after(before)
        self._tell(after)
        if any(each.name in {"rows", "audit"} and each.severity == "error" for each in after):
            raise CommandError("The upgrade lost something: see above.", returncode=2)
        self.stdout.write("This release is in force. Start or restart web, worker and beat.")

    def _tell(self, found: list[Finding]) -> None:
        for each in found:
            self.stdout.write(f"{MARKS[each.severity]} {each.name}: {each.detail}")
            if each.severity != "ok" and each.mend:
                self.stdout.write(f"      → {each.mend}")
