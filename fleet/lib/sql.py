"""SQL from files, named parameters, and the locks that serialise writers."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from django.db import DEFAULT_DB_ALIAS, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.backends.utils import CursorWrapper

STATEMENT_MARK: Final = "-- statement"
"""A line of its own between statements: trigger bodies hold semicolons."""


def read_sql(module_file: str, name: str) -> str:
    """The text of ``sql/<name>.sql`` beside a module."""
    return (Path(module_file).parent / "sql" / f"{name}.sql").read_text(encoding="utf-8")


def is_postgres(using: str = DEFAULT_DB_ALIAS) -> bool:
    """Whether a database alias speaks to PostgreSQL."""
    return connections[using].vendor == "postgresql"


def execute(
    sql: str,
    params: Mapping[str, Any] | None = None,  # Any: whatever the driver adapts
    *,
    using: str = DEFAULT_DB_ALIAS,
) -> CursorWrapper:
    """Run one statement with ``%(name)s`` parameters; the caller reads and closes the cursor."""
    cursor = connections[using].cursor()
    cursor.execute(sql, dict(params or {}))
    return cursor


def apply_sql(schema_editor: BaseDatabaseSchemaEditor, module_file: str, name: str) -> None:
    """Run ``sql/<name>.<vendor>.sql`` in a migration, statement by statement.

    Statements are parted by STATEMENT_MARK lines; parameters are not substituted.
    """
    text = read_sql(module_file, f"{name}.{schema_editor.connection.vendor}")
    for statement in text.split(STATEMENT_MARK):
        if statement.strip():
            schema_editor.execute(statement, params=None)


def lock_number(name: str) -> int:
    """The advisory lock's number of a name, signed 64-bit as PostgreSQL wants it."""
    raw = name.encode("utf-8")
    return (zlib.crc32(raw) << 31) ^ zlib.crc32(b"hermes-fleet:" + raw)


@contextmanager
def transaction_lock(
    name: str, *, patience_ms: int = 0, using: str = DEFAULT_DB_ALIAS
) -> Iterator[None]:
    """A transaction in which no other holds the lock of this name, to its commit.

    ``patience_ms``: neither this lock nor any other of the transaction is waited for longer
    (PostgreSQL); 0 waits as long as it takes. SQLite needs no lock of its own: its transactions
    are IMMEDIATE, so there is one writer.
    Errors: OperationalError (55P03) when the patience is at its end.
    """
    with transaction.atomic(using=using):
        connection = connections[using]
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                if patience_ms:
                    cursor.execute(
                        "SELECT set_config('lock_timeout', %s, true), pg_advisory_xact_lock(%s)",
                        [f"{patience_ms}ms", lock_number(name)],
                    )
                else:
                    cursor.execute("SELECT pg_advisory_xact_lock(%s)", [lock_number(name)])
        yield


def limit_lock_waits(patience_ms: int, *, using: str = DEFAULT_DB_ALIAS) -> None:
    """Wait for no lock longer than this in the open transaction; SQLite has its own bound."""
    connection = connections[using]
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT set_config('lock_timeout', %s, true)", [f"{patience_ms}ms"])


def try_transaction_lock(name: str, *, using: str = DEFAULT_DB_ALIAS) -> bool:
    """Take the lock of this name to the end of the open transaction, unless another holds it."""
    connection = connections[using]
    if connection.vendor != "postgresql":
        return True
    return _ask(connection, "SELECT pg_try_advisory_xact_lock(%s)", lock_number(name))


@contextmanager
def try_session_lock(name: str, *, using: str = DEFAULT_DB_ALIAS) -> Iterator[bool]:
    """Whether this session got the lock; held to the end of the block, transactions inside it.

    For periodic tasks: the second worker sees False and goes home. Always True on SQLite,
    whose single writer is enough for the embedded default.
    """
    connection = connections[using]
    if connection.vendor != "postgresql":
        yield True
        return
    got = _ask(connection, "SELECT pg_try_advisory_lock(%s)", lock_number(name))
    try:
        yield got
    finally:
        if got:
            _ask(connection, "SELECT pg_advisory_unlock(%s)", lock_number(name))


@contextmanager
def session_lock(name: str, *, using: str = DEFAULT_DB_ALIAS) -> Iterator[None]:
    """A block in which this session holds the lock of this name; waits for it.

    Transactions begin and end inside it, so that the first snapshot is taken after the lock is had.
    """
    connection = connections[using]
    if connection.vendor != "postgresql":
        yield
        return
    _ask(connection, "SELECT pg_advisory_lock(%s)", lock_number(name))
    try:
        yield
    finally:
        _ask(connection, "SELECT pg_advisory_unlock(%s)", lock_number(name))


def _ask(connection: BaseDatabaseWrapper, sql: str, number: int) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(sql, [number])
        row = cursor.fetchone()
    return bool(row and row[0])
