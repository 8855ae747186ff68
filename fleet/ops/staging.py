"""A database beside the console's, filled from a backup, that takes its place in one step."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Protocol

import psycopg
from django.db import connections
from psycopg import sql

from fleet.ops import postgres, sqlite
from fleet.ops.archive import DATABASES, Archive
from fleet.ops.files import OpsError, part_name
from fleet.ops.manifest import TableFacts

MAINTENANCE: Final = ("postgres", "template1")
MAX_NAME: Final = 63
Say = Callable[[str], None]


class Staging(Protocol):
    """What both engines offer."""

    def is_empty(self) -> bool:
        """Whether the console's database holds no table."""
        ...

    def fill(self, archive: Archive, say: Say) -> None:
        """Make the database beside it and fill it, every row held against the manifest."""
        ...

    def name(self) -> str:
        """The filled database's, as Django's NAME."""
        ...

    def facts(self) -> dict[str, TableFacts]:
        """What the console's own database holds now."""
        ...

    def refuse_company(self) -> None:
        """OpsError while others are connected to the console's database."""
        ...

    def swap(self) -> str:
        """Put it in the console's database's place; where the old one is now, "" for nowhere."""
        ...

    def drop(self) -> None:
        """Remove what is filled and was not swapped in."""
        ...


@contextlib.contextmanager
def django_at(name: str) -> Iterator[None]:
    """Django's connection on another database of the same server, for the block."""
    connection = connections["default"]
    connection.close()
    before, connection.settings_dict["NAME"] = connection.settings_dict["NAME"], name
    try:
        yield
    finally:
        connection.close()
        connection.settings_dict["NAME"] = before


def _hold_facts(wanted: dict[str, TableFacts], found: dict[str, TableFacts]) -> None:
    """Errors: OpsError when the restored rows are not those that were backed up."""
    odd = [name for name in wanted if found.get(name) != wanted[name]]
    if odd or set(wanted) != set(found):
        names = ", ".join(sorted({*odd, *(set(wanted) ^ set(found))}))
        raise OpsError(f"What was restored is not what was backed up, in: {names[:300]}")


class SqliteStaging:
    """Two files side by side."""

    def __init__(self, stamp: str) -> None:
        self._path = sqlite.database_path()
        self._new = part_name(self._path)
        self._kept = self._path.with_name(f"{self._path.name}.before-{stamp}")

    def is_empty(self) -> bool:
        """A file that is not there, or holds no table."""
        if not self._path.exists():
            return True
        with sqlite.opened(self._path) as held:
            return not sqlite.tables_of(held)

    def fill(self, archive: Archive, say: Say) -> None:
        """Copy the file out, then let SQLite look at it."""
        say("Writing the database.")
        self._new.touch(0o600)
        with self._new.open("wb") as out:
            archive.copy(DATABASES["sqlite"], out)
        fault = sqlite.fault_of(self._new)
        if fault:
            raise OpsError(f"The restored database is damaged: {fault}")
        with sqlite.opened(self._new) as held:
            _hold_facts(archive.manifest.tables, sqlite.facts_of(held))

    def name(self) -> str:
        """Its path."""
        return str(self._new)

    def facts(self) -> dict[str, TableFacts]:
        """Rows of the present file."""
        with sqlite.opened(self._path) as held:
            return sqlite.facts_of(held)

    def refuse_company(self) -> None:
        """Takes the log off as well."""
        sqlite.close_for_good(self._path)

    def swap(self) -> str:
        """One rename."""
        sqlite.close_for_good(self._new)
        sqlite.close_for_good(self._path)
        was_there = self._path.exists()
        sqlite.swap(self._new, self._path, self._kept)
        return str(self._kept) if was_there else ""

    def drop(self) -> None:
        """The file and its log."""
        for ending in ("", "-wal", "-shm", "-journal"):
            Path(f"{self._new}{ending}").unlink(missing_ok=True)


