"""Putting keys and secrets of a backup in place: planned first, staged, then moved by names."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from django.conf import settings

from agent_client.contract import dsse
from agent_client.contract.policy_doc import Root
from fleet.env import make_private_dir
from fleet.ops.archive import SECRETS, Archive
from fleet.ops.files import OpsError, sync_folder, whole_file
from fleet.ops.secret_parts import FILES_OF, ROOT_DOCUMENT, given_by_environment, held_secrets

KEYS: Final = ("FLEET_ROOT_KEY", "FLEET_POLICY_KEY")


@dataclass(frozen=True, slots=True)
class Placing:
    """What is to be written, by its name under FLEET_HOME; and what a person has to know."""

    files: dict[str, bytes]
    notes: tuple[str, ...] = ()


def plan_placing(archive: Archive, *, keeps_present: bool) -> Placing:
    """Which files a backup puts under FLEET_HOME. Reads, writes nothing.

    A policy root that is newer here than the backup's stays, with its keys: agents refuse an
    older one. Errors: OpsError where the environment gives a secret that is not the backup's.
    """
    stored = _stored(archive)
    if keeps_present or not stored:
        why = "--keep-secrets" if keeps_present else "the backup has none"
        return Placing({}, (f"Keys and secrets stay as they are here: {why}.",))
    notes, files, held = [], {}, held_secrets()
    keeps_keys = _root_version(_present_root()) > _root_version(archive.read(ROOT_DOCUMENT))
    if keeps_keys:
        notes.append("The policy root here is newer than the backup's: its keys stay.")
    elif root := archive.read(ROOT_DOCUMENT):
        files[ROOT_DOCUMENT] = root
    wrong = _wrong_here(stored, held, keeps_keys=keeps_keys)
    if wrong:
        raise OpsError(
            f"The environment gives other secrets than the backup's: {', '.join(wrong)}.\n"
            "Write the backup's with `restore FILE --secrets-to DIR` and set them, or go on with "
            "--keep-secrets: agents would then have to be enrolled anew, or refuse policy."
        )
    for name, path in FILES_OF.items():
        value = stored.get(name, "")
        if value and not given_by_environment(name) and not (keeps_keys and name in KEYS):
            files[path] = value.encode() + b"\n"
    notes += [
        f"The backup's console had {name} set; this one has not. `restore FILE --secrets-to DIR` "
        "writes it."
        for name in ("FLEET_SECRET_KEY_OLD", "FLEET_TOKEN_PEPPER_OLD")
        if stored.get(name) and not held.get(name)
    ]
    return Placing(files, tuple(notes))


def _wrong_here(
    stored: Mapping[str, str], held: Mapping[str, str], *, keeps_keys: bool
) -> list[str]:
    wrong = [
        name
        for name in FILES_OF
        if given_by_environment(name)
        and stored.get(name, held.get(name)) != held.get(name)
        and not (keeps_keys and name in KEYS)
    ]
    pepper_id = "FLEET_TOKEN_PEPPER_ID"
    if stored.get(pepper_id, held[pepper_id]) != held[pepper_id]:
        wrong.append(f"{pepper_id} (set it to {stored[pepper_id][:16]})")
    return wrong


def _stored(archive: Archive) -> dict[str, str]:
    data = archive.read(SECRETS)
    if not data:
        return {}
    try:
        found = json.loads(data)
        return {str(name): str(value) for name, value in found.items()}
    except (ValueError, AttributeError) as error:
        raise OpsError(f"{SECRETS} cannot be read.") from error


def _present_root() -> bytes:
    try:
        return (Path(settings.FLEET_HOME) / ROOT_DOCUMENT).read_bytes()
    except OSError:
        return b""


def _root_version(envelope: bytes) -> int:
    """The version a root document states; 0 when it is none."""
    try:
        return Root.from_dict(json.loads(dsse.peek(envelope))).version if envelope else 0
    except (ValueError, dsse.DsseError):
        return 0


def stage(placing: Placing, folder: Path) -> None:
    """Write the files into a folder of their own, durable. Errors: OpsError."""
    for name, data in placing.files.items():
        target = folder / name
        make_private_dir(target.parent)
        with whole_file(target) as out:
            out.write(data)
    make_private_dir(folder)
    sync_folder(folder)


def move_in(folder: Path, stamp: str) -> tuple[str, ...]:
    """Move staged files to their places; what was there stays as NAME.before-STAMP. Repeatable."""
    home, moved = Path(settings.FLEET_HOME), []
    staged = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in staged:
        name = path.relative_to(folder)
        target = home / name
        make_private_dir(target.parent)
        if target.exists() and target.read_bytes() != path.read_bytes():
            kept = target.with_name(f"{target.name}.before-{stamp}")
            kept.unlink(missing_ok=True)
            kept.hardlink_to(target)
        path.replace(target)
        sync_folder(target.parent)
        moved.append(str(name))
    shutil.rmtree(folder, ignore_errors=True)
    return tuple(moved)


def write_secrets(archive: Archive, folder: Path) -> tuple[str, ...]:
    """Write a backup's secrets into a new folder, a file each, for NAME_FILE. Errors: OpsError."""
    stored = _stored(archive)
    if not stored:
        raise OpsError("This backup holds no secrets.")
    try:
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise OpsError(f"--secrets-to {folder}: {error.strerror}") from error
    for name, value in stored.items():
        if name not in {*FILES_OF, *(f"{key}_OLD" for key in FILES_OF), "FLEET_TOKEN_PEPPER_ID"}:
            continue
        with whole_file(folder / name) as out:
            out.write(value.encode() + b"\n")
    return tuple(sorted(path.name for path in folder.iterdir()))
