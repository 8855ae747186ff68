"""Put a backup back: into an empty database, or in the place of what is there."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import psycopg
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, connection

from fleet.ops import restore as restoring
from fleet.ops.archive import open_archive
from fleet.ops.files import OpsError
from fleet.ops.manifest import Manifest
from fleet.ops.sealed import read_passphrase
from fleet.ops.secret_places import write_secrets


class Command(BaseCommand):
    help = "Put a backup back: into an empty database, or with --replace in the place of this one."
    requires_system_checks = []  # a console that is to be restored need not be well

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", nargs="?", default="", help="what `backup` wrote")
        parser.add_argument("--passphrase-file", default="", help="what it was sealed with")
        parser.add_argument("--replace", action="store_true", help="the database is not empty")
        parser.add_argument(
            "--confirm", default="", metavar="NAME", help="the database's name, for scripts"
        )
        parser.add_argument("--keep-secrets", action="store_true", help="leave keys as they are")
        parser.add_argument(
            "--rehearsal",
            action="store_true",
            help="a copy: its collectors, streams, schedules and destinations are switched off",
        )
        parser.add_argument("--secrets-to", default="", metavar="DIR", help="write them, no more")
        parser.add_argument("--finish", action="store_true", help="end one that was killed")

    def handle(self, *args: Any, **options: Any) -> None:  # noqa: ANN401  # Any: Django's signature
        try:
            self._handle(options)
        except OpsError as error:
            raise CommandError(str(error)) from error
        except (DatabaseError, psycopg.Error) as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise CommandError(f"The database: {first}. Nothing was changed.") from error

    def _handle(self, options: dict[str, Any]) -> None:  # Any: parsed options
        if options["finish"]:
            if not restoring.finish_pending(self._say):
                self._say("No restore was cut short.")
            return
        if not options["file"]:
            raise CommandError("Name the backup to restore.")
        passphrase = (
            read_passphrase(options["passphrase_file"]) if options["passphrase_file"] else b""
        )
        with open_archive(Path(options["file"]), passphrase) as archive:
            if options["secrets_to"]:
                for name in write_secrets(archive, Path(options["secrets_to"])):
                    self.stdout.write(name)
                return
            archive.verify(self._say)
            self._say(f"The backup is of {restoring.age_of(archive.manifest)}.")
            restoring.refuse_newer(archive.manifest)
            if options["replace"]:
                self._confirm(str(options["confirm"]), archive.manifest)
            done = restoring.restore(
                archive,
                self._say,
                replaces=options["replace"],
                keeps_secrets=options["keep_secrets"],
                is_rehearsal=options["rehearsal"],
            )
        for line in (*done.notes, *done.lost):
            self._say(line)
        if done.kept:
            self._say(f"What was there before is kept: {done.kept}. Remove it when all is well.")
        self.stdout.write(
            f"Restored {done.manifest.row_count} rows in {len(done.manifest.tables)} tables. "
            "Start the console, then run `manage.py doctor`."
        )

    def _confirm(self, given: str, manifest: Manifest) -> None:
        """The name, typed: nobody types it by habit."""
        name = Path(str(connection.settings_dict["NAME"])).name
        if not given:
            self._say(
                f"This puts the backup of {restoring.age_of(manifest)} in the place of {name}. "
                "What came after it is lost."
            )
            self.stderr.write(f"Type {name} to go on: ", ending="")
            given = sys.stdin.readline().strip()
        if given != name:
            raise CommandError("Nothing was changed.")

    def _say(self, line: str) -> None:
        self.stderr.write(line)
