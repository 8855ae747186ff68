"""Count, or delete, what is held of named installs; ``simulate`` proves its ledger with it."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from dataclasses import asdict
from pathlib import Path
from typing import Final
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError

from fleet.audit import record_change
from fleet.models import Fleet, InstallCredential
from telemetry.store.held import count_held, count_spooled, remove_held

ACTOR: Final = "manage.py"
MAX_NAMED: Final = 100
"""Of a crowd of thousands the audit row names so many."""


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
            self.stdout.write(json.dumps({"removed": _removed(install_ids)}))
            return
        held = count_held(install_ids, str(mark))
        tables = {name: asdict(each) for name, each in held.items()}
        found = {"tables": tables, "spooled": count_spooled(install_ids)}
        self.stdout.write(json.dumps(found))


def _removed(install_ids: list[UUID]) -> int:
    """Delete what is held, and put on record what was. Errors: CommandError for a live install."""
    live = InstallCredential.objects.filter(revoked_at=None).values_list("install_id", flat=True)
    held = set(live).intersection(install_ids)
    if held:
        raise CommandError(
            f"{len(held)} of them can still push, {min(held)} first. Erase a person's install with "
            "fleet_erase: it leaves a tombstone and a signed report."
        )
    removed = remove_held(install_ids)
    named = sorted(map(str, install_ids))[:MAX_NAMED]
    record_change(
        actor=ACTOR,
        action="remove_held",
        target=Fleet.current(),
        pre={"installs": len(install_ids), "rows": removed, "first": named},
        post=None,
    )
    return removed
