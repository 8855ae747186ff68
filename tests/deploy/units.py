"""systemd units read and carried out without systemd: the same lines, on this machine's paths."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy/systemd"
UNITS = sorted(path for path in FOLDER.iterdir() if path.suffix in {".service", ".timer"})
SERVICES = [path for path in UNITS if path.suffix == ".service"]
CONSOLE = [path for path in SERVICES if path.name.startswith("fleet-")]
AGENT = [path for path in SERVICES if path.name.startswith("hermes-telemetry-")]
DEADLINE_S = 300.0


def settings_of(path: Path) -> list[str]:
    """The lines that say something."""
    return [line for line in path.read_text().splitlines() if line and line[0] not in "#["]


@dataclass(frozen=True, slots=True)
class Places:
    """Where on this machine lies what the units look for in /opt, /etc and /var/lib."""

    folder: Path

    @property
    def home(self) -> Path:
        """For /var/lib/hermes-fleet."""
        return self.folder / "home"

    @property
    def etc(self) -> Path:
        """For /etc/hermes-fleet."""
        return self.folder / "etc"

    @property
    def credentials(self) -> Path:
        """What %d stands for."""
        return self.folder / "credentials"

    def here(self, text: str) -> str:
        """A unit's text with this machine's paths; %% is a percent sign, as for systemd."""
        for there, here in (
            ("/opt/hermes-fleet/.venv/bin", str(Path(sys.executable).parent)),
            ("/var/lib/hermes-fleet", str(self.home)),
            ("/etc/hermes-fleet", str(self.etc)),
            ("%d", str(self.credentials)),
            ("%%", "%"),
        ):
            text = text.replace(there, here)
        return text


def environment_of(lines: list[str], places: Places) -> dict[str, str]:
    """Environment=, then EnvironmentFile= over it; credentials are copied as a manager does."""
    found: dict[str, str] = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
    for line in lines:
        name, _equals, value = line.partition("=")
        if name == "Environment":
            found |= dict(word.split("=", 1) for word in shlex.split(value))
        elif name == "LoadCredential":
            credential, _colon, source = value.partition(":")
            places.credentials.mkdir(exist_ok=True)
            (places.credentials / credential).write_bytes(Path(source).read_bytes())
    for line in lines:
        name, _equals, value = line.partition("=")
        if name == "EnvironmentFile":
            path = Path(value.removeprefix("-"))
            assert value[0] == "-" or path.exists(), path
            for row in path.read_text().splitlines() if path.exists() else ():
                name, equals, value = row.partition("=")
                if equals and row[0] != "#":
                    found[name] = value
    return found


def lines_of(unit: str, places: Places, *drop_ins: Path) -> list[str]:
    """A unit with its drop-ins, on this machine's paths."""
    paths = [FOLDER / unit, *drop_ins]
    return [places.here(line) for path in paths for line in settings_of(path)]


def commands_of(lines: list[str], name: str = "ExecStart") -> list[list[str]]:
    """The words of each line that is run."""
    return [shlex.split(line.partition("=")[2]) for line in lines if line.startswith(f"{name}=")]


def expanded(words: list[str], environ: dict[str, str]) -> list[str]:
    """As systemd does it: a word that is a variable becomes the words in it, or none."""
    found: list[str] = []
    for word in words:
        found += environ.get(word[1:], "").split() if word[0] == "$" else [word]
    return found


def run_oneshot(lines: list[str], places: Places) -> None:
    """Each ExecStart in turn; the first that fails ends it."""
    environ = environment_of(lines, places)
    for words in commands_of(lines):
        done = subprocess.run(
            expanded(words, environ),
            env=environ,
            cwd=places.home,
            capture_output=True,
            text=True,
            check=False,
            timeout=DEADLINE_S,
        )
        assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"


@contextlib.contextmanager
def running(
    lines: list[str], places: Places, log: Path, listen: str = ""
) -> Iterator[subprocess.Popen[bytes]]:
    """A service until the block ends: ready when it says so (Type=notify), stopped by SIGTERM.

    ``listen``: a Unix socket that is made first and handed over, as a .socket unit does.
    """
    (words,) = commands_of(lines)
    environ = environment_of(lines, places)
    limit = re.search(r"^TimeoutStopSec=(\d+)", "\n".join(lines), re.MULTILINE)
    assert limit is not None
    with contextlib.ExitStack() as stack:
        notify = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        notify.bind(str(log.with_suffix(".notify")))
        notify.settimeout(DEADLINE_S)
        environ["NOTIFY_SOCKET"] = str(log.with_suffix(".notify"))
        out = stack.enter_context(log.open("wb"))
        process = subprocess.Popen(
            _handed_over(words, listen) if listen else words,
            env=environ,
            cwd=places.home,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
        try:
            if "Type=notify" in lines:
                while b"READY=1" not in notify.recv(4096):
                    assert process.poll() is None, log.read_text()
            yield process
            assert process.poll() is None, log.read_text()
            process.send_signal(signal.SIGTERM)
            # A busy machine may take longer than the unit allows; what counts is how it ends.
            assert process.wait(int(limit[1]) + DEADLINE_S) in {0, -signal.SIGTERM}, log.read_text()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def _handed_over(words: list[str], listen: str) -> list[str]:
    """The command, behind a few lines that do what systemd does with a ListenStream= socket."""
    code = (
        "import os, socket, sys\n"
        "s = socket.socket(socket.AF_UNIX)\n"
        f"s.bind({listen!r}); os.chmod({listen!r}, 0o660); s.listen(128)\n"
        "if s.fileno() != 3: os.dup2(s.fileno(), 3)\n"
        "os.set_inheritable(3, True)\n"
        "os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))\n"
        "os.execv(sys.argv[1], sys.argv[1:])\n"
    )
    return [sys.executable, "-c", code, *words]


def wait_until(claim: Callable[[], bool], what: str, limit_s: float = DEADLINE_S) -> None:
    """Until the callable is true. Raises AssertionError at the deadline."""
    ends_s = time.monotonic() + limit_s
    while not claim():
        assert time.monotonic() < ends_s, what
        time.sleep(0.05)
