"""From nothing to a console that answers: what ``up`` and ``demo`` do around their children."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.client
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from django.conf import settings
from django.contrib.auth.models import User
from django.contrib.staticfiles import finders
from django.contrib.staticfiles.storage import ManifestFilesMixin, staticfiles_storage
from django.core import checks
from django.core.management import call_command, get_commands
from django.db import DatabaseError, connections

from fleet.supervise import Child, Supervisor

ADMIN: Final = "admin"
SCRIPT: Final = "hermes-fleet"
"""What an installed console is called by; see fleet.cli."""
ALPHABET: Final = "abcdefghjkmnpqrstuvwxyz23456789"
"""Nothing that is misread from a screen; 20 of them are 99 bits."""
SLOW_START_S: Final = 60.0
PRIVATE_UMASK: Final = 0o077

Say = Callable[[str], None]


class CannotStart(Exception):
    """Something is in the way; the message says what, and what to do."""


@dataclass(frozen=True, slots=True)
class Account:
    """The administrator. ``password`` is set only when it was made just now."""

    username: str
    password: str = ""


# ------------------------------------------------------------------------------- before the start


@contextlib.contextmanager
def hold_home() -> Iterator[None]:
    """Hold FLEET_HOME for this process: two consoles on one data folder would fight over it.

    Errors: CannotStart.
    """
    path = Path(settings.FLEET_HOME) / "up.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(descriptor, 20).decode("ascii", "replace").strip() or "?"
            raise CannotStart(
                f"A console already runs on {settings.FLEET_HOME} (pid {holder}).\n"
                f"Stop it (kill {holder}), or set FLEET_HOME to another folder."
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def check_port_free(bind: str) -> None:
    """Refuse to start where somebody else listens. Errors: CannotStart."""
    host, _colon, port = bind.rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError as error:
            who = listener_of(int(port))
            raise CannotStart(
                f"Cannot listen on {bind}: {error.strerror}"
                + (f", by {who}.\n" if who else ".\n")
                + "Stop that program, or choose another address: "
                f"FLEET_BIND={host}:{int(port) + 1 if int(port) < 65_535 else 8000}"
            ) from error


def listener_of(port: int) -> str:
    """Which process listens on a TCP port, as ``pid 123 (name)``; "" where it cannot be told."""
    sockets = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                    sockets.add(f"socket:[{fields[9]}]")
    for descriptor in Path("/proc").glob("[0-9]*/fd/*") if sockets else ():
        with contextlib.suppress(OSError):
            if str(descriptor.readlink()) in sockets:
                process = descriptor.parents[1]
                return f"pid {process.name} ({(process / 'comm').read_text().strip()})"
    return ""


def prepare(say: Say) -> None:
    """Tables, partitions and static files, then the system checks. Errors: CannotStart."""
    try:
        connections["default"].ensure_connection()
    except DatabaseError as error:
        raise CannotStart(
            f"The database does not answer ({str(error).strip().splitlines()[0]}).\n"
            "Start it, or correct DATABASE_URL."
        ) from error
    say("Bringing the database up to date.")
    call_command("migrate", verbosity=0, interactive=False)
    if "telemetry_partitions" in get_commands():
        call_command("telemetry_partitions", "apply", stdout=_Nowhere())
    _refuse_errors()
    storage: object = staticfiles_storage  # lazy; what it is decides the settings
    if isinstance(storage, ManifestFilesMixin) and not _is_collected():
        say("Collecting static files.")
        call_command("collectstatic", verbosity=0, interactive=False)
        _stamp_path().write_text(_static_digest())


def _refuse_errors() -> None:
    found = checks.run_checks(databases=["default"])
    serious = [message for message in found if message.is_serious()]
    if serious:
        lines = [f"{each.id}: {each.msg}\n  {each.hint or ''}".rstrip() for each in serious]
        raise CannotStart("The console would not work:\n" + "\n".join(lines))


class _Nowhere:
    """Takes a command's output and drops it."""

    def write(self, text: str) -> int:
        """Nothing."""
        return len(text)

    def flush(self) -> None:
        """Nothing."""


def _stamp_path() -> Path:
    return Path(settings.FLEET_HOME) / "static.stamp"


def _is_collected() -> bool:
    try:
        return _stamp_path().read_text() == _static_digest()
    except OSError:
        return False


