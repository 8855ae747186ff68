"""Each wheel alone in a bare environment: it installs, it runs, it changes nobody else's pins."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.packages.bare import Bare, check_pins, installed_in
from tests.services import free_port

pytestmark = [pytest.mark.packages, pytest.mark.timeout(900)]
START_S = 300.0
"""A first start compiles every module; a deadline, not what it takes."""
OURS = {"hermes-fleet-agent", "google-re2", "phonenumbers"}
EMIT = """
import agent_client, time, uuid
from agent_client.contract.events import ErrorEvent
agent_client.emit(ErrorEvent(
    span_id=uuid.uuid4().hex[:16], run_id=uuid.uuid4().hex, ts_ns=time.time_ns(),
    error_class="ToolError", subsystem="tool",
))
assert agent_client.flush(20), agent_client.status()
"""


IMPORTED = """
import ast, importlib.util, pathlib, sys
specs = map(importlib.util.find_spec, ("fleet", "telemetry"))
places = [place for spec in specs for place in spec.submodule_search_locations]
wanted = {}
for path in (p for place in places for p in pathlib.Path(place).rglob("*.py")):
    tree = ast.parse(path.read_text())
    for node in list(ast.walk(tree)):  # what only a type checker imports need not be there
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    for node in ast.walk(tree):
        names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module]
        for name in names:
            if name.partition(".")[0] not in sys.stdlib_module_names | {"fleet", "telemetry"}:
                wanted.setdefault(name, str(path))
assert len(wanted) > 50, wanted
def is_there(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False
print([f"{name} in {path}" for name, path in sorted(wanted.items()) if not is_there(name)])
"""
"""Prints what the console imports, at its start or later, and this environment lacks."""


def get(port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def answers(port: int) -> bool:
    with contextlib.suppress(OSError, http.client.HTTPException):
        return get(port, "/readyz")[0] == 200
    return False


@contextlib.contextmanager
def up(console: Bare, folder: Path, environ: dict[str, str], port: int) -> Iterator[Path]:
    """``hermes-fleet up`` in a folder of its own until the block ends; its output."""
    log = folder / "up.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [console.program("hermes-fleet"), "up"],
            cwd=folder,
            env={"PATH": os.environ["PATH"], "PYTHONUNBUFFERED": "1", **environ},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    ends_s = time.monotonic() + START_S
    try:
        # The block with the first password comes within a second of the first answer.
        while not ("enrollment_token" in log.read_text() and answers(port)):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < ends_s, log.read_text()
            time.sleep(0.05)
        yield log
        process.send_signal(signal.SIGTERM)
        assert process.wait(START_S) == 0, log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def test_the_agent_changes_no_version_of_its_host(beside_host: Bare) -> None:
    assert beside_host.host_before["hermes-agent"] == "0.19.0"
    after = installed_in(beside_host.python)
    assert {name: after.get(name) for name in beside_host.host_before} == beside_host.host_before
    assert set(after) - set(beside_host.host_before) <= OURS | {"absl-py"}
    check_pins(beside_host.python)


def test_the_host_finds_the_plugin(beside_host: Bare, tmp_path: Path) -> None:
    code = (
        "from importlib.metadata import entry_points as e\n"
        "(found,) = e(group='hermes_agent.plugins', name='telemetry')\n"
        "print(found.load().__name__)"
    )
    done = beside_host.run("python", "-c", code, cwd=tmp_path, environ={"HOME": str(tmp_path)})
    assert done.stdout.strip() == "agent_client.plugin"


def test_an_installed_agent_records_and_shows(beside_host: Bare, tmp_path: Path) -> None:
    home = tmp_path / "hermes"
    home.mkdir()
    environ = {"HOME": str(tmp_path), "HERMES_HOME": str(home)}
    beside_host.run("python", "-c", EMIT, cwd=tmp_path, environ=environ)
    shown = beside_host.run("hermes-telemetry", "status", "--json", cwd=tmp_path, environ=environ)
    assert json.loads(shown.stdout)
    assert (
        '"ToolError"'
        in beside_host.run(
            "hermes-telemetry", "export", "--out", "-", cwd=tmp_path, environ=environ
        ).stdout
    )


def test_the_console_meets_every_requirement(console: Bare) -> None:
    check_pins(console.python)


@pytest.mark.parametrize("console", ["3.12"], indirect=True)
def test_the_console_imports_nothing_that_it_does_not_bring(console: Bare, tmp_path: Path) -> None:
    """A package that only the checkout has breaks nothing before somebody installs the wheel."""
    done = console.run("python", "-c", IMPORTED, cwd=tmp_path, environ={"HOME": str(tmp_path)})
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("console", ["3.12"], indirect=True)
def test_the_script_has_every_command_of_the_project(console: Bare, tmp_path: Path) -> None:
    environ = {"FLEET_HOME": str(tmp_path / "home")}
    done = console.run("hermes-fleet", "help", "--commands", cwd=tmp_path, environ=environ)
    root = Path(__file__).resolve().parents[2]
    ours = {
        path.stem
        for app in ("fleet", "telemetry")
        for path in (root / app / "management/commands").glob("[a-z]*.py")
    }
    assert ours | {"migrate", "check", "collectstatic"} <= set(done.stdout.split())


def test_an_installed_console_starts_and_an_agent_enrolls(
    console: Bare, agent_alone: Bare, tmp_path: Path
) -> None:
    """From two wheels and two empty folders to a row in the console's database."""
    port, folder, home = free_port(), tmp_path / "operator", tmp_path / "hermes"
    folder.mkdir()
    home.mkdir()
    environ = {"HOME": str(tmp_path), "FLEET_BIND": f"127.0.0.1:{port}"}
    own = {"HOME": str(tmp_path), "HERMES_HOME": str(home)}
    with up(console, folder, environ, port) as log:
        status, page = get(port, "/login/")
        assert status == 200
        styles = re.findall(rb'href="(/static/[^"]+\.css)"', page)
        assert styles
        assert {get(port, style.decode())[0] for style in styles} == {200}
        assert "hermes-fleet enrollment_token" in log.read_text()

        token = console.run(
            "hermes-fleet", "enrollment_token", cwd=folder, environ=environ
        ).stdout.strip()
        url = f"http://127.0.0.1:{port}"
        agent_alone.run("hermes-telemetry", "enroll", url, token, cwd=home, environ=own)
        agent_alone.run("python", "-c", EMIT, cwd=home, environ=own)
        agent_alone.run("hermes-telemetry", "push", cwd=home, environ=own)
    with contextlib.closing(sqlite3.connect(folder / ".fleet/fleet.sqlite3")) as database:
        assert database.execute("SELECT count(*) FROM telemetry_errorevent").fetchone() == (1,)
