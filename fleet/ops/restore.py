"""A backup put back: beside what is there, mended, and then in its place in one step.

1. Every digest is held, and what cannot be restored here is refused. 2. The database is filled
beside the present one, every table held against the manifest, migrated to this version, and
mended (``mend``). 3. Keys and secrets are staged, and a note of it is left (``half_restored``).
4. The databases change places: the one moment of the change. 5. Keys and secrets move in, the note
goes.
Killed before 4 the old console is there; after it the note makes ``restore --finish`` end 5.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

from django.conf import settings
from django.contrib.sessions.models import Session
from django.core.management import call_command
from django.core.management.color import no_style
from django.db import DatabaseError, connection, transaction
from django.db.migrations.loader import MigrationLoader
from django.db.models import F

from fleet.audit import record_change, verify_chain
from fleet.half_restored import journal_path
from fleet.lib.clock import now
from fleet.models import ChangeRecord, Fleet, InstallPolicy
from fleet.ops import hooks, secret_places
from fleet.ops.archive import Archive
from fleet.ops.files import OpsError, remove_dead_parts, whole_file
from fleet.ops.manifest import Manifest, TableFacts
from fleet.ops.staging import Staging, django_at, staging_for

ACTION: Final = "restore"
SAFE_ACTIONS: Final = ("erase", "revoke", "quarantine", "rotate", "publish", "roll_back")
"""Changes that matter most when they are lost: what was taken back is there again."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did, for a person."""

    manifest: Manifest
    kept: str
    notes: tuple[str, ...] = ()
    lost: tuple[str, ...] = field(default=())


def refuse_newer(manifest: Manifest) -> None:
    """Errors: OpsError for a backup of another engine or of a later version."""
    if manifest.engine != connection.vendor:
        raise OpsError(
            f"The backup is of {manifest.engine}, this console is on {connection.vendor}: set "
            "DATABASE_URL to the same engine."
        )
    known = set(MigrationLoader(None, ignore_no_migrations=True).disk_migrations)
    unknown = [name for name in manifest.migrations if tuple(name.split(".", 1)) not in known]
    if unknown:
        raise OpsError(
            f"The backup is of a newer version ({manifest.product_version}): {unknown[-1]} is not "
            "known here. Install that version, then restore."
        )


def restore(
    archive: Archive,
    say: Say,
    *,
    replaces: bool,
    keeps_secrets: bool,
    is_rehearsal: bool = False,
) -> Restored:
    """Put a verified backup back. Errors: OpsError; nothing has changed then.

    ``is_rehearsal``: what it sends on its own is switched off in it, the original does that.
    """
    home = Path(settings.FLEET_HOME)
    finish_pending(say)
    remove_dead_parts(home)
    refuse_newer(archive.manifest)
    placing = secret_places.plan_placing(archive, keeps_present=keeps_secrets)
    stamp = f"{now():%Y%m%dt%H%M%S}{secrets.token_hex(2)}"
    staging = staging_for(connection.vendor, stamp)
    was_empty = staging.is_empty()
    if not was_empty and not replaces:
        raise OpsError(
            "The database is not empty. Restore into an empty one, or put the backup in its place "
            "with --replace."
        )
    staging.refuse_company()
    staged = home / f".restore-{stamp}"
    try:
        mend_it = partial(mend, archive.manifest, stamp=stamp, is_rehearsal=is_rehearsal)
        lost, notes = _fill(staging, archive, say, mend_it, stamp=stamp, was_empty=was_empty)
        secret_places.stage(placing, staged)
        _write_journal({"id": stamp, "staged": staged.name, "database": staging.name()})
        kept = staging.swap()
    except BaseException:
        journal_path().unlink(missing_ok=True)
        shutil.rmtree(staged, ignore_errors=True)
        staging.drop()
        raise
    moved = secret_places.move_in(staged, stamp)
    journal_path().unlink()
    notes += placing.notes + ((f"In place under FLEET_HOME: {', '.join(moved)}.",) if moved else ())
    return Restored(archive.manifest, kept, notes, lost)


