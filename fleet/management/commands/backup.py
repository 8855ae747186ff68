"""Back up the whole console while it works, or prove a backup without restoring it."""

from __future__ import annotations

import sqlite3
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import psycopg
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError

from fleet.ops import backup
from fleet.ops.archive import open_archive
from fleet.ops.files import OpsError
from fleet.ops.sealed import read_passphrase

STDOUT = "-"


class Command(BaseCommand):
    help = (
        "Write database, keys, secrets and settings into one archive. Results of exports and the "
        "broker's files are not in it: they are made again."
    )

    requires_system_checks = []  # a console that is not well needs its backup all the more

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "where", nargs="?", default="", help="folder (default FLEET_HOME/backups), or - "
        )
        parser.add_argument("--keep", type=int, default=0, metavar="N", help="0 (default): all")
        parser.add_argument("--passphrase-file", default="", help="seal it with what stands there")
        parser.add_argument("--without-secrets", action="store_true", help="no keys, no secrets")
        parser.add_argument("--verify", default="", metavar="FILE", help="prove a backup, no more")

    def handle(self, *args: Any, **options: Any) -> None:  # noqa: ANN401  # Any: Django's signature
        try:
            passphrase = (
                read_passphrase(options["passphrase_file"]) if options["passphrase_file"] else b""
            )
            if options["verify"]:
                self._verify(Path(options["verify"]), passphrase)
            else:
                self._make(options, passphrase)
        except OpsError as error:
            raise CommandError(str(error)) from error
        except (DatabaseError, psycopg.Error, sqlite3.Error) as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise CommandError(f"The database: {first}. No backup was made.") from error

    def _verify(self, path: Path, passphrase: bytes) -> None:
        with open_archive(path, passphrase) as opened:
            opened.verify(self._say)
            found = opened.manifest
            self.stdout.write(
                f"{path}: whole. {found.engine} {found.engine_version}, made {found.made_at} by "
                f"version {found.product_version}: {len(found.tables)} tables, "
                f"{found.row_count} rows, {'with' if found.has_secrets else 'without'} secrets."
            )

    def _make(self, options: dict[str, Any], passphrase: bytes) -> None:  # Any: parsed options
        if options["keep"] < 0:
            raise CommandError("--keep: 0 keeps all, N the newest N")
        with_secrets = not options["without_secrets"]
        if with_secrets and not passphrase:
            self._say("It will hold keys and secrets in the clear: --passphrase-file seals it.")
        if options["where"] == STDOUT:
            made = backup.stream_backup(
                sys.stdout.buffer, self._say, passphrase=passphrase, with_secrets=with_secrets
            )
        else:
            folder = Path(options["where"] or Path(settings.FLEET_HOME) / "backups")
            made = backup.make_backup(
                folder.expanduser().absolute(),
                self._say,
                passphrase=passphrase,
                with_secrets=with_secrets,
                keep=options["keep"],
            )
        for name in made.removed:
            self._say(f"Removed {name}: --keep {options['keep']}.")
        self._say(
            f"{len(made.manifest.tables)} tables, {made.manifest.row_count} rows, "
            f"{made.size_bytes} bytes."
        )
        if made.path is not None:
            self.stdout.write(str(made.path))

    def _say(self, line: str) -> None:
        self.stderr.write(line)
