"""Count, or delete, what is held of named installs; ``simulate`` proves its ledger with it."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from dataclasses import asdict
from pathlib import Path
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError

from telemetry.store.held import count_held, count_spooled, remove_held


class Command(BaseCommand):
    help = "Print as JSON how many rows are held of the installs in a file, or delete them."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path, help="JSON list of install ids")
        parser.add_argument("--mark", default="", help="only rows whose ids begin with this")
        parser.add_argument("--remove", action="store_true", help="delete them for good")
        parser.add_argument("--yes", action="store_true", help="with --remove: do it")

    def handle(self, *args: object, **options: object) -> None:
        path, mark = options["file"], options["mark"]
        assert isinstance(path, Path)  # noqa: S101 -- argparse's type
        try:
            install_ids = [UUID(str(text)) for text in json.loads(path.read_text(encoding="utf-8"))]
        except (OSError, ValueError, TypeError) as error:
            raise CommandError(f"{path} is no JSON list of install ids: {error}") from error
        if options["remove"]:
            if not options["yes"]:
                raise CommandError(
                    f"This deletes all telemetry of {len(install_ids)} installs for good. "
                    "Say --yes to do it."
                )
            self.stdout.write(json.dumps({"removed": remove_held(install_ids)}))
            return
        held = count_held(install_ids, str(mark))
        tables = {name: asdict(each) for name, each in held.items()}
        found = {"tables": tables, "spooled": count_spooled(install_ids)}
        self.stdout.write(json.dumps(found))