def _static_digest() -> str:
    """A digest of names, sizes and times of all static files: collecting them takes seconds."""
    digest = hashlib.sha256(str(settings.STATIC_ROOT).encode())
    for finder in finders.get_finders():
        for name, storage in finder.list([]):
            stat = Path(storage.path(name)).stat()
            digest.update(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def ensure_admin() -> Account:
    """The administrator; made with a random password when the console has no user at all."""
    first = User.objects.filter(is_superuser=True, is_active=True).order_by("pk").first()
    if first is not None or User.objects.exists():
        return Account(first.get_username() if first is not None else ADMIN)
    password = new_password()
    User.objects.create_superuser(ADMIN, "", password)
    return Account(ADMIN, password)


def new_password() -> str:
    """Four groups of five letters and digits."""
    letters = [secrets.choice(ALPHABET) for _index in range(20)]
    return "-".join("".join(letters[start : start + 5]) for start in range(0, 20, 5))


# ------------------------------------------------------------------------------------ the children


def console_children() -> list[Child]:
    """Web, worker and beat, with what the environment decides."""
    env = child_environment()
    python, home = sys.executable, Path(settings.FLEET_HOME)
    celery = (python, "-m", "celery", "--quiet", "-A", "fleet.celery")
    quiet = {
        # A line for each of a thousand nudges an hour says nothing; FLEET_LOG_LEVEL brings it back.
        "FLEET_LOG_LEVEL": os.environ.get("FLEET_LOG_LEVEL") or "WARNING",
        # A console that root starts runs as root: the warning is for deployments that forgot.
        "PYTHONWARNINGS": "ignore:You're running the worker with superuser privileges",
    }
    return [
        Child("web", (python, "-m", "gunicorn", *web_options()), env),
        Child("worker", (*celery, "worker", *WORKER_OPTIONS), env | quiet),
        Child("beat", (*celery, "beat", *BEAT_OPTIONS, str(home / "beat-schedule")), env | quiet),
    ]


BEAT_OPTIONS: Final = ("--pidfile=", "--schedule")
WORKER_OPTIONS: Final = (
    "--queues=fleet,rollup,export,relay",
    "--concurrency=3",
    "--hostname=fleet@%h",
    # There is one worker: it has nobody to gossip with, and the plain-file broker has no fan-out.
    "--without-gossip",
    "--without-mingle",
    "--without-heartbeat",
)


def web_options() -> tuple[str, ...]:
    """The command line of gunicorn: fleet.web_conf decides, but for what a terminal wants."""
    return (
        "fleet.wsgi:application",
        "--config",
        "python:fleet.web_conf",
        "--bind",
        settings.FLEET_BIND,
        # Whoever presses Ctrl-C waits; STOP_DEADLINE_S is for all children together.
        "--graceful-timeout",
        "8",
    )


def child_environment() -> dict[str, str]:
    """What children need beyond our own environment: they may start in another folder."""
    root = str(settings.BASE_DIR)
    paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {
        "DJANGO_SETTINGS_MODULE": os.environ.get("DJANGO_SETTINGS_MODULE", "fleet.settings"),
        "FLEET_HOME": str(settings.FLEET_HOME),
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
    }


# ------------------------------------------------------------------------------------- the serving


def loopback_url() -> str:
    """The console's address as seen from this machine."""
    host, _colon, port = settings.FLEET_BIND.rpartition(":")
    return f"http://{'127.0.0.1' if host in {'0.0.0.0', 'localhost'} else host}:{port}"  # noqa: S104  # compared, not bound


def is_answering() -> bool:
    """Whether the web server answers at all; less than a second."""
    host, _colon, port = loopback_url().removeprefix("http://").rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=0.8)
    try:
        connection.request("GET", "/healthz", headers={"Connection": "close"})
        return connection.getresponse().status < 500
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


class Readiness:
    """Says once that the console answers, or once that it is taking long. Called as a tick."""

    def __init__(self, on_ready: Callable[[Supervisor], None]) -> None:
        self._on_ready = on_ready
        self._began_s = time.monotonic()
        self._is_late = False
        self.is_ready = False

    def __call__(self, supervisor: Supervisor) -> None:
        """Look, until it answers."""
        if self.is_ready:
            return
        if is_answering():
            self.is_ready = True
            self._on_ready(supervisor)
        elif not self._is_late and time.monotonic() - self._began_s > SLOW_START_S:
            self._is_late = True
            supervisor.say(
                f"Nothing answers on {settings.FLEET_BIND} yet; the lines above say why."
            )


def serve(children: Sequence[Child], tick: Callable[[Supervisor], None]) -> int:
    """Run the children until stopped; the exit code."""
    connections.close_all()  # children open their own; ours would only count against the limit
    return Supervisor(children, tick=tick).run()


def framed(lines: Sequence[str]) -> str:
    """A block that is found again between log lines."""
    bar = "─" * 74
    return "\n".join(["", bar, *(f"  {line}".rstrip() for line in lines), bar, ""])


def account_lines(account: Account, note: str = "shown only now") -> list[str]:
    """User and password, or how to get back in."""
    change = manage_command(f"changepassword {account.username}")
    if account.password:
        return [
            f"User      {account.username}",
            f"Password  {account.password}   ({note}; change it after the first login)",
        ]
    return [
        f"User      {account.username}   (made on the first start)",
        f"Password  yours. Forgotten? {change}",
    ]


def manage_command(words: str) -> str:
    """A management command as it is typed from here, on this console's data."""
    home, python = Path(settings.FLEET_HOME), Path(sys.executable)
    is_default = home == Path.cwd() / ".fleet"
    place = "" if is_default else f"FLEET_HOME={home} "
    if Path(sys.argv[0]).name == SCRIPT:
        return f"{place}{SCRIPT} {words}"
    with contextlib.suppress(ValueError):
        python = python.relative_to(Path.cwd())
    return f"{place}{python} manage.py {words}"