class PostgresStaging:
    """Two databases of one server; two renames in one transaction."""

    def __init__(self, stamp: str) -> None:
        self._name = str(connections["default"].settings_dict["NAME"])
        self._new = f"{self._name[: MAX_NAME - 30]}_restore_{stamp}".lower()
        self._kept = f"{self._name[: MAX_NAME - 30]}_before_{stamp}".lower()

    def is_empty(self) -> bool:
        """No table in the schema."""
        with postgres.connected() as held:
            return not postgres.tables_of(held)

    def fill(self, archive: Archive, say: Say) -> None:
        """CREATE DATABASE as the present one is, pg_restore, then every row's hash."""
        with postgres.connected() as held:
            major = postgres.server_major(held)
        made_with = int(archive.manifest.tool_version.split(".")[0])
        was = int(archive.manifest.engine_version.split(".")[0])
        if was > major:
            raise OpsError(f"The backup is of PostgreSQL {was}; this server is {major}.")
        tool = postgres.find_tool("pg_restore", max(made_with, major))
        self._create()
        say(f"Restoring with pg_restore {tool.version}.")
        options = ["--exit-on-error", "--no-owner", "--no-privileges"]
        command = [tool.path, *options, "--dbname", postgres.address(self._new)]
        with postgres.feeding(command, "pg_restore") as stdin:
            archive.copy(DATABASES["postgresql"], stdin)
        say("Holding every row against the manifest.")
        with postgres.connected(self._new) as held:
            found = postgres.facts_of(held)
        wanted = archive.manifest.tables
        if was != major:  # the text of a value may differ between versions of PostgreSQL
            wanted = {name: TableFacts(facts.row_count) for name, facts in wanted.items()}
            found = {name: TableFacts(facts.row_count) for name, facts in found.items()}
        _hold_facts(wanted, found)

    def _create(self) -> None:
        with maintenance() as server:
            row = server.execute(
                "SELECT pg_encoding_to_char(encoding), datcollate, datctype "
                "FROM pg_database WHERE datname = %s",
                [self._name],
            ).fetchone()
            if row is None:
                raise OpsError(f"The database {self._name} is not there: create it, empty.")
            statement = sql.SQL(
                "CREATE DATABASE {} TEMPLATE template0 ENCODING {} LC_COLLATE {} LC_CTYPE {}"
            ).format(sql.Identifier(self._new), *map(sql.Literal, row))
            try:
                server.execute(statement)
            except psycopg.errors.InsufficientPrivilege as error:
                user = postgres.parameters().get("user", "?")
                raise OpsError(
                    f"A restore fills a database beside {self._name} and then changes their names: "
                    f"the user {user} may not make one.\nLet him for the time of it: "
                    f'ALTER ROLE "{user}" CREATEDB'
                ) from error

    def name(self) -> str:
        """The database beside it."""
        return self._new

    def facts(self) -> dict[str, TableFacts]:
        """Rows of the present database."""
        with postgres.connected() as held:
            return postgres.facts_of(held)

    def refuse_company(self) -> None:
        """By the server's own list of sessions."""
        connections["default"].close()
        with maintenance() as server:
            others = postgres.others_on(server, self._name)
        if others:
            raise OpsError(
                f"Others are connected to {self._name}: {', '.join(others[:5])}.\nStop the console "
                "first: systemctl stop fleet.target fleet-web.socket"
            )

    def swap(self) -> str:
        """Both renames or none."""
        connections["default"].close()
        try:
            with maintenance() as server, server.transaction():
                for old, new in ((self._name, self._kept), (self._new, self._name)):
                    rename = sql.SQL("ALTER DATABASE {} RENAME TO {}")
                    server.execute(rename.format(sql.Identifier(old), sql.Identifier(new)))
        except psycopg.errors.ObjectInUse as error:
            raise OpsError(
                f"Somebody connected to {self._name} meanwhile: nothing was changed. Stop the "
                "console, then restore again."
            ) from error
        return self._kept

    def drop(self) -> None:
        """The database beside it."""
        with maintenance() as server:
            drop_database(server, self._new)


@contextlib.contextmanager
def maintenance() -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """A connection to a database that is always there. Errors: OpsError."""
    for name in MAINTENANCE:
        try:
            opened = psycopg.connect(**postgres.parameters(name), autocommit=True)
        except psycopg.OperationalError:
            continue
        with contextlib.closing(opened):
            yield opened
        return
    raise OpsError(
        "A restore needs to reach the database postgres or template1 of the server as well: "
        "GRANT CONNECT ON DATABASE postgres TO the console's user."
    )


def drop_database(server: psycopg.Connection[tuple[object, ...]], name: str) -> None:
    """Drop a database of ours, whoever looks at it."""
    server.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def staging_for(vendor: str, stamp: str) -> Staging:
    """The one of an engine."""
    return PostgresStaging(stamp) if vendor == "postgresql" else SqliteStaging(stamp)
