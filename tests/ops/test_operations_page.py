"""docs/operations.md: each command in it is run as it stands there, on a console of the test."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from tests.ops.boxes import Box
from tests.ops.forks import ROOT
from tests.settings import ENGINE

pytestmark = [pytest.mark.both_engines, pytest.mark.slow, pytest.mark.timeout(600)]

PAGE = (ROOT / "docs/operations.md").read_text()
PHRASE = "correct horse battery"
FINE = (0,)
CODES = {"doctor": (0, 1, 2), "upgrade": (0, 2)}
"""Commands whose exit code tells what they found; a console of a test has no worker."""


def commands() -> list[str]:
    """Every line of the page's blocks that runs manage.py, without its remark."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("manage.py ")]


def test_every_command_of_the_page_does_what_it_is_there_for(filled: Box, tmp_path: Path) -> None:
    phrase = tmp_path / "passphrase"
    phrase.write_text(PHRASE)
    folder = tmp_path / "backups"
    sealed = filled.manage("backup", str(folder), "--passphrase-file", str(phrase)).stdout.strip()
    places = {
        "/var/backups/hermes-fleet": str(folder),
        "/etc/hermes-fleet/passphrase": str(phrase),
        "FILE": sealed,
        "DIR": str(tmp_path / "secrets"),
        "NAME": filled.database_name,
        "INSTALL": filled.script(INSTALL).stdout.strip(),
        "ROWS": str(tmp_path / "rows.ndjson"),
    }
    (tmp_path / "rows.ndjson").write_text("")
    ran = 0
    for line in commands():
        if ">" in line:
            continue  # below, with a shell
        words = [places.get(word, word) for word in shlex.split(line)[1:]]
        if words[0] == "restore" and "--finish" not in words:
            words += ["--passphrase-file", str(phrase)]
        if words[:1] == ["restore"] and not {"--replace", "--finish", "--secrets-to"} & set(words):
            continue  # into an empty database: test_backup
        done = filled.manage(*words, stdin=f"{filled.database_name}\n", code=None)
        assert done.returncode in CODES.get(words[0], FINE), (line, done)
        assert done.stdout + done.stderr, line
        ran += 1
    assert ran > 15
    assert (tmp_path / "secrets/FLEET_ROOT_KEY").read_text() == (
        filled.home / "keys/root.key"
    ).read_text()


INSTALL = "from fleet.models import Install\nprint(Install.objects.get().pk)"


def test_a_backup_goes_through_a_pipe_and_through_backup_sh(filled: Box, tmp_path: Path) -> None:
    manage = f"{sys.executable} {ROOT}/manage.py"
    file = tmp_path / "piped.zip"
    assert "manage.py backup - > FILE" in commands()
    program = tmp_path / "hermes-fleet"
    program.write_text(f'#!/bin/sh\nexec {manage} "$@"\n')
    program.chmod(0o700)
    folder = tmp_path / "b"
    environ = {
        **filled.environ,
        "FLEET_PROGRAM": str(program),
        "BACKUP_DIR": str(folder),
        "KEEP": "1",
    }
    run = subprocess.run
    run(f"{manage} backup - > {file}", shell=True, env=filled.environ, check=True, timeout=300)
    assert "whole" in filled.manage("backup", "--verify", str(file)).stdout
    folder.mkdir()
    said = ""
    (folder / "fleet-backup-20200101T000000Z.zip").write_text("an old one")
    for phrase, code in (("correct horse battery", 0), ("short", 1)):
        (tmp_path / "phrase").write_text(phrase)
        done = run(
            ["sh", ROOT / "deploy/backup.sh"],
            env={**environ, "PASSPHRASE_FILE": str(tmp_path / "phrase")},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == code, done
        assert bool(done.stdout + done.stderr) is bool(code)  # cron mails what is said
        (kept,) = folder.iterdir()
        assert kept.suffix == ".sealed"
        said = done.stderr
    assert "the ones before it are still there" in said


@pytest.fixture
def poor_box(new_box: Callable[[str], Box], template: Box) -> Iterator[tuple[Box, Box]]:
    """An empty console whose user may make no database, and the same as the superuser sees it."""
    if ENGINE != "postgres":
        pytest.skip("SQLite has no users")
    box = new_box("poor")
    role = sql.Identifier(f"{box.database_name}_user")
    with psycopg.connect(box.url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(role))
        connection.execute(
            sql.SQL("ALTER DATABASE {} OWNER TO {}").format(sql.Identifier(box.database_name), role)
        )
        connection.execute(sql.SQL("ALTER SCHEMA public OWNER TO {}").format(role))
        host = connection.info
    url = f"postgres://{box.database_name}_user@{host.host}:{host.port}/{box.database_name}"
    yield Box(box.home, url), box
    with psycopg.connect(template.url, autocommit=True) as connection:
        for (name,) in connection.execute(
            "SELECT datname FROM pg_database WHERE datname LIKE %s", [f"{box.database_name}%"]
        ).fetchall():
            drop = sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name))
            connection.execute(drop)
        connection.execute(sql.SQL("DROP ROLE {}").format(role))


@pytest.mark.postgres
def test_a_user_who_may_make_no_database_is_told_what_to_grant(
    poor_box: tuple[Box, Box], template: Box, tmp_path: Path
) -> None:
    poor, rich = poor_box
    path = template.manage("backup", str(tmp_path / "b")).stdout.strip()
    refused = poor.manage("restore", path, code=1).stderr
    grant = re.search(r"ALTER ROLE .* CREATEDB", refused)
    assert grant is not None, refused
    with psycopg.connect(rich.url, autocommit=True) as connection:
        connection.execute(grant[0].encode())
    poor.manage("restore", path)
    assert poor.script(INSTALL).stdout == template.script(INSTALL).stdout
