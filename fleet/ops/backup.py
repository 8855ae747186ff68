"""A backup of the whole console, as of one moment, while it works.

In it: the database, the keys, the secrets and the settings that matter. Not in it: results of
exports (made again from the rows), the broker's files and Redis (doorbells), static files.
"""

from __future__ import annotations

import io
import os
import platform
import shutil
import socket
import sqlite3
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any, Final, cast

from django.conf import settings
from django.db import connection, transaction

from fleet.audit import record_change
from fleet.half_restored import MEND, WHAT, is_pending
from fleet.lib.clock import now
from fleet.models import ChangeRecord, Fleet
from fleet.ops import archive, postgres, secret_parts, sqlite
from fleet.ops.archive import ArchiveWriter, archive_writer, read_archive
from fleet.ops.files import OpsError, remove_dead_parts, whole_file
from fleet.ops.manifest import FORMAT, Manifest

ACTION: Final = "backup"
PREFIX: Final = "fleet-backup-"
OPEN_ENDING: Final = ".zip"
SEALED_ENDING: Final = ".zip.sealed"
MARGIN: Final = 1.1
"""Room asked for beyond the last backup's size: it grows from day to day."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Made:
    """A backup that is there. ``path`` is None for one that went to standard output."""

    manifest: Manifest
    path: Path | None
    size_bytes: int
    removed: tuple[str, ...] = ()


def product_version() -> str:
    """The console's version; "source" where it is not installed."""
    try:
        return version("hermes-fleet")
    except PackageNotFoundError:
        return "source"


def new_name(moment: datetime, *, is_sealed: bool) -> str:
    """A file name that sorts by time."""
    ending = SEALED_ENDING if is_sealed else OPEN_ENDING
    return f"{PREFIX}{moment:%Y%m%dT%H%M%SZ}{ending}"


