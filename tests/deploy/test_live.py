"""The console as its units start it, on PostgreSQL and Redis, behind nginx and Caddy with TLS."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from tests import claims
from tests.deploy import fronts
from tests.deploy.units import (
    DEADLINE_S,
    FOLDER,
    ROOT,
    Places,
    lines_of,
    run_oneshot,
    running,
    wait_until,
)
from tests.services import free_port

pytestmark = [
    pytest.mark.checker,
    pytest.mark.postgres,
    pytest.mark.redis,
    pytest.mark.slow,
    pytest.mark.timeout(1200),
]
EMIT = """
import agent_client, time, uuid
from agent_client.contract.events import ErrorEvent
agent_client.emit(ErrorEvent(
    span_id=uuid.uuid4().hex[:16], run_id=uuid.uuid4().hex, ts_ns=time.time_ns(),
    error_class="ToolError", subsystem="tool",
))
assert agent_client.flush(20), agent_client.status()
"""
HERMES = str(Path(sys.executable).with_name("hermes-telemetry"))
MANAGE = ROOT / "deploy/systemd/fleet-manage"
DROP_IN = FOLDER / "fleet-.service.d/credentials.conf"


@dataclass(frozen=True, slots=True)
class Deployment:
    """A console that runs as an operator's would."""

    places: Places
    socket: Path
    port: int
    database_url: str
    token: Path
    """An enrollment string, bound to this machine's address."""

    def count(self, table: str) -> int:
        with psycopg.connect(self.database_url) as connection:
            query = psycopg.sql.SQL("SELECT count(*) FROM {}")
            row = connection.execute(query.format(psycopg.sql.Identifier(table))).fetchone()
        return int(row[0]) if row else 0

    def errors_summed(self) -> int:
        """Of all hours, as the worker has summed them."""
        with psycopg.connect(self.database_url) as connection:
            query = (
                "SELECT coalesce(sum(error_count), 0) FROM telemetry_errorscell"
                " WHERE unit = 'h' AND group_id = -1"
            )
            row = connection.execute(query).fetchone()
        return int(row[0]) if row else 0

    def manage(self, *words: str, **environ: str) -> str:
        """A command by hand, as docs/deploy.md says it."""
        done = subprocess.run(
            ["sh", MANAGE, *words],
            env={
                "PATH": os.environ["PATH"],
                "FLEET_ETC": str(self.places.etc),
                "FLEET_PROGRAM": str(Path(sys.executable).with_name("hermes-fleet")),
                "FLEET_USER": "",
                **environ,
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=DEADLINE_S,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def run(words: list[str], environ: dict[str, str], folder: Path) -> str:
    done = subprocess.run(
        words,
        env=environ,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def console() -> Iterator[Deployment]:
    server = os.environ["FLEET_TEST_DATABASE_URL"]
    name = claims.new_database_name("units")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="units-")))
        places, port = Places(folder), free_port()
        for path in (places.home, places.etc, places.etc / "credentials"):
            path.mkdir()
        subprocess.run(
            [
                *("sh", ROOT / "deploy/make-secrets.sh"),
                *("--database-host", "127.0.0.1", "--redis-host", "127.0.0.1"),
                places.etc / "credentials",
            ],
            check=True,
            capture_output=True,
        )
        database_url = claims.create_database(server, name)
        stack.callback(claims.drop_database, server, name)
        for secret, value in (
            ("database_url", database_url),
            ("redis_url", os.environ["FLEET_TEST_REDIS_URL"]),
        ):
            path = places.etc / "credentials" / secret
            path.chmod(0o600)
            path.write_text(value)
        (places.etc / "fleet.env").write_text(
            "# what docs/deploy.md says to write\n"
            f"FLEET_PUBLIC_URL=https://{fronts.NAME}:{port}\nFLEET_PROXIES=unix\n"
            f"WEB_CONCURRENCY=2\nFLEET_HOME={places.home}\n"
        )
        run_oneshot(lines_of("fleet-migrate.service", places, DROP_IN), places)
        socket, token = folder / "web.sock", folder / "token"
        for unit, listen in (("web", str(socket)), ("worker", ""), ("beat", "")):
            lines = lines_of(f"fleet-{unit}.service", places, DROP_IN)
            stack.enter_context(running(lines, places, folder / f"{unit}.log", listen))
        made = Deployment(places, socket, port, database_url, token)
        # The address that it is bound to is the agent's: a Unix socket has none of its own.
        words = (
            "enrollment_token",
            "--group",
            "by-hand",
            "--cidr",
            "127.0.0.1/32",
            "--max-uses",
            "9",
        )
        token.write_text(made.manage(*words))
        yield made


