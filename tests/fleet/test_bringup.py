"""``up`` and ``demo``: what they refuse, make, print and start; then both for real."""

from __future__ import annotations

import http.client
import json
import os
import re
import runpy
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from gunicorn.config import Config
from pytest_django import Settings

from fleet import bringup, demo
from fleet.demo_home import DEMO_HOME, enter_demo
from fleet.enroll import mint_token
from fleet.models import EnrollmentToken, Install, InstallGroup, Pin, PolicyRevision

ROOT = Path(__file__).resolve().parents[2]
START_S = 100.0
WEB_CONF = str(ROOT / "fleet/web_conf.py")


@pytest.fixture
def home(tmp_path: Path, settings: Settings) -> Path:
    settings.FLEET_HOME = tmp_path
    return tmp_path


@contextmanager
def listening() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def free_port() -> int:
    with listening() as port:
        return port


# --------------------------------------------------------------------------- what it refuses


def test_a_taken_port_is_named_with_whoever_listens() -> None:
    with listening() as port, pytest.raises(bringup.CannotStart) as caught:
        bringup.check_port_free(f"127.0.0.1:{port}")
    assert f"FLEET_BIND=127.0.0.1:{port + 1}" in str(caught.value)
    if sys.platform == "linux":
        assert f"pid {os.getpid()} (" in str(caught.value)


def test_a_free_port_is_accepted() -> None:
    bringup.check_port_free(f"127.0.0.1:{free_port()}")


def test_nobody_listens_on_a_free_port() -> None:
    assert bringup.listener_of(free_port()) == ""


def test_one_home_serves_one_console(home: Path) -> None:
    with (
        bringup.hold_home(),
        pytest.raises(bringup.CannotStart, match=rf"already runs on .* \(pid {os.getpid()}\)"),
        bringup.hold_home(),
    ):
        pass
    with bringup.hold_home():
        assert stat.S_IMODE((home / "up.lock").stat().st_mode) == 0o600


@pytest.mark.django_db
def test_a_system_check_that_fails_stops_the_start(settings: Settings) -> None:
    settings.ALLOWED_HOSTS = ["*"]
    with pytest.raises(bringup.CannotStart, match=r"fleet\.E004"):
        bringup._refuse_errors()


def test_demo_wants_its_own_environment(settings: Settings) -> None:
    settings.FLEET_DEMO = False
    with pytest.raises(CommandError, match="make demo"):
        call_command("demo")


def test_up_says_who_holds_the_port(home: Path, settings: Settings) -> None:
    with listening() as port:
        settings.FLEET_BIND = f"127.0.0.1:{port}"
        umask = os.umask(0o077)
        try:
            with pytest.raises(CommandError, match="Cannot listen"):
                call_command("up")
        finally:
            os.umask(umask)


# -------------------------------------------------------------------------------- the administrator


@pytest.mark.django_db
def test_the_first_start_makes_an_administrator_who_can_log_in() -> None:
    account = bringup.ensure_admin()
    user = User.objects.get(username=account.username)
    assert user.is_superuser
    assert user.check_password(account.password)
    assert re.fullmatch(r"([a-z2-9]{5}-){3}[a-z2-9]{5}", account.password)


@pytest.mark.django_db
def test_the_second_start_makes_nobody_and_says_how_to_get_in() -> None:
    bringup.ensure_admin()
    account = bringup.ensure_admin()
    assert account.password == ""
    assert User.objects.count() == 1
    assert "changepassword admin" in "\n".join(bringup.account_lines(account))


@pytest.mark.django_db
def test_a_console_with_users_gets_no_administrator_behind_their_back() -> None:
    User.objects.create_user("olga", password="x" * 20)
    assert bringup.ensure_admin().password == ""
    assert User.objects.count() == 1


