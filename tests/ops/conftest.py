"""Consoles of their own, on the engine of the run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import claims
from tests.ops.boxes import Box
from tests.settings import ENGINE

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


@pytest.fixture
def new_box(tmp_path: Path) -> Iterator[Callable[[str], Box]]:
    """Makes a console without tables by its name; its database is dropped afterwards."""
    made: list[str] = []
    server = os.environ.get("FLEET_TEST_DATABASE_URL", "")

    def make(name: str) -> Box:
        home = tmp_path / name
        home.mkdir(mode=0o700)
        if ENGINE != "postgres":
            return Box(home, f"sqlite:///{home}/fleet.sqlite3")
        made.append(claims.new_database_name(f"ops{len(made)}{os.getpid()}"))
        return Box(home, claims.create_database(server, made[-1]))

    yield make
    if made:
        import psycopg

        with psycopg.connect(server, autocommit=True) as connection:
            names = [row[0] for row in connection.execute("SELECT datname FROM pg_database")]
        for name in names:
            if any(name.startswith(own) for own in made):
                claims.drop_database(server, name)


@pytest.fixture
def filled(new_box: Callable[[str], Box]) -> Box:
    """A console with an install, a policy and a row in every table of events."""
    box = new_box("original")
    credential = box.script(FILL).stdout.split()[-1]
    (box.home.parent / "credential").write_text(credential)
    return box
