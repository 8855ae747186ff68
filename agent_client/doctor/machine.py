"""The machine: the home, Python and its packages, who may read the files, disk, timers."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from agent_client.doctor.check import Check, Level, Subject
from agent_client.files import telemetry_dir

OLDEST_PYTHON: Final = (3, 11)
LOW_BYTES: Final = 256 * 1024 * 1024
"""A day of a busy agent, with room for the database's own log."""
FULL_BYTES: Final = 16 * 1024 * 1024
"""Less than a few spools (4 MiB each): events are about to be lost."""
MAX_FILES: Final = 2000
"""Files looked at; a damaged home may hold any number."""
_TIMERS: Final = ("hermes-telemetry-push.timer", "hermes-telemetry-policy.timer")


def check_home(subject: Subject) -> Iterator[Check]:
    """The home is there and may be written."""
    home = subject.home
    if not home.is_dir():
        hint = "Install and start the agent once, or name its home with --home or HERMES_HOME."
        yield Check("home", "fail", f"{home} is not there", hint)
    elif not os.access(home, os.W_OK):
        yield Check("home", "fail", f"{home} cannot be written by this user", "Check its owner.")
    else:
        yield Check("home", "ok", str(home))


def check_python(subject: Subject) -> Iterator[Check]:
    """Python is new enough, and each package that the configuration asks for is there."""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < OLDEST_PYTHON:
        yield Check("python", "fail", f"{version} is too old", "Use Python 3.11 or newer.")
    else:
        yield Check("python", "ok", version)
    has_pii = subject.settings.get("telemetry.content_redaction") == "pii"
    has_config = (subject.home / "config.yaml").exists()
    needed: tuple[tuple[str, str, bool, str], ...] = (
        ("re2", "google-re2", True, "no secret can be removed, so nothing is exported or pushed"),
        ("phonenumbers", "phonenumbers", has_pii, "phone numbers cannot be recognized"),
        ("yaml", "PyYAML", has_config, "config.yaml cannot be read"),
        ("cryptography", "cryptography", subject.credential is not None, "no policy is verified"),
    )
    missing = False
    for module, package, is_needed, consequence in needed:
        if _is_importable(module):
            continue
        missing = True
        level: Level = "fail" if is_needed else "warn"
        hint = f"{sys.executable} -m pip install '{package}'"
        yield Check("packages", level, f"{package} is missing: {consequence}", hint)
    if not missing:
        zstd = "" if _is_importable("zstandard") else "; [zstd] is not there, pushes use gzip"
        yield Check("packages", "ok", f"all there{zstd}")


def _is_importable(module: str) -> bool:
    from importlib.util import find_spec

    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def check_permissions(subject: Subject) -> Iterator[Check]:
    """Nobody else may read what is recorded, and it all belongs to whom the folder belongs."""
    folder = telemetry_dir(subject.home)
    if not folder.exists():
        return
    owner = folder.stat().st_uid
    open_to_others, of_others = [], []
    for path in _below(folder):
        try:
            found = path.lstat()
        except OSError:
            continue  # a spool that ended meanwhile
        name = str(path.relative_to(folder.parent))
        if found.st_mode & 0o077 and not path.is_symlink():
            open_to_others.append(f"{name} {found.st_mode & 0o777:04o}")
        if found.st_uid != owner:
            of_others.append(name)
    if open_to_others:
        hint = f"chmod -R go-rwx {folder}"
        yield Check("permissions", "fail", f"open to other users: {_some(open_to_others)}", hint)
    if of_others:
        hint = f"chown -R --reference={folder} {folder}   (as root)"
        yield Check("permissions", "fail", f"of another owner: {_some(of_others)}", hint)
    if not os.access(folder, os.W_OK):
        yield Check("permissions", "fail", f"{folder} cannot be written", "Check its owner.")
    elif not open_to_others and not of_others:
        yield Check("permissions", "ok", "files are private")


def _below(folder: Path) -> Iterator[Path]:
    yield folder
    for count, path in enumerate(folder.rglob("*")):
        if count >= MAX_FILES:
            return
        yield path


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def check_disk(subject: Subject) -> Iterator[Check]:
    """There is room to go on recording."""
    place = subject.home if subject.home.is_dir() else subject.home.parent
    try:
        found = os.statvfs(place)
    except OSError:
        return  # check_home has said it
    free_bytes = found.f_bavail * found.f_frsize
    text = f"{free_bytes / 1e9:.1f} GB free" if free_bytes >= 1e9 else f"{free_bytes / 1e6:.0f} MB"
    hint = "Make room; 'hermes-telemetry prune --days N --dry-run' shows what of ours could go."
    if free_bytes < FULL_BYTES or (found.f_files and not found.f_favail):
        yield Check("disk", "fail", f"{text}: full, events will be lost", hint)
    elif free_bytes < LOW_BYTES:
        yield Check("disk", "warn", f"{text} left", hint)
    else:
        yield Check("disk", "ok", text)


def check_timers(subject: Subject) -> Iterator[Check]:
    """Which systemd timers are there; pushing also works without them."""
    base = subject.settings.environ.get("XDG_CONFIG_HOME", "")
    user = (Path(base) if base else Path.home() / ".config") / "systemd/user"
    found = []
    for name, folder in zip(_TIMERS, (user, Path("/etc/systemd/system")), strict=True):
        if (folder / "timers.target.wants" / name).exists():
            found.append(f"{name} enabled")
        elif (folder / name).exists():
            found.append(f"{name} there, not enabled")
    text = ", ".join(found) or "none: pushes happen while a long-lived agent runs, and by hand"
    yield Check("timers", "info", text)
