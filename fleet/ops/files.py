"""Files that are there whole or not at all, and the words for a full disk."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from fleet.lib.processes import is_running

PRIVATE: Final = 0o600
_PART: Final = re.compile(r"\..+\.part-(\d+)-[0-9a-f]{8}")


class OpsError(Exception):
    """What cannot be done, and what to do about it: one message for a person."""


def part_name(path: Path) -> Path:
    """A hidden name beside a file, which tells whose it is: ``.name.part-PID-RANDOM``."""
    return path.with_name(f".{path.name}.part-{os.getpid()}-{secrets.token_hex(4)}")


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A stream whose content becomes ``path`` when the block ends well; else nothing is left.

    Readable by its owner alone. Synced before it gets its name, and its folder after.
    Errors: OpsError for a disk that is full or a folder that cannot be written.
    """
    part = part_name(path)
    try:
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE)
    except OSError as error:
        raise OpsError(in_words(error, path.parent)) from error
    try:
        with os.fdopen(descriptor, "w+b") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise OpsError(in_words(error, path.parent)) from error
    finally:
        part.unlink(missing_ok=True)


def in_words(error: OSError, place: Path) -> str:
    """An error of the file system as a person reads it."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return (
            f"The disk of {place} is full. Nothing was kept of what was written.\n"
            "Free space there, or name a folder on another disk."
        )
    return f"{error.filename or place}: {error.strerror or error}"


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_dead_parts(folder: Path) -> int:
    """Remove what killed processes left half-written; how many."""
    removed = 0
    for path in folder.glob(".*.part-*"):
        match = _PART.fullmatch(path.name)
        if match is not None and not is_running(int(match[1])):
            path.unlink(missing_ok=True)
            removed += 1
    return removed
