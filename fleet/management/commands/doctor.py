"""Look at everything and say what is wrong, how bad it is and what to do; exit 0, 1 or 2."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from dataclasses import asdict
from typing import Any, Final

from django.core.management.base import BaseCommand

from fleet.ops.doctor import examine, worst

EXIT: Final = {"ok": 0, "warn": 1, "error": 2}
_MARKS: Final = {"ok": "ok   ", "warn": "WARN ", "error": "ERROR"}


class Command(BaseCommand):
    help = "Say what is wrong, how bad it is and what to do. Exit 0: well, 1: warnings, 2: errors."
    requires_system_checks = []  # it runs them itself, and goes on

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="for a machine")
        parser.add_argument("--quiet", action="store_true", help="only what is wrong")

    def handle(self, *args: Any, **options: Any) -> None:  # noqa: ANN401  # Any: Django's signature
        found = examine()
        state = worst(found)
        if options["json"]:
            whole = {"state": state, "findings": [asdict(each) for each in found]}
            self.stdout.write(json.dumps(whole, indent=2))
        else:
            order = {"error": 0, "warn": 1, "ok": 2}
            for each in sorted(found, key=lambda one: order[one.severity]):
                if options["quiet"] and each.severity == "ok":
                    continue
                self.stdout.write(f"{_MARKS[each.severity]} {each.name}: {each.detail}")
                if each.severity != "ok" and each.mend:
                    self.stdout.write(f"      → {each.mend}")
        if EXIT[state]:
            sys.exit(EXIT[state])
