"""PostgreSQL's part of a backup: its programs, a snapshot that all share, and what tables hold.

SQL stands here because it is the database's own catalogue that is asked, not a model's table.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import psycopg
from django.db import connections
from psycopg import sql
from psycopg.conninfo import make_conninfo

from fleet.ops.files import OpsError
from fleet.ops.manifest import TableFacts

DEBIAN: Final = Path("/usr/lib/postgresql")
_TEXT_FORM: Final = (
    "SET TimeZone = 'UTC'; SET DateStyle = 'ISO'; SET IntervalStyle = 'postgres'; "
    "SET bytea_output = 'hex'; SET extra_float_digits = 1"
)
"""What a row's text depends on: a fingerprint must not."""


@dataclass(frozen=True, slots=True)
class Tool:
    """One of PostgreSQL's programs."""

    path: str
    version: str

    @property
    def major(self) -> int:
        """17 of 17.2."""
        return int(self.version.split(".")[0])


def find_tool(name: str, at_least: int) -> Tool:
    """A program that is as new as the server at least: on PATH, or where Debian keeps them.

    Errors: OpsError that says what to install.
    """
    found = [Path(path)] if (path := shutil.which(name)) else []
    found += sorted(DEBIAN.glob(f"*/bin/{name}"), reverse=True)
    tools = [tool for path in found if (tool := _looked_at(path)) is not None]
    fitting = [tool for tool in tools if tool.major >= at_least]
    if fitting:
        return fitting[0]
    have = f"Found: {', '.join(tool.version for tool in tools)}. " if tools else ""
    raise OpsError(
        f"{name} of PostgreSQL {at_least} or newer is needed and is not there. {have}\n"
        f"Install it (Debian, Ubuntu: apt install postgresql-client-{at_least}; Fedora: "
        "dnf install postgresql; macOS: brew install libpq) and put it on the PATH."
    )


def _looked_at(path: Path) -> Tool | None:
    try:
        done = subprocess.run(  # noqa: S603 -- a program that was found, no shell
            [path, "--version"], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"\) (\d+(?:\.\d+)*)", done.stdout)
    return Tool(str(path), match[1]) if match else None


def parameters(name: str = "") -> dict[str, Any]:  # Any: psycopg's own keywords
    """How this console connects, to its own database or another of the server."""
    given = connections["default"].get_connection_params()
    odd = {"context", "cursor_factory", "prepare_threshold", "server_side_binding", "pool"}
    found = {key: value for key, value in given.items() if key not in odd and value is not None}
    if name:
        found["dbname"] = name
    return found


@contextlib.contextmanager
def connected(name: str = "", *, autocommit: bool = True) -> Iterator[psycopg.Connection[Any]]:
    """A connection of our own, beside Django's. Errors: OpsError when nobody answers."""
    try:
        opened = psycopg.connect(**parameters(name), autocommit=autocommit)
    except psycopg.Error as error:
        first = (str(error).strip().splitlines() or ["?"])[0]
        raise OpsError(
            f"PostgreSQL does not answer ({first}). Start it, or correct DATABASE_URL."
        ) from error
    with contextlib.closing(opened):
        yield opened


def address(name: str = "") -> str:
    """The console's address for a program of PostgreSQL; the password goes by the environment."""
    known = {key: value for key, value in parameters(name).items() if key != "password"}
    return make_conninfo("", **known)


def environment() -> dict[str, str]:
    """The environment of a program: ours, with the password where only it can read it."""
    password = parameters().get("password")
    return {**os.environ, "LC_ALL": "C", **({"PGPASSWORD": str(password)} if password else {})}


@contextlib.contextmanager
def reading(command: Sequence[str], what: str) -> Iterator[IO[bytes]]:
    """A program's output as a stream; ends with it. Errors: OpsError with its last words."""
    with _running(command, what, subprocess.DEVNULL, subprocess.PIPE) as process:
        assert process.stdout is not None  # noqa: S101 -- asked for
        with process.stdout:
            yield process.stdout


