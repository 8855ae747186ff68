"""Pins into managed scope: plan what changes, then write it so that the host cannot misread it.

The managed file belongs to the machine, not to us: keys we did not write are kept as they are,
even where a pin wants the same key (that is drift, with its cause, not ours to overwrite). Keys
are removed only when we wrote them and the bundle names them, in ``delete`` or as recommended
only: omission never deletes.

Steps of ``write_plan``: 1. render block-style YAML with quoted texts; 2. parse it back; 3. record
ownership of old and new keys; 4. temporary file, fsync, 0644, a changed mtime, rename; 5. read
the file back; 6. on failure put the former bytes back; 7. record what is owned now.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from agent_client.config import CONFIG_FILE, MAX_CONFIG_BYTES, parse_yaml
from agent_client.contract.canonical import digest_of
from agent_client.contract.policy_doc import Bundle
from agent_client.files import json_bytes, read_bytes, replace_file, set_aside
from agent_client.policy.leaves import find, leaves, pins_of, same
from agent_client.policy.state import (
    OWNERSHIP_FILE,
    KeyPath,
    Ownership,
    load_ownership,
    ownership_document,
)

FILE_MODE: Final = 0o644
DIR_MODE: Final = 0o755
"""The host reads managed scope as the agent's user: anything tighter silently unpins everything."""
HEADER: Final = (
    "# Managed scope of this machine. The keys listed in fleet-pins.json beside this file are\n"
    "# written by 'hermes-telemetry policy sync'; all other keys are yours and are kept.\n"
)


