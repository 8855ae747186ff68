"""Private files of the agent: bounded reads, atomic writes, one lock a file.

Everything under ``$HERMES_HOME/telemetry`` is 0600 in 0700 directories. When root writes into
a user's home (the policy service does), the file is given to that home's owner: a credential
only root can read would lock the user's own agent out.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

MAX_FILE_BYTES: Final = 32 * 1024 * 1024
"""Above any file we write; a larger one is not ours and is not read into memory."""


def telemetry_dir(home: Path) -> Path:
    """Where the local plane lives below an agent's home."""
    return home / "telemetry"


def read_bytes(path: Path, max_bytes: int = MAX_FILE_BYTES) -> bytes | None:
    """The bytes of a file; None when there is none. Errors: OSError, also for a file too large."""
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except FileNotFoundError:
        return None
    if len(data) > max_bytes:
        raise OSError(f"{path} is larger than {max_bytes} bytes")
    return data


def read_json(path: Path) -> dict[str, object] | None:
    """The object of a JSON file; None when it is absent, unreadable or not an object."""
    try:
        data = read_bytes(path)
        value = json.loads(data) if data else None
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def make_private_dir(path: Path) -> None:
    """Make a directory (parents too) with mode 0700, owned like what it lies in.

    Errors: OSError; for root also when it is a link: a user could aim root's writes elsewhere.
    """
    if os.geteuid() == 0 and path.is_symlink() and path.lstat().st_uid != 0:
        raise OSError(f"{path} is another user's symbolic link; root does not write through it")
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(mode=0o700, exist_ok=True)
        _give_to_owner_of(folder.parent, folder)


def write_atomic(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace a file so that a reader, or a crash, sees the old bytes or the new, never less.

    The temporary file is made with its final mode: a secret is at no time readable by others.
    """
    make_private_dir(path.parent)
    replace_file(path, data, mode, lambda descriptor: _give_to_owner_of(path.parent, descriptor))


def replace_file(
    path: Path, data: bytes, mode: int, prepare: Callable[[int], None] = lambda _descriptor: None
) -> None:
    """Write beside a file, sync, and rename over it; the folder must be there.

    ``prepare`` gets the descriptor of the new file, written and with its mode, before the rename.
    Errors: OSError; nothing is left behind then.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)  # the umask may have taken bits away
            prepare(file.fileno())
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise
    sync_dir(path.parent)


def json_bytes(value: Mapping[str, object]) -> bytes:
    """An object as the indented JSON that our files hold."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)
    return (text + "\n").encode("utf-8")


def write_json(path: Path, value: Mapping[str, object], mode: int = 0o600) -> None:
    """Write an object as indented JSON, atomically."""
    write_atomic(path, json_bytes(value), mode)


def open_private(path: Path, flags: int = os.O_RDWR) -> int:
    """A descriptor; a file that is made is 0600 and owned like its folder. Errors: OSError."""
    descriptor = os.open(path, flags | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _give_to_owner_of(path.parent, descriptor)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def make_private_file(path: Path) -> None:
    """See that a file is there, 0600 when it is made, owned like its folder; it is never opened.

    For databases: to close any descriptor of a file gives up every POSIX lock the process has on
    it, those of its SQLite connections too. Errors: OSError.
    """
    try:
        os.mknod(path, 0o600 | stat.S_IFREG)
    except FileExistsError:
        pass
    except OSError:  # macOS and BSD make no plain file so, and say it of one that is there too
        with suppress(FileExistsError):  # O_EXCL: one that is there is not opened
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    _give_to_owner_of(path.parent, path)


def sync_dir(path: Path) -> None:
    """Make a rename in this directory survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def set_aside(path: Path, suffix: str) -> Path:
    """Rename a file we cannot use to ``<name>.<suffix>`` beside it; evidence is never deleted."""
    target = path.with_name(f"{path.name}.{suffix}")
    count = 1
    while target.exists():
        count += 1
        target = path.with_name(f"{path.name}.{suffix}.{count}")
    path.rename(target)
    return target


@contextmanager
def exclusive_lock(path: Path) -> Iterator[bool]:
    """Hold an advisory lock on a file; yields False at once when another process holds it."""
    make_private_dir(path.parent)
    descriptor = open_private(path)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        # Unlocked, not only closed: a child forked meanwhile has a copy, and would hold on to it.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _give_to_owner_of(folder: Path, path: Path | int) -> None:
    if os.geteuid() != 0:
        return
    owner = folder.stat()
    if owner.st_uid != 0:
        os.chown(path, owner.st_uid, owner.st_gid)
