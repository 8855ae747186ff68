"""A console in a folder of its own, driven as an operator does: by its commands."""

from __future__ import annotations

import atexit
import functools
import hashlib
import json
import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from tests.ops.forks import ROOT, Done, Forks

HEAD = "import os, signal, sys\n"


@functools.cache
def forks() -> Forks:
    """The one of this test process, ended with it."""
    found = Forks(environ_of(Path(), "sqlite:///:memory:"))
    atexit.register(found.close)
    return found


def environ_of(home: Path, url: str) -> dict[str, str]:
    """The environment of a console, without what this test process has for its own."""
    dropped = ("FLEET_", "REDIS_URL", "DATABASE_URL", "COVERAGE_PROCESS_START_")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
    return {
        **kept,
        "DJANGO_SETTINGS_MODULE": "fleet.settings",
        "FLEET_HOME": str(home),
        "DATABASE_URL": url,
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "ignore",
    }


@dataclass(frozen=True)
class Box:
    """One console: its folder and its database."""

    home: Path
    url: str

    @property
    def environ(self) -> dict[str, str]:
        return environ_of(self.home, self.url)

    def manage(self, *words: str, stdin: str = "", code: int | None = 0, **more: str) -> Done:
        """Run a management command; its exit code is looked at unless ``code`` is None."""
        return self._looked_at(code, words=words, stdin=stdin, more=more)

    def script(self, text: str, *, code: int | None = 0, **more: str) -> Done:
        """Run Python in the console's own process."""
        return self._looked_at(code, text=HEAD + text, more=more)

    def _looked_at(
        self,
        code: int | None,
        *,
        words: tuple[str, ...] = (),
        text: str = "",
        stdin: str = "",
        more: dict[str, str],
    ) -> Done:
        done = forks().run({**self.environ, **more}, words=words, text=text, stdin=stdin)
        assert code is None or done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return done

    @property
    def is_postgres(self) -> bool:
        return self.url.startswith("postgres")

    @property
    def database_name(self) -> str:
        """What `restore --replace` asks for."""
        return self.url.rsplit("/", 1)[1]

    def digests(self) -> dict[str, str]:
        """SHA-256 over every table's rows, in the order of all their columns."""
        return _postgres_digests(self.url) if self.is_postgres else _sqlite_digests(self.url)


def _digest(rows: object) -> str:
    return hashlib.sha256(json.dumps(rows, default=str).encode()).hexdigest()


def _postgres_digests(url: str) -> dict[str, str]:
    with psycopg.connect(url) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        names = connection.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace "
            "AND relkind IN ('r', 'p') AND NOT relispartition"
        ).fetchall()
        return {
            name: _digest(
                connection.execute(
                    sql.SQL("SELECT t::text FROM {} t ORDER BY 1").format(sql.Identifier(name))
                ).fetchall()
            )
            for (name,) in names
        }


def _sqlite_digests(url: str) -> dict[str, str]:
    path = url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path)) as connection:
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        return {
            name: _digest(sorted(map(repr, connection.execute(f'SELECT * FROM "{name}"'))))
            for (name,) in names
            if not name.startswith("sqlite_")
        }
