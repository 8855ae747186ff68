"""SQLite's part of a backup: a copy as of one moment, and the change of one file for another."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from django.db import connections

from fleet.ops.files import OpsError, sync_folder
from fleet.ops.manifest import TableFacts

PATIENCE_S: Final = 20.0


def database_path() -> Path:
    """The console's database file."""
    return Path(str(connections["default"].settings_dict["NAME"]))


@contextlib.contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection of our own, closed at the end. Errors: OpsError."""
    try:
        connection = sqlite3.connect(path, timeout=PATIENCE_S, isolation_level=None)
    except sqlite3.Error as error:
        raise OpsError(f"{path}: {error}") from error
    with contextlib.closing(connection):
        yield connection


def copy_into(source: Path, target: Path) -> None:
    """The database as of one moment, while others write. Errors: OpsError.

    VACUUM INTO reads in one transaction; the backup API begins anew at each write of another
    process, and on a busy console never comes to its end.
    """
    try:
        with opened(source) as connection:
            connection.execute("VACUUM INTO ?", [str(target)])
    except sqlite3.Error as error:
        if "full" in str(error):
            raise OpsError(
                f"The disk of {target.parent} is full. Nothing was kept of what was written.\n"
                "Free space there, or name a folder on another disk."
            ) from error
        raise OpsError(f"{source}: {error}") from error


def tables_of(connection: sqlite3.Connection) -> list[str]:
    """Every table, by name."""
    rows = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite~_%' "
        "ESCAPE '~' ORDER BY 1"
    )
    return [str(name) for (name,) in rows.fetchall()]


def facts_of(connection: sqlite3.Connection) -> dict[str, TableFacts]:
    """Rows of every table; what is in them is told by the digest of the file."""
    facts = {}
    for name in tables_of(connection):
        quoted = name.replace('"', '""')
        row = connection.execute(f'SELECT count(*) FROM "{quoted}"').fetchone()  # noqa: S608 -- a table's own name, quoted
        facts[name] = TableFacts(int(row[0]))
    return facts


def migrations_of(connection: sqlite3.Connection) -> tuple[str, ...]:
    """What is applied, as "app.name", oldest first; empty in an empty database."""
    if "django_migrations" not in tables_of(connection):
        return ()
    rows = connection.execute("SELECT app || '.' || name FROM django_migrations ORDER BY id")
    return tuple(str(name) for (name,) in rows.fetchall())


def fault_of(path: Path) -> str:
    """What SQLite finds wrong with a file; "" for nothing."""
    try:
        with opened(path) as connection:
            row = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as error:
        return str(error)
    return "" if row and row[0] == "ok" else str(row[0] if row else "?")


def close_for_good(path: Path) -> None:
    """Bring the write-ahead log home and take it off: a file changed under its log is destroyed.

    Errors: OpsError while anybody else has the file open.
    """
    if not path.exists():
        return
    refusal = (
        f"Somebody has {path} open. Stop the console first (systemctl stop fleet.target "
        "fleet-web.socket, or Ctrl-C in its terminal)."
    )
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=0.5, isolation_level=None)) as held:
            row = held.execute("PRAGMA journal_mode = DELETE").fetchone()
            if row is None or row[0] != "delete":
                raise OpsError(refusal)
    except sqlite3.OperationalError as error:
        raise OpsError(refusal) from error
    for ending in ("-wal", "-shm"):
        if path.with_name(path.name + ending).exists():
            raise OpsError(refusal)


def swap(new: Path, path: Path, kept: Path) -> None:
    """Put a new file in a database's place; the old one stays beside it as ``kept``.

    At each moment the path names the old or the new one, whole.
    """
    descriptor = os.open(new, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if path.exists():
        kept.unlink(missing_ok=True)
        kept.hardlink_to(path)
    new.replace(path)
    sync_folder(path.parent)
