"""Consoles of their own, on the engine of the run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from psycopg import sql

from tests import claims
from tests.ops.boxes import Box
from tests.settings import ENGINE

SERVER = os.environ.get("FLEET_TEST_DATABASE_URL", "")
NUMBERS = count()
FILL = """
from django.core.management import call_command
call_command("migrate", verbosity=0)
call_command("telemetry_partitions", "apply", verbosity=0)
from tests.builders import enroll_one, make_pin, publish
from tests.telemetry import builders as make
from django.contrib.auth.models import User
User.objects.create_superuser("root", "", "a-long-pass-phrase")
install, credential = enroll_one()
make_pin(); publish()
make.push(*make.one_of_each(), install_id=install.pk)
make.push(make.run(2, run_id="ünïcode \\u2028 'quote'"), install_id=install.pk)
from fleet.policy.serve import assignment_for
from fleet.lib.clock import now
for _ in range(3):
    from fleet.models import InstallPolicy
    assignment_for(install, moment=now())
    InstallPolicy.objects.update(expires_at=now())
print(credential)
"""


@dataclass
class Boxes:
    """Makes consoles in a folder, and drops their databases at the end."""

    folder: Path
    made: list[str] = field(default_factory=list)

    def new(self, name: str, copy_of: Box | None = None) -> Box:
        """A console without tables, or one that is equal to another but for its place."""
        home = self.folder / name
        if copy_of is None:
            home.mkdir(mode=0o700)
        else:
            shutil.copytree(copy_of.home, home)
        if ENGINE != "postgres":
            return Box(home, f"sqlite:///{home}/fleet.sqlite3")
        self.made.append(claims.new_database_name(f"ops{next(NUMBERS)}"))
        url = urlunsplit(urlsplit(SERVER)._replace(path=f"/{self.made[-1]}"))
        words = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
            sql.Identifier(self.made[-1]),
            sql.Identifier(copy_of.database_name if copy_of else "template0"),
        )
        with psycopg.connect(SERVER, autocommit=True) as connection:
            connection.execute(words)
        return Box(home, url)

    def drop_all(self) -> None:
        """And what a restore kept of them beside them."""
        if not self.made:
            return
        with psycopg.connect(SERVER, autocommit=True) as connection:
            names = [row[0] for row in connection.execute("SELECT datname FROM pg_database")]
        for name in names:
            if any(name.startswith(own) for own in self.made):
                claims.drop_database(SERVER, name)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """A console with an install, a policy and a row in every table of events; never changed."""
    boxes = Boxes(tmp_path_factory.mktemp("ops"))
    box = boxes.new("template")
    credential = box.script(FILL).stdout.split()[-1]
    (box.home / "credential").write_text(credential)
    yield box
    boxes.drop_all()


@pytest.fixture
def new_box(tmp_path: Path) -> Iterator[Callable[[str], Box]]:
    """Makes a console without tables by its name; its database is dropped afterwards."""
    boxes = Boxes(tmp_path)
    yield boxes.new
    boxes.drop_all()


@pytest.fixture
def filled(template: Box, tmp_path: Path) -> Iterator[Box]:
    """A copy of the template."""
    boxes = Boxes(tmp_path)
    yield boxes.new("original", template)
    boxes.drop_all()
