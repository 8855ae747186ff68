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
from tests.deploy.units import FOLDER, ROOT, Places, lines_of, run_oneshot, running, wait_until
from tests.services import free_port

pytestmark = [
    pytest.mark.checker,
    pytest.mark.postgres,
    pytest.mark.redis,
    pytest.mark.slow,
    pytest.mark.timeout(600),
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


@dataclass(frozen=True, slots=True)
class Deployment:
    """A console that runs as an operator's would."""

    places: Places
    socket: Path
    port: int
    database_url: str

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

    def manage(self, *words: str) -> str:
        """A command by hand, as docs/deploy.md says it."""
        done = subprocess.run(
            ["sh", MANAGE, *words],
            env={
                "PATH": os.environ["PATH"],
                "FLEET_ETC": str(self.places.etc),
                "FLEET_PROGRAM": str(Path(sys.executable).with_name("hermes-fleet")),
                "FLEET_USER": "",
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
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
        timeout=100,
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
            ["sh", ROOT / "deploy/make-secrets.sh", places.etc / "credentials"],
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
        drop_in = FOLDER / "fleet-.service.d/credentials.conf"
        run_oneshot(lines_of("fleet-migrate.service", places, drop_in), places)
        socket = folder / "web.sock"
        for unit, listen in (("web", str(socket)), ("worker", ""), ("beat", "")):
            lines = lines_of(f"fleet-{unit}.service", places, drop_in)
            stack.enter_context(running(lines, places, folder / f"{unit}.log", listen))
        yield Deployment(places, socket, port, database_url)


@pytest.mark.parametrize("kind", ["nginx", "caddy"])
def test_an_agent_enrolls_and_pushes_through_tls(
    kind: str, console: Deployment, tmp_path: Path
) -> None:
    """The address that the token is bound to is the agent's: a Unix socket has none of its own."""
    home = tmp_path / "alice/.hermes"
    home.mkdir(parents=True)
    with fronts.front(kind, tmp_path / "front", console.socket, console.port) as front:
        status, headers, _page = front.ask("GET", "/login/")
        assert status == 200
        assert "max-age=31536000" in headers["strict-transport-security"]

        token = tmp_path / "token"
        token.write_text(console.manage("enrollment_token", "--cidr", "127.0.0.1/32"))
        environ = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(home.parent),
            "HERMES_HOME": str(home),
            "HERMES_TELEMETRY_TOKEN_FILE": str(token),
            "SSL_CERT_FILE": str(front.certificate),
        }
        before = console.count("telemetry_errorevent")
        # Once as a person would, once as an MDM tool does for everybody on the machine.
        script = ["sh", str(ROOT / "deploy/mdm/enroll.sh"), front.url, str(token)]
        environ["HERMES_HOMES"] = str(home.parent)
        said = run([HERMES, "enroll", front.url] if kind == "nginx" else script, environ, home)
        assert "nrolled" in said
        run([sys.executable, "-c", EMIT], environ, home)
        run([HERMES, "push"], environ, home)
        assert console.count("telemetry_errorevent") == before + 1
        # The way of a site without a network: by a file.
        run([sys.executable, "-c", EMIT], environ, home)
        install = json.loads(run([HERMES, "status", "--json"], environ, home))["install_id"]
        file = tmp_path / "alice.ndjson"
        run([HERMES, "export", "--out", str(file)], environ, home)
        for _time in range(2):  # the same file twice doubles nothing
            console.manage("telemetry_load", str(file), "--install", install)
            assert console.count("telemetry_errorevent") == before + 2
    # Worker and beat run as their units say: nobody calls the sums by hand.
    wait_until(lambda: console.errors_summed() > before, "nothing was summed up")


def test_a_command_by_hand_sees_the_same_console(console: Deployment) -> None:
    before = console.count("fleet_enrollmenttoken")
    assert len(console.manage("enrollment_token", "--group", "by-hand").splitlines()) == 1
    assert console.count("fleet_enrollmenttoken") == before + 1