def make_backup(
    folder: Path, say: Say, *, passphrase: bytes = b"", with_secrets: bool = True, keep: int = 0
) -> Made:
    """Write a backup into a folder, prove it, then let older ones go. Errors: OpsError.

    1. what killed backups left is removed; 2. the archive is written, whole or not at all; 3. it is
    read back and held against its digests; 4. only then ``keep`` (0: all) thins the folder out;
    5. the audit trail gets its row, from which ``doctor`` tells the age of the last one.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise OpsError(f"{folder}: {error.strerror}") from error
    remove_dead_parts(folder)
    _refuse_full(folder)
    path = folder / new_name(now(), is_sealed=bool(passphrase))
    with whole_file(path) as out:
        manifest = write_backup(
            out, say, passphrase=passphrase, with_secrets=with_secrets, scratch=folder
        )
        out.flush()
        os.fsync(out.fileno())
        # Before it gets its name: a name stands for a backup that was read back.
        size_bytes = out.tell()
        say("Reading it back.")
        with read_archive(out, path, passphrase, folder) as written:
            written.verify(lambda _line: None)
    removed = thin_out(folder, keep, path) if keep else ()
    _record(path.name, manifest, size_bytes, is_sealed=bool(passphrase))
    return Made(manifest, path, size_bytes, removed)


def stream_backup(
    out: IO[bytes], say: Say, *, passphrase: bytes = b"", with_secrets: bool = True
) -> Made:
    """The same onto a pipe, which cannot be read back. Errors: OpsError."""
    counting = _Counting(out)
    scratch = Path(settings.FLEET_HOME)
    pipe = cast("IO[bytes]", counting)  # written and flushed, no more
    manifest = write_backup(
        pipe, say, passphrase=passphrase, with_secrets=with_secrets, scratch=scratch
    )
    out.flush()
    _record("-", manifest, counting.size_bytes, is_sealed=bool(passphrase))
    return Made(manifest, None, counting.size_bytes)


def write_backup(
    out: IO[bytes], say: Say, *, passphrase: bytes, with_secrets: bool, scratch: Path
) -> Manifest:
    """Write all members and the manifest. Errors: OpsError."""
    if is_pending():
        raise OpsError(f"{WHAT} {MEND}")
    with archive_writer(out, passphrase) as writer:
        made_at = now()
        if connection.vendor == "postgresql":
            manifest = _add_postgres(writer, say, made_at, with_secrets=with_secrets)
        else:
            manifest = _add_sqlite(writer, say, made_at, scratch, with_secrets=with_secrets)
        writer.add(archive.SETTINGS, io.BytesIO(secret_parts.settings_document()))
        if root := secret_parts.root_document():
            writer.add(secret_parts.ROOT_DOCUMENT, io.BytesIO(root))
        if with_secrets:
            writer.add(archive.SECRETS, io.BytesIO(secret_parts.secrets_document()))
        return writer.finish(manifest)


def _add_postgres(
    writer: ArchiveWriter, say: Say, made_at: datetime, *, with_secrets: bool
) -> Manifest:
    """pg_dump on an exported snapshot; rows are counted on the same one, so both agree."""
    with postgres.connected(autocommit=False) as held:
        tool = postgres.find_tool("pg_dump", postgres.server_major(held))
        held.isolation_level = _repeatable_read()
        held.read_only = True
        row = held.execute("SELECT pg_export_snapshot()").fetchone()
        assert row is not None  # noqa: S101 -- a function gives one row
        say(f"Dumping with pg_dump {tool.version}.")
        options = ["--format=custom", "--no-owner", "--no-privileges", f"--snapshot={row[0]}"]
        command = [tool.path, *options, "--dbname", postgres.address()]
        with postgres.reading(command, "pg_dump") as dump:
            size = writer.add(archive.DATABASES["postgresql"], _told(dump, say), is_packed=True)
        say(f"Dumped {size} bytes. Counting rows.")
        fleet = _one(held, "SELECT fleet_id FROM fleet_fleet")
        return Manifest(
            format=FORMAT,
            made_at=made_at.isoformat(),
            product_version=product_version(),
            engine="postgresql",
            engine_version=str(held.info.parameter_status("server_version") or ""),
            tool_version=tool.version,
            fleet_id=fleet,
            hostname=socket.gethostname(),
            has_secrets=with_secrets,
            migrations=postgres.migrations_of(held),
            tables=postgres.facts_of(held),
        )


def _repeatable_read() -> Any:  # noqa: ANN401 -- the driver's own enumeration
    import psycopg

    return psycopg.IsolationLevel.REPEATABLE_READ


def _one(held: Any, query: str) -> str:  # noqa: ANN401 -- a connection of either engine
    row = held.execute(query).fetchone()
    return str(row[0]) if row else ""


def _add_sqlite(
    writer: ArchiveWriter, say: Say, made_at: datetime, scratch: Path, *, with_secrets: bool
) -> Manifest:
    with tempfile.TemporaryDirectory(prefix=".fleet-backup-", dir=scratch) as folder:
        copy = Path(folder) / "database.sqlite3"
        say("Copying the database.")
        sqlite.copy_into(sqlite.database_path(), copy)
        with copy.open("rb") as source:
            size = writer.add(archive.DATABASES["sqlite"], _told(source, say))
        say(f"Copied {size} bytes. Counting rows.")
        with sqlite.opened(copy) as held:
            return Manifest(
                format=FORMAT,
                made_at=made_at.isoformat(),
                product_version=product_version(),
                engine="sqlite",
                engine_version=sqlite3.sqlite_version,
                tool_version=platform.python_version(),
                fleet_id=_one(held, "SELECT fleet_id FROM fleet_fleet"),
                hostname=socket.gethostname(),
                has_secrets=with_secrets,
                migrations=sqlite.migrations_of(held),
                tables=sqlite.facts_of(held),
            )


def _told(source: IO[bytes], say: Say) -> IO[bytes]:
    """The stream, with a line each 64 MiB."""
    return _Telling(source, say)  # type: ignore[return-value]  # read() is all that is called


class _Telling:
    def __init__(self, source: IO[bytes], say: Say) -> None:
        self._source, self._say, self._done, self._next = source, say, 0, 64 * 1024**2

    def read(self, size: int) -> bytes:
        """Pass on."""
        data = self._source.read(size)
        self._done += len(data)
        if self._done >= self._next:
            self._say(f"… {self._done // 1024**2} MiB")
            self._next += 64 * 1024**2
        return data


class _Counting(io.RawIOBase):
    """Counts what goes into a pipe."""

    def __init__(self, out: IO[bytes]) -> None:
        super().__init__()
        self._out, self.size_bytes = out, 0

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: Any) -> int:  # noqa: ANN401 -- whatever holds bytes
        """Pass on."""
        size = len(data)
        self._out.write(data)
        self.size_bytes += size
        return size

    def flush(self) -> None:
        """Pass on."""
        self._out.flush()


def _refuse_full(folder: Path) -> None:
    """Say before the work that there is no room for another one like the last."""
    last = last_backup()
    size = int(last.post.get("size_bytes", 0)) if last and isinstance(last.post, dict) else 0
    free = shutil.disk_usage(folder).free
    if size and free < size * MARGIN:
        raise OpsError(
            f"The disk of {folder} is full: {free // 1024**2} MiB are free, and the last backup "
            f"took {size // 1024**2} MiB.\nFree space there, or name a folder on another disk."
        )


def backups_in(folder: Path) -> list[Path]:
    """The backups of a folder, newest first."""
    endings = (OPEN_ENDING, SEALED_ENDING)
    found = [path for path in folder.glob(f"{PREFIX}*") if path.name.endswith(endings)]
    return sorted(found, key=lambda path: path.name, reverse=True)


def thin_out(folder: Path, keep: int, newest: Path) -> tuple[str, ...]:
    """Remove all but the ``keep`` newest; the one that was proved just now is never removed."""
    removed = []
    for path in [each for each in backups_in(folder) if each != newest][max(keep - 1, 0) :]:
        path.unlink(missing_ok=True)
        removed.append(path.name)
    return tuple(removed)


def _record(name: str, manifest: Manifest, size_bytes: int, *, is_sealed: bool) -> None:
    with transaction.atomic():
        record_change(
            actor="manage.py",
            action=ACTION,
            target=_fleet(),
            pre=None,
            post={
                "name": name,
                "size_bytes": size_bytes,
                "row_count": manifest.row_count,
                "has_secrets": manifest.has_secrets,
                "is_sealed": is_sealed,
            },
        )


def _fleet() -> Fleet:
    """The fleet by what its first release knew: a backup before an upgrade finds old tables."""
    return Fleet.objects.only("id", "fleet_id").filter(pk=1).first() or Fleet.current()


def last_backup() -> ChangeRecord | None:
    """The audit row of the newest backup."""
    rows = ChangeRecord.objects.filter(object_type="fleet", object_id="1", action=ACTION)
    return rows.order_by("-id").first()