class ApplyError(Exception):
    """Managed scope could not be written; the former file is in place.

    ``code``: not_writable, other_install, parse_back, read_back.
    """

    def __init__(self, code: str, message: str, *, rolled_back: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.rolled_back = rolled_back


@dataclass(frozen=True, slots=True)
class Plan:
    """What the managed file becomes. ``conflicts``: pins whose place another hand holds."""

    document: dict[str, object]
    owned: dict[KeyPath, str]
    written: tuple[KeyPath, ...] = ()
    removed: tuple[KeyPath, ...] = ()
    conflicts: tuple[KeyPath, ...] = ()


@dataclass(frozen=True, slots=True)
class Written:
    """What applying did; ``set_aside`` is where a malformed former file went."""

    changed: bool
    plan: Plan
    set_aside: str = ""


def plan_apply(current: Mapping[str, object], ownership: Ownership, bundle: Bundle) -> Plan:
    """The document that holds the bundle's pins and everybody else's keys. Pure."""
    document = copy.deepcopy(dict(current))
    owned = dict(ownership.paths)
    wanted = leaves(bundle.mandatory)
    # A pin that is only recommended from now on is named, too: it no longer binds.
    named = {*bundle.delete, *pins_of(bundle.recommended, bundle.meta)}
    removed = tuple(path for path in owned if path not in wanted and _is_deleted(path, named))
    for path in removed:
        _remove(document, path)
        del owned[path]
    written: list[KeyPath] = []
    conflicts: list[KeyPath] = []
    for path, value in wanted.items():
        is_there, found = find(document, path)
        is_ours = path in owned
        if is_there and not is_ours and same(value, found):
            continue  # another hand pinned the same: in force, and not ours to remove later
        if not is_ours and (is_there or _is_blocked(document, path)):
            conflicts.append(path)
            continue
        if is_ours and not is_there and _is_blocked(document, path):
            conflicts.append(path)
            continue
        if not is_there or not same(value, found):
            _set(document, path, value)
            written.append(path)
        owned[path] = digest_of(value)
    return Plan(document, owned, tuple(written), removed, tuple(conflicts))


def render(document: Mapping[str, object]) -> bytes:
    """Block-style YAML, texts and keys quoted, no line folded, no anchors.

    Errors: ApplyError parse_back when reading it would not give the same document.
    """
    import yaml

    class Quoted(yaml.SafeDumper):
        def ignore_aliases(self, data: object) -> bool:
            del data  # an anchor is one more thing to misread, whatever it names
            return True

    def quoted(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')

    Quoted.add_representer(str, quoted)
    body = yaml.dump(
        dict(document), Dumper=Quoted, default_flow_style=False, allow_unicode=True, width=2**20
    )
    data = (HEADER + body).encode("utf-8")
    if not same(parse_yaml(data) or {}, dict(document)):
        raise ApplyError("parse_back", "the written YAML does not read back as the same document")
    return data


def apply_bundle(managed_dir: Path, bundle: Bundle, claim: Ownership) -> Written:
    """Bring a managed scope to a bundle. ``claim`` says who writes (ids, versions, meta).

    Errors: ApplyError.
    """
    former = load_ownership(managed_dir)
    if former.install_id not in {"", claim.install_id} and former.home != claim.home:
        raise ApplyError(
            "other_install",
            f"the managed scope {managed_dir} is held by install {former.install_id}",
        )
    path = managed_dir / CONFIG_FILE
    former_bytes = _read(path)
    current, is_malformed = _parsed(former_bytes)
    plan = plan_apply(current, former, bundle)
    record = replace(claim, paths=plan.owned)
    if not (plan.written or plan.removed or is_malformed):
        if replace(former, written_ns=0) != replace(record, written_ns=0):
            _prepare_dir(managed_dir)
            _write_record(managed_dir, record)
        return Written(changed=False, plan=plan)
    aside = write_plan(managed_dir, plan, record, former, former_bytes, is_malformed=is_malformed)
    return Written(changed=True, plan=plan, set_aside=aside)


def write_plan(
    managed_dir: Path,
    plan: Plan,
    record: Ownership,
    former: Ownership,
    former_bytes: bytes | None,
    *,
    is_malformed: bool = False,
) -> str:
    """Write a plan in the steps above; where a malformed file went. Errors: ApplyError."""
    path = managed_dir / CONFIG_FILE
    data = render(plan.document)
    _prepare_dir(managed_dir)
    aside = ""
    try:
        if is_malformed:
            aside = str(set_aside(path, "malformed"))
        elif former_bytes is not None and not former.paths:
            _replace(managed_dir / f"{CONFIG_FILE}.before-fleet", former_bytes)  # keeps comments
        both = replace(record, paths={**former.paths, **record.paths})
        _write_record(managed_dir, both)
        _replace(path, data)
    except OSError as error:
        raise _not_writable(managed_dir, error) from error
    if not same(_parsed(_read(path))[0], plan.document):
        _roll_back(path, former_bytes, former)
        raise ApplyError("read_back", f"{path} does not read back as written", rolled_back=True)
    _write_record(managed_dir, record)
    return aside


def _roll_back(path: Path, former_bytes: bytes | None, former: Ownership) -> None:
    with suppress(OSError):
        if former_bytes is None:
            path.unlink(missing_ok=True)
        else:
            _replace(path, former_bytes)
        _write_record(path.parent, former)


def _prepare_dir(managed_dir: Path) -> None:
    """The directory, 0755: readable by every agent's user, writable by none but its owner."""
    try:
        managed_dir.mkdir(mode=DIR_MODE, parents=True, exist_ok=True)
        if managed_dir.stat().st_mode & 0o777 != DIR_MODE:
            managed_dir.chmod(DIR_MODE)
    except OSError as error:
        raise _not_writable(managed_dir, error) from error


def _not_writable(managed_dir: Path, error: OSError) -> ApplyError:
    return ApplyError(
        "not_writable", f"{managed_dir} cannot be written ({error.strerror or error}); run as root"
    )


def _write_record(managed_dir: Path, record: Ownership) -> None:
    try:
        _replace(managed_dir / OWNERSHIP_FILE, json_bytes(ownership_document(record)))
    except OSError as error:
        raise _not_writable(managed_dir, error) from error


def _replace(path: Path, data: bytes) -> None:
    """Replace a world-readable file atomically, never with the mtime and size it had.

    The host caches by (mtime_ns, size): an edit within one clock tick that keeps the length
    would stay unseen by running agents.
    """
    try:
        former_ns = path.stat().st_mtime_ns
    except FileNotFoundError:
        former_ns = 0

    def date(descriptor: int) -> None:
        now_ns = time.time_ns()
        # A whole millisecond on: coarse file systems would round a nanosecond away.
        changed_ns = now_ns if now_ns > former_ns else former_ns + 1_000_000
        os.utime(descriptor, ns=(changed_ns, changed_ns))

    replace_file(path, data, FILE_MODE, date)


def _read(path: Path) -> bytes | None:
    try:
        return read_bytes(path, MAX_CONFIG_BYTES)
    except OSError as error:
        raise ApplyError("not_writable", f"{path} cannot be read ({error.strerror})") from error


def _parsed(data: bytes | None) -> tuple[dict[str, object], bool]:
    """The document of a managed file, and whether it is one the host cannot read."""
    if data is None or not data.strip():
        return {}, False
    try:
        value = parse_yaml(data)
    except ValueError:
        return {}, True
    if value is None:
        return {}, False
    return (value, False) if isinstance(value, dict) else ({}, True)


def _is_deleted(path: KeyPath, deleted: Collection[str]) -> bool:
    """Whether a key, or a map it lies in, is named for deletion."""
    return any(".".join(path[:length]) in deleted for length in range(1, len(path) + 1))


def _is_blocked(document: Mapping[str, object], path: KeyPath) -> bool:
    """Whether a value that is no map stands where the path needs one."""
    for length in range(1, len(path)):
        is_there, found = find(document, path[:length])
        if is_there and found is not None and not isinstance(found, dict):
            return True
    return False


def _set(document: dict[str, object], path: KeyPath, value: object) -> None:
    node = document
    for part in path[:-1]:
        child = node.get(part)
        if not isinstance(child, dict):
            child = node[part] = {}
        node = child
    node[path[-1]] = copy.deepcopy(value)


def _remove(document: dict[str, object], path: KeyPath) -> None:
    """Remove a leaf and the maps it leaves empty: an empty map makes a key look managed."""
    nodes: list[dict[str, object]] = [document]
    for part in path[:-1]:
        child = nodes[-1].get(part)
        if not isinstance(child, dict):
            return
        nodes.append(child)
    nodes[-1].pop(path[-1], None)
    for depth in range(len(nodes) - 1, 0, -1):
        if not nodes[depth]:
            del nodes[depth - 1][path[depth - 1]]