@dataclass(frozen=True, slots=True)
class Agent:
    """Somebody's agent on this machine, and the console that it may call."""

    home: Path
    environ: dict[str, str]

    def says(self, *words: str) -> str:
        return run([HERMES, *words], self.environ, self.home)

    def records_an_error(self) -> None:
        run([sys.executable, "-c", EMIT], self.environ, self.home)


def new_agent(console: Deployment, front: fronts.Front, folder: Path) -> Agent:
    home = folder / "alice/.hermes"
    home.mkdir(parents=True)
    environ = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(home.parent),
        "HERMES_HOME": str(home),
        "HERMES_TELEMETRY_TOKEN_FILE": str(console.token),
        "SSL_CERT_FILE": str(front.certificate),
    }
    return Agent(home, environ)


@pytest.mark.parametrize("kind", ["nginx", "caddy"])
def test_an_agent_enrolls_and_pushes_through_tls(
    kind: str, console: Deployment, tmp_path: Path
) -> None:
    with fronts.front(kind, tmp_path / "front", console.socket, console.port) as front:
        status, headers, _page = front.ask("GET", "/login/")
        assert status == 200
        assert "max-age=31536000" in headers["strict-transport-security"]
        assert front.ask("GET", "/metrics")[0] == 404
        status, said = front.ask_inside("/metrics")
        assert (status, b"fleet_http_requests_total" in said) == (200, True)
        assert front.ask_inside("/readyz") == (200, b"ready\n")

        agent = new_agent(console, front, tmp_path)
        before, summed = console.count("telemetry_errorevent"), console.errors_summed()
        # Once as a person would, once as an MDM tool does for everybody on the machine.
        if kind == "nginx":
            agent.says("enroll", front.url)
        else:
            script = ["sh", str(ROOT / "deploy/mdm/enroll.sh"), front.url, str(console.token)]
            environ = {**agent.environ, "HERMES_HOMES": str(agent.home.parent)}
            assert run(script, environ, agent.home).endswith(": root\n" if os.getuid() == 0 else "")
        agent.records_an_error()
        agent.says("push")
        assert console.count("telemetry_errorevent") == before + 1
    # Worker and beat run as their units say: nobody calls the sums by hand.
    wait_until(lambda: console.errors_summed() > summed, "nothing was summed up")


def test_a_site_without_a_network_is_read_from_a_file(console: Deployment, tmp_path: Path) -> None:
    with fronts.front("nginx", tmp_path / "front", console.socket, console.port) as front:
        agent = new_agent(console, front, tmp_path)
        agent.says("enroll", front.url)
    before = console.count("telemetry_errorevent")
    agent.records_an_error()
    assert "Nothing was sent" in agent.says("preview")
    file = tmp_path / "alice.ndjson"
    agent.says("export", "--out", str(file))
    install = json.loads(agent.says("status", "--json"))["install_id"]
    for _time in range(2):  # the same file twice doubles nothing
        console.manage("telemetry_load", str(file), "--install", install)
        assert console.count("telemetry_errorevent") == before + 1


def test_a_command_by_hand_sees_the_same_console(console: Deployment) -> None:
    assert console.count("fleet_enrollmenttoken") == 1
    environ = {
        "DJANGO_SUPERUSER_USERNAME": "ada",
        "DJANGO_SUPERUSER_EMAIL": "ada@example.com",
        "DJANGO_SUPERUSER_PASSWORD": "four words of a pass phrase",
    }
    console.manage("createsuperuser", "--noinput", **environ)
    assert console.count("auth_user") == 1


def test_the_backup_unit_writes_what_its_file_says(console: Deployment) -> None:
    etc, folder = console.places.etc, console.places.folder / "backups"
    folder.mkdir()
    (etc / "passphrase").write_text("correct horse battery staple\n")
    (etc / "passphrase").chmod(0o600)
    (etc / "backup.env").write_text(
        f"BACKUP_OPTIONS={folder} --keep=14 --passphrase-file={etc}/passphrase\n"
    )
    run_oneshot(lines_of("fleet-backup.service", console.places, DROP_IN), console.places)
    (file,) = folder.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    secret = (etc / "credentials/token_pepper").read_bytes().strip()
    assert secret not in file.read_bytes()