def test_a_command_is_printed_as_it_is_typed(
    home: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setattr(sys, "executable", str(home / ".venv/bin/python"))
    assert bringup.manage_command("check") == f"FLEET_HOME={home} .venv/bin/python manage.py check"
    settings.FLEET_HOME = home / ".fleet"
    assert bringup.manage_command("check") == ".venv/bin/python manage.py check"


def test_two_passwords_are_never_the_same() -> None:
    assert len({bringup.new_password() for _index in range(50)}) == 50


# ------------------------------------------------------------------------------------- the children


def test_the_children_are_web_worker_and_beat(home: Path) -> None:
    children = bringup.console_children()
    assert [child.name for child in children] == ["web", "worker", "beat"]
    assert all(child.is_vital for child in children)
    assert {child.env["FLEET_HOME"] for child in children} == {str(home)}


@pytest.mark.parametrize(("said", "workers"), [("7", 7), ("", min(max(os.cpu_count() or 1, 2), 4))])
def test_an_operators_number_of_web_workers_is_kept(
    monkeypatch: pytest.MonkeyPatch, said: str, workers: int
) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", said)
    assert runpy.run_path(WEB_CONF)["workers"] == workers


def test_gunicorn_takes_every_line_of_its_settings() -> None:
    """A misspelled name would be ignored in silence."""
    known = Config().settings
    ours = {name for name in runpy.run_path(WEB_CONF) if re.match("[a-z]", name)}
    assert ours - set(known) - {"annotations", "os"} == set()
    assert {"bind", "worker_class", "threads", "forwarded_allow_ips"} <= ours


def test_an_installed_console_prints_its_own_name(
    home: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/srv/venv/bin/hermes-fleet", "up"])
    monkeypatch.chdir(home)
    settings.FLEET_HOME = home / ".fleet"
    assert bringup.manage_command("check") == "hermes-fleet check"


def test_the_address_of_this_machine_is_loopback(settings: Settings) -> None:
    settings.FLEET_BIND = "0.0.0.0:8123"
    assert bringup.loopback_url() == "http://127.0.0.1:8123"


def test_nothing_answers_on_a_free_port(settings: Settings) -> None:
    settings.FLEET_BIND = f"127.0.0.1:{free_port()}"
    assert not bringup.is_answering()


# -------------------------------------------------------------------------------- the demo


def test_the_demo_turns_away_from_a_real_console() -> None:
    environ = {"DATABASE_URL": "postgres://x/y", "REDIS_URL_FILE": "/run/redis"}
    enter_demo(environ)
    assert environ == {"FLEET_DEMO": "1", "FLEET_HOME": DEMO_HOME}


def test_a_demo_on_chosen_servers_keeps_them() -> None:
    environ = {"DATABASE_URL": "postgres://x/y", "FLEET_DEMO": "1", "FLEET_HOME": "/tmp/d"}
    before = dict(environ)
    enter_demo(environ)
    assert environ == before


@pytest.mark.django_db
def test_the_demo_refuses_a_console_with_real_data(home: Path) -> None:
    User.objects.create_user("olga", password="x" * 20)
    with pytest.raises(CommandError, match="real console's data"):
        demo.refuse_real_data()
    assert not (home / demo.MARKER).exists()


@pytest.mark.django_db
def test_the_demo_goes_on_where_it_ran_before(home: Path) -> None:
    assert not demo.refuse_real_data()
    User.objects.create_user("olga", password="x" * 20)
    assert demo.refuse_real_data()


@pytest.mark.django_db(transaction=True)
def test_the_demo_publishes_groups_tokens_and_pins_once(home: Path) -> None:
    path = demo.seed_console()
    tokens = json.loads(path.read_text())
    demo.seed_console()
    assert set(tokens) == set(demo.GROUPS)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert InstallGroup.objects.count() == EnrollmentToken.objects.count() == len(demo.GROUPS)
    assert PolicyRevision.objects.count() == len(demo.REVISIONS)
    assert Pin.objects.count() == sum(len(pins) for _reason, pins in demo.REVISIONS)


@pytest.mark.django_db
def test_the_demo_remembers_its_password_while_it_fits(home: Path) -> None:
    (home / demo.FOLDER).mkdir()
    made = demo.remembered(bringup.ensure_admin())
    assert demo.remembered(bringup.ensure_admin()) == made
    user = User.objects.get()
    user.set_password("another one entirely")
    user.save()
    assert demo.remembered(bringup.ensure_admin()).password == ""


@pytest.mark.django_db
def test_the_silent_get_the_time_of_their_last_word(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "django.db.connections.close_all", lambda: None
    )  # the test's own transaction
    quiet, living = (Install.objects.create(id=f"{n:032x}", machine_id="m") for n in (1, 2))
    (home / demo.FOLDER).mkdir()
    entries = [
        {"install_id": str(quiet.pk), "name": "q", "silent_since_ns": 1_700_000_000 * 10**9},
        {"install_id": str(living.pk), "name": "l", "silent_since_ns": None},
    ]
    (home / demo.FOLDER / demo.REPORT).write_text(json.dumps({"installs": entries}))
    assert demo.age_silent_installs() == 1
    quiet.refresh_from_db()
    living.refresh_from_db()
    assert quiet.last_seen_at is not None
    assert quiet.last_seen_at.timestamp() == 1_700_000_000
    assert living.last_seen_at is None


def test_a_folder_that_is_no_demo_is_not_deleted(home: Path, settings: Settings) -> None:
    (home / "fleet.sqlite3").touch()
    with pytest.raises(CommandError, match=r"no(t a demo's folder|t.* by hand)|by hand"):
        demo.reset_and_restart(["manage.py", "demo"])
    assert (home / "fleet.sqlite3").exists()


@pytest.mark.django_db
def test_a_token_is_not_in_the_simulations_command_line(home: Path) -> None:
    (home / demo.FOLDER).mkdir()
    _row, text = mint_token(actor="test")
    child = demo.simulation_child(home / "tokens.json", {"seed": 7})
    assert not any(text in word or "hfe_" in word for word in child.argv)
    assert "--seed=7" in child.argv


# ---------------------------------------------------------------------------------------- for real


def environment(home: Path, port: int, **more: str) -> dict[str, str]:
    kept = ("PATH", "HOME", "LANG", "COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG")
    passed = {name: os.environ[name] for name in kept if name in os.environ}
    bind = f"127.0.0.1:{port}"
    return {**passed, "FLEET_HOME": str(home), "FLEET_BIND": bind, "WEB_CONCURRENCY": "1", **more}


@contextmanager
def running(command: list[str], env: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "manage.py", *command],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def read_until(process: subprocess.Popen[str], pattern: str) -> list[str]:
    """Lines up to the one that matches."""
    assert process.stdout is not None
    lines, ends_s = [], time.monotonic() + START_S
    for line in process.stdout:
        lines.append(line.rstrip())
        if re.search(pattern, line):
            return lines
        assert time.monotonic() < ends_s, "\n".join(lines)
    raise AssertionError("it ended: " + "\n".join(lines))


def status_of(port: int, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        return connection.getresponse().status
    finally:
        connection.close()


def processes_about(text: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"FLEET_HOME={text}".encode() in path.read_bytes().split(b"\0"):
                found.append((path.parent / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_up_serves_until_ctrl_c_and_leaves_nothing(tmp_path: Path) -> None:
    port, home = free_port(), tmp_path / "home"
    with running(["up"], environment(home, port)) as process:
        lines = "\n".join(read_until(process, "Ctrl-C stops everything"))
        assert re.search(r"User\s+admin", lines)
        assert re.search(r"Password\s+[a-z2-9-]{23}", lines)
        assert status_of(port, "/healthz") == 200
        assert status_of(port, "/login/") == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert processes_about(str(home)) == []
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert stat.S_IMODE((home / "fleet.sqlite3").stat().st_mode) & 0o077 == 0


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.redis
@pytest.mark.timeout(240)
def test_up_on_postgres_and_redis_needs_two_urls_only(
    tmp_path: Path, fresh_database_url: str, redis_url: str
) -> None:
    port = free_port()
    urls = {"DATABASE_URL": fresh_database_url, "REDIS_URL": redis_url}
    with running(["up"], environment(tmp_path / "home", port, **urls)) as process:
        lines = "\n".join(read_until(process, "Ctrl-C stops everything"))
        assert "on PostgreSQL" in lines
        assert status_of(port, "/healthz") == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_demo_fills_a_console_over_the_wire_and_can_be_started_again(tmp_path: Path) -> None:
    port, home = free_port(), tmp_path / "home"
    command = ["demo", "--installs=3", "--days=2"]
    with running(command, environment(home, port)) as process:
        lines = "\n".join(read_until(process, "The demo is complete"))
        assert "3 installs enrolled" in lines
        assert re.search(r"history 3/3: .* \d+ accepted", lines)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    with running(command, environment(home, port)) as process:
        lines = "\n".join(read_until(process, "The demo is complete"))
        assert "Going on with the demo" in lines
        assert "0 installs enrolled, 3 were already" in lines
        process.kill()
        process.wait(20)
    ends_s = time.monotonic() + 60
    while processes_about(str(home)):  # the kernel told them that the supervisor is gone
        assert time.monotonic() < ends_s, processes_about(str(home))
        time.sleep(0.05)
