"""The archive: a zip written as a stream, its manifest last; and the proof that it is whole."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Final, cast

from fleet.ops import manifest as manifests
from fleet.ops.files import OpsError, in_words
from fleet.ops.manifest import Manifest, Member
from fleet.ops.sealed import MAGIC, SealingWriter, is_sealed, unseal

STEP: Final = 1024 * 1024
DATABASES: Final = {"postgresql": "database.dump", "sqlite": "database.sqlite3"}
SETTINGS: Final = "settings.json"
SECRETS: Final = "secrets.json"
KEYS: Final = "keys/"


class ArchiveWriter:
    """Adds members to an archive that is being written, and keeps their digests."""

    def __init__(self, out: IO[bytes] | SealingWriter) -> None:
        # To zipfile a sealing stream is what a pipe is: written once, from begin to end.
        self._zip = zipfile.ZipFile(cast("IO[bytes]", out), "w", zipfile.ZIP_STORED)
        self._members: dict[str, Member] = {}

    def add(self, name: str, source: IO[bytes], *, is_packed: bool = False) -> int:
        """Copy a stream in as one member; its size. ``is_packed``: it is compressed already."""
        info = zipfile.ZipInfo(name)
        info.external_attr = 0o600 << 16
        info.compress_type = zipfile.ZIP_STORED if is_packed else zipfile.ZIP_DEFLATED
        digest, size_bytes = hashlib.sha256(), 0
        with self._zip.open(info, "w", force_zip64=True) as member:
            while data := source.read(STEP):
                digest.update(data)
                size_bytes += len(data)
                member.write(data)
        self._members[name] = Member(digest.hexdigest(), size_bytes)
        return size_bytes

    def finish(self, manifest: Manifest) -> Manifest:
        """Write the manifest and the directory; the manifest with the members in it."""
        whole = replace(manifest, members=dict(self._members))
        self._zip.writestr(manifests.NAME, whole.to_json())
        self._zip.close()
        return whole


@contextlib.contextmanager
def archive_writer(out: IO[bytes], passphrase: bytes) -> Iterator[ArchiveWriter]:
    """A writer onto a stream, sealed when there is a passphrase."""
    if not passphrase:
        yield ArchiveWriter(out)
        return
    sealing = SealingWriter(out, passphrase)
    yield ArchiveWriter(sealing)
    sealing.finish()


class Archive:
    """An archive that can be read."""

    def __init__(self, opened: zipfile.ZipFile, manifest: Manifest) -> None:
        self._zip, self.manifest = opened, manifest

    def read(self, name: str) -> bytes:
        """A small member; b"" when it is not there."""
        if name not in self.manifest.members:
            return b""
        return self._zip.read(name)

    def copy(self, name: str, out: IO[bytes]) -> None:
        """A large member, held against its digest on the way. Errors: OpsError."""
        digest = hashlib.sha256()
        try:
            with self._zip.open(name) as member:
                while data := member.read(STEP):
                    digest.update(data)
                    out.write(data)
        except (zipfile.BadZipFile, KeyError, EOFError, ValueError) as error:
            raise OpsError(f"{name} is damaged: {error}") from error
        if digest.hexdigest() != self.manifest.members[name].sha256:
            raise OpsError(f"{name} is not what was written: its digest differs.")

    def verify(self, say: Callable[[str], None]) -> None:
        """Read every member and hold it against its digest. Errors: OpsError."""
        names = set(self._zip.namelist()) - {manifests.NAME}
        if names != set(self.manifest.members):
            odd = ", ".join(sorted(names ^ set(self.manifest.members)))
            raise OpsError(f"The manifest and the archive differ in: {odd[:300]}")
        with open("/dev/null", "wb") as nowhere:  # noqa: PTH123 -- a sink
            for name, member in self.manifest.members.items():
                self.copy(name, nowhere)
                say(f"{name}: {member.size_bytes} bytes, digest holds")


@contextlib.contextmanager
def open_archive(
    path: Path, passphrase: bytes = b"", scratch: Path | None = None
) -> Iterator[Archive]:
    """A backup opened for reading. Errors: OpsError."""
    try:
        with (
            path.open("rb") as source,
            read_archive(source, path, passphrase, scratch or path.parent) as opened,
        ):
            yield opened
    except OSError as error:
        raise OpsError(in_words(error, path)) from error


@contextlib.contextmanager
def read_archive(
    source: IO[bytes], path: Path, passphrase: bytes, scratch: Path
) -> Iterator[Archive]:
    """An archive in an open file; a sealed one is unsealed into a file without a name first.

    ``scratch`` is the folder of that file. Errors: OpsError.
    """
    source.seek(0)
    is_closed = is_sealed(source.read(len(MAGIC)))
    source.seek(0)
    if not is_closed:
        yield _opened(source, path)
        return
    if not passphrase:
        raise OpsError(f"{path} is sealed: name its --passphrase-file.")
    with tempfile.TemporaryFile(dir=scratch) as plain:
        unseal(source, plain, passphrase)
        plain.seek(0)
        yield _opened(plain, path)


def _opened(source: IO[bytes], path: Path) -> Archive:
    try:
        opened = zipfile.ZipFile(source)
        if opened.getinfo(manifests.NAME).file_size > manifests.MAX_BYTES:
            raise OpsError(f"{path}: its manifest is too large to be one.")
        manifest = Manifest.from_json(opened.read(manifests.NAME))
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise OpsError(f"{path} is no backup, or it is cut off ({error}).") from error
    if manifest.engine not in DATABASES:
        raise OpsError(f"{path}: a backup of {manifest.engine[:20]!r}, which is not known here.")
    return Archive(opened, manifest)