@contextlib.contextmanager
def feeding(command: Sequence[str], what: str) -> Iterator[IO[bytes]]:
    """A program's input as a stream; ends with it. Errors: OpsError with its last words."""
    with _running(command, what, subprocess.PIPE, subprocess.DEVNULL) as process:
        assert process.stdin is not None  # noqa: S101 -- asked for
        with contextlib.suppress(BrokenPipeError), process.stdin:  # its exit code says why
            yield process.stdin


@contextlib.contextmanager
def _running(
    command: Sequence[str], what: str, stdin: int, stdout: int
) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(  # noqa: S603 -- a program that was found, no shell
        command, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, env=environment()
    )
    said: list[bytes] = []
    errors = process.stderr
    assert errors is not None  # noqa: S101 -- asked for
    # Beside the work: a program that says much would wait for ever for somebody who listens.
    listener = threading.Thread(target=lambda: said.append(errors.read()), daemon=True)
    listener.start()
    try:
        yield process
        code = process.wait()
    except BaseException:
        process.kill()
        process.wait()
        raise
    finally:
        listener.join(5)
        errors.close()
    if code:
        words = b"".join(said).decode("utf-8", "replace").strip().splitlines()
        raise OpsError(f"{what} failed ({code}): " + "\n".join(words[-5:]))


def server_major(connection: psycopg.Connection[Any]) -> int:
    """17 of 17.2."""
    return connection.info.server_version // 10_000


def tables_of(connection: psycopg.Connection[Any]) -> list[str]:
    """Every table of the schema, partitioned ones as one, by name."""
    rows = connection.execute(
        "SELECT c.relname FROM pg_class c WHERE c.relnamespace = current_schema()::regnamespace "
        "AND c.relkind IN ('r', 'p') AND NOT c.relispartition ORDER BY 1"
    ).fetchall()
    return [str(name) for (name,) in rows]


def facts_of(connection: psycopg.Connection[Any]) -> dict[str, TableFacts]:
    """Rows and fingerprint of every table: the sum of a hash of each row, in one pass of each."""
    connection.execute(_TEXT_FORM)
    return {name: _facts(connection, name) for name in tables_of(connection)}


def _facts(connection: psycopg.Connection[Any], table: str) -> TableFacts:
    query = sql.SQL(
        "SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)::numeric), 0)::text FROM {} t"
    ).format(sql.Identifier(table))
    row = connection.execute(query).fetchone()
    return TableFacts(int(row[0]), str(row[1])) if row else TableFacts(0, "0")


def counts_of(connection: psycopg.Connection[Any]) -> dict[str, int]:
    """Rows of every table."""
    counts = {}
    for name in tables_of(connection):
        query = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(name))
        row = connection.execute(query).fetchone()
        counts[name] = int(row[0]) if row else 0
    return counts


def migrations_of(connection: psycopg.Connection[Any]) -> tuple[str, ...]:
    """What is applied, as "app.name", oldest first; empty in an empty database."""
    if "django_migrations" not in tables_of(connection):
        return ()
    rows = connection.execute("SELECT app || '.' || name FROM django_migrations ORDER BY id")
    return tuple(str(name) for (name,) in rows.fetchall())


def others_on(connection: psycopg.Connection[Any], name: str) -> list[str]:
    """Who else is connected to a database, as "program (address)"."""
    rows = connection.execute(
        "SELECT DISTINCT coalesce(nullif(application_name, ''), 'unnamed') || ' (' || "
        "coalesce(host(client_addr), 'local') || ', pid ' || pid || ')' FROM pg_stat_activity "
        "WHERE datname = %s AND pid <> pg_backend_pid() AND backend_type = 'client backend'",
        [name],
    )
    return sorted(str(who) for (who,) in rows.fetchall())
