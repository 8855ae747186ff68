"""Where results go: the console's own folder, a folder of the operator's, an S3-compatible store.

A file is written whole under another name and takes its own by ``publish``, so that nobody ever
reads half of one. The console's own folder is private (0700, 0600). A folder of the operator's lies
below one of FLEET_EXPORT_FOLDERS, and no symbolic link leads out of it.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Protocol

from django.conf import settings
from django.utils.translation import gettext as _

from telemetry.exports.faults import ExportFault, of_disk
from telemetry.models import ExportDestination, ExportJob

PIECE_BYTES: Final = 256 * 1024
"""Of a file that is read: small enough for many downloads at once."""
PART_SUFFIX: Final = ".part"
TEST_BYTES: Final = b"Hermes Fleet was here, and has read this back.\n"


class NewFile(Protocol):
    """A file that is being written; ``name`` is the one it will have."""

    name: str

    def write(self, data: bytes) -> None:
        """Append. Errors: ExportFault."""

    def complete(self) -> None:
        """Make it whole and durable; nobody sees it yet (S3: under its own name). ExportFault."""

    def publish(self) -> None:
        """Give it its name, at once; quick, so that it may stand in a transaction. ExportFault."""

    def abort(self) -> None:
        """Forget it, as far as it is not published. Never raises."""


class ResultStore(Protocol):
    """The place of one job's files."""

    is_own: bool
    where: str

    def create(self, name: str) -> NewFile:
        """A new file. Errors: ExportFault."""

    def read(self, name: str, start: int, end: int) -> Iterator[bytes]:
        """The bytes ``[start, end)`` in pieces. Errors: ExportFault, before the first piece too."""

    def read_all(self, name: str) -> bytes:
        """A small file. Errors: ExportFault."""

    def names(self) -> list[str]:
        """Files of this job that are there, unpublished ones included. Errors: ExportFault."""

    def delete(self, names: Sequence[str]) -> None:
        """Remove files, and the job's folder when it is empty; one that is gone is fine."""


def own_folder() -> Path:
    """Where the console keeps results that go nowhere else."""
    return Path(settings.FLEET_HOME) / "exports"


def folder_name(job: ExportJob) -> str:
    """A job's folder, in every place: its number for people, its uid against a second console."""
    return f"export-{job.pk}-{job.uid.hex[:12]}"


def open_store(destination: ExportDestination | None, job: ExportJob) -> ResultStore:
    """A job's place. Errors: ExportFault when the destination is away or not allowed."""
    if destination is None:
        return FolderStore(own_folder(), folder_name(job), is_own=True)
    if destination.kind == ExportDestination.Kind.S3:
        from telemetry.exports.s3 import S3Place

        return S3Place(destination, folder_name(job))
    return FolderStore(allowed_folder(destination), folder_name(job), is_own=False)


def allowed_folder(destination: ExportDestination) -> Path:
    """The folder, resolved. Errors: ExportFault when it is away or outside FLEET_EXPORT_FOLDERS."""
    where = _("The folder of %s") % destination.name
    path = Path(destination.folder)
    if not path.is_absolute() or "\x00" in destination.folder:
        raise ExportFault(_("%s is not an absolute path.") % where, is_final=True)
    try:
        found = path.resolve(strict=True)
        roots = [
            Path(root).resolve()
            for root in settings.FLEET_EXPORT_FOLDERS
            if Path(root).is_absolute()
        ]
    except (OSError, RuntimeError) as error:
        code = error if isinstance(error, OSError) else OSError(errno.ELOOP, "")
        raise of_disk(code, where) from None
    if not any(found.is_relative_to(root) for root in roots):
        raise ExportFault(_("%s is not below one of FLEET_EXPORT_FOLDERS.") % where, is_final=True)
    if not found.is_dir():
        raise of_disk(OSError(errno.ENOTDIR, ""), where)
    return found