def _fill(
    staging: Staging,
    archive: Archive,
    say: Say,
    mend_it: Callable[[], tuple[str, ...]],
    *,
    stamp: str,
    was_empty: bool,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Fill and mend the database beside; what will be lost, and what was mended."""
    staging.fill(archive, say)
    with django_at(staging.name()):
        newest = ChangeRecord.objects.order_by("-id").values_list("id", flat=True).first() or 0
        say("Bringing it up to this version.")
        call_command("migrate", verbosity=0, interactive=False)
        notes = mend_it()
    lost: tuple[str, ...] = ()
    if not was_empty:
        lost = (*lost_rows(archive.manifest.tables, staging.facts()), *_lost_changes(newest, stamp))
        connection.close()
    return lost, notes


def mend(manifest: Manifest, *, stamp: str, is_rehearsal: bool = False) -> tuple[str, ...]:
    """What a database that goes back in time needs; what was done, for a person.

    1. Assignments begin above every version that agents can have seen: the floor is the time in
    seconds, and nobody issues one a second. All are issued anew. 2. Sessions end: some were logged
    out since. 3. Sequences stand behind their highest number. 4. What apps registered, and for a
    rehearsal what they switch off. 5. The audit trail is whole, and says that it was restored.
    """
    with transaction.atomic():
        fleet = Fleet.current()
        fleet.assignment_floor = max(fleet.assignment_floor + 1, int(now().timestamp()))
        fleet.save(update_fields=["assignment_floor"])
        reissued = InstallPolicy.objects.update(expires_at=F("issued_at"))
        ended, _each = Session.objects.all().delete()
        _mend_sequences()
        done = [f"{reissued} assignments will be issued anew, {ended} sessions were ended."]
        asked = [*hooks.after_restore(), *(hooks.for_rehearsal() if is_rehearsal else ())]
        done += [text for each in asked if (text := each())]
        fault = verify_chain()
        if fault is not None:
            raise OpsError(
                f"The backup's audit trail is broken at {fault.record_id}: {fault.problem}"
            )
        record_change(
            actor="manage.py",
            action=ACTION,
            target=fleet,
            pre=None,
            post={
                "id": stamp,
                "made_at": manifest.made_at,
                "from": manifest.hostname,
                "rehearsal": is_rehearsal,
            },
        )
    return tuple(done)


def _mend_sequences() -> None:
    from django.apps import apps

    tables = set(connection.introspection.table_names())
    models = [model for model in apps.get_models() if model._meta.db_table in tables]
    with connection.cursor() as cursor:
        for statement in connection.ops.sequence_reset_sql(no_style(), models):
            cursor.execute(statement)


def lost_rows(then: dict[str, TableFacts], at_present: dict[str, TableFacts]) -> tuple[str, ...]:
    """Tables that hold more now than in the backup, the largest difference first. Pure."""
    more = {
        name: facts.row_count - then.get(name, TableFacts(0)).row_count
        for name, facts in at_present.items()
    }
    ranked = sorted(((count, name) for name, count in more.items() if count > 0), reverse=True)
    return tuple(f"{name}: {count} rows came after the backup" for count, name in ranked[:20])


def _lost_changes(newest: int, stamp: str) -> tuple[str, ...]:
    """Changes of people since the backup: all into a file, those that matter most by name."""
    try:
        rows = list(ChangeRecord.objects.filter(id__gt=newest).order_by("id").values())
    except DatabaseError:
        return ("The present audit trail cannot be read: what people changed since is not known.",)
    if not rows:
        return ()
    path = Path(settings.FLEET_HOME) / f"lost-changes-{stamp}.json"
    with whole_file(path) as out:
        out.write(json.dumps(rows, default=str, indent=1).encode())
    named = [
        f"lost: {row['at']:%Y-%m-%d %H:%M} {row['actor']} {row['action']} {row['object_label']}"
        for row in rows
        if str(row["action"]).startswith(SAFE_ACTIONS)
    ]
    first = f"{len(rows)} changes of people came after the backup; all of them are in {path}"
    return (first, *named[:50])


# ------------------------------------------------------------------------------- after a kill


def _write_journal(content: dict[str, str]) -> None:
    with whole_file(journal_path()) as out:
        out.write(json.dumps(content).encode())


def finish_pending(say: Say) -> bool:
    """End a restore that was killed: forward when the databases changed places, else back."""
    home = Path(settings.FLEET_HOME)
    try:
        pending = json.loads(journal_path().read_bytes())
        stamp, staged = str(pending["id"]), home / Path(str(pending["staged"])).name
        database = str(pending["database"])
    except FileNotFoundError:
        return False
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OpsError(f"{journal_path()} cannot be read ({type(error).__name__}).") from error
    if _was_swapped(stamp):
        moved = secret_places.move_in(staged, stamp)
        say(f"The restore of {stamp} was cut short; now it is complete ({', '.join(moved)}).")
    else:
        shutil.rmtree(staged, ignore_errors=True)
        left = staging_for(connection.vendor, stamp)
        if left.name() == database:
            left.drop()
        elif connection.vendor == "sqlite":
            for path in Path(database).parent.glob(f"{Path(database).name}*"):
                path.unlink(missing_ok=True)
        say(f"The restore of {stamp} was cut short; nothing had changed, what it left is gone.")
    journal_path().unlink()
    return True


def _was_swapped(stamp: str) -> bool:
    """Whether the console's database is the one that was restored: its trail says so."""
    rows = ChangeRecord.objects.filter(object_type="fleet", object_id="1", action=ACTION)
    try:
        newest = rows.order_by("-id").first()
    except DatabaseError:
        return False
    with contextlib.closing(connection):
        return bool(newest and isinstance(newest.post, dict) and newest.post.get("id") == stamp)


def age_of(manifest: Manifest) -> str:
    """How old a backup is, in words."""
    made = datetime.fromisoformat(manifest.made_at).astimezone(UTC)
    hours = (now() - made).total_seconds() / 3600
    return f"{made:%Y-%m-%d %H:%M} UTC, {hours:.1f} hours ago"