class FolderStore:
    """A job's folder. Every file is opened through the folder's own handle, without links."""

    def __init__(self, base: Path, name: str, *, is_own: bool) -> None:
        self.is_own = is_own
        self.where = _("The console's export folder") if is_own else _("The destination's folder")
        self._base, self._name = base, name
        self._dir_mode, self._file_mode = (0o700, 0o600) if is_own else (0o750, 0o640)

    def create(self, name: str) -> NewFile:
        """A new file in the folder, which is made when it is not there."""
        try:
            if self.is_own:
                self._base.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._parent() as parent, suppress(FileExistsError):
                os.mkdir(self._name, self._dir_mode, dir_fd=parent)
            return _FolderFile(self._open_folder(), name, self.where, self._file_mode)
        except OSError as error:
            raise of_disk(error, self.where) from None

    def read(self, name: str, start: int, end: int) -> Iterator[bytes]:
        """The bytes in pieces; the file is opened at once, so that one that is away is told."""
        try:
            with self._folder() as folder:
                handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        except OSError as error:
            raise of_disk(error, self.where) from None
        return _read_pieces(handle, start, end)

    def read_all(self, name: str) -> bytes:
        """A small file, to its end."""
        return b"".join(self.read(name, 0, 1 << 40))

    def names(self) -> list[str]:
        """Every file in the job's folder."""
        try:
            with self._folder() as folder:
                return sorted(os.listdir(folder))  # noqa: PTH208 -- a handle, not a path
        except FileNotFoundError:
            return []
        except OSError as error:
            raise of_disk(error, self.where) from None

    def delete(self, names: Sequence[str]) -> None:
        """Remove them; the folder goes when nothing else is in it."""
        try:
            with self._folder() as folder:
                for name in names:
                    with suppress(FileNotFoundError):
                        os.unlink(name, dir_fd=folder)
            with self._parent() as parent, suppress(OSError):
                os.rmdir(self._name, dir_fd=parent)
        except FileNotFoundError:
            return
        except OSError as error:
            raise of_disk(error, self.where) from None

    def _open_folder(self) -> int:
        with self._parent() as parent:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            return os.open(self._name, flags, dir_fd=parent)

    @contextmanager
    def _parent(self) -> Iterator[int]:
        """The folder of all jobs. An operator's was resolved: no part of its path is a link.

        It is walked part by part: whoever may write above it could put a link there meanwhile.
        """
        flags = os.O_DIRECTORY | os.O_CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY)
        handle = os.open(self._base if self.is_own else self._base.anchor, flags)
        try:
            for part in () if self.is_own else self._base.parts[1:]:
                below = os.open(part, flags | os.O_NOFOLLOW, dir_fd=handle)
                os.close(handle)
                handle = below
            yield handle
        finally:
            os.close(handle)

    @contextmanager
    def _folder(self) -> Iterator[int]:
        handle = self._open_folder()
        try:
            yield handle
        finally:
            os.close(handle)


class _FolderFile:
    """A file under a temporary name of its own."""

    def __init__(self, folder: int, name: str, where: str, mode: int) -> None:
        self.name = name
        self._folder, self._where = folder, where
        self._part = f".{name}.{secrets.token_hex(6)}{PART_SUFFIX}"
        self._handle = -1
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            self._handle = os.open(self._part, flags, mode, dir_fd=folder)
        except OSError:
            os.close(folder)
            raise

    def write(self, data: bytes) -> None:
        """Append all of it."""
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(self._handle, left) :]
        except OSError as error:
            raise of_disk(error, self._where) from None

    def complete(self) -> None:
        """On the disk, whole."""
        try:
            os.fsync(self._handle)
            os.close(self._handle)
        except OSError as error:
            raise of_disk(error, self._where) from None
        self._handle = -1

    def publish(self) -> None:
        """Its own name, and the folder on the disk."""
        try:
            os.rename(self._part, self.name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            os.fsync(self._folder)
        except OSError as error:
            raise of_disk(error, self._where) from None

    def abort(self) -> None:
        """Close what is open; remove what has no name yet."""
        with suppress(OSError):
            if self._handle >= 0:
                os.close(self._handle)
        self._handle = -1
        if self._folder >= 0:
            with suppress(OSError):
                os.unlink(self._part, dir_fd=self._folder)
            with suppress(OSError):
                os.close(self._folder)
        self._folder = -1


def _read_pieces(handle: int, start: int, end: int) -> Iterator[bytes]:
    with os.fdopen(handle, "rb") as stream:
        stream.seek(start)
        left = end - start
        while left > 0 and (piece := stream.read(min(left, PIECE_BYTES))):
            left -= len(piece)
            yield piece


def test_destination(destination: ExportDestination) -> str:
    """Write a small file, read it back and remove it: "" or what is wrong, in words."""
    try:
        return _try_out(destination)
    except ExportFault as fault:
        return fault.words


test_destination.__test__ = False  # type: ignore[attr-defined]  # pytest takes its name for a test


def _try_out(destination: ExportDestination) -> str:
    probe = ExportJob(pk=0)
    store = open_store(destination, probe)
    name = f"fleet-test-{secrets.token_hex(6)}.txt"
    file = store.create(name)
    try:
        file.write(TEST_BYTES)
        file.complete()
        file.publish()
    finally:
        file.abort()
    found = b"".join(store.read(file.name, 0, len(TEST_BYTES)))
    store.delete([file.name])
    if found != TEST_BYTES:
        return _("What was written came back changed.")
    return ""


def is_private(path: Path) -> bool:
    """Whether nobody else may enter or read."""
    return stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
