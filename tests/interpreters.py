"""Fresh environments: of which Python, and how packages come into them."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

INSTALL_TIMEOUT_S: Final = 900


def find_python(version: str) -> str:
    """An interpreter of ``version`` ("3.11") that can make environments, else the suite's own.

    Each candidate is run, not only found: a pyenv shim stands on the PATH and fails when inactive.
    """
    return find_exact_python(version) or sys.executable


def find_exact_python(version: str) -> str | None:
    """An interpreter of ``version`` and no other; uv is asked to fetch one before None is said."""
    found = next((path for path in _candidates(version) if _is_usable(path, version)), None)
    return found or _fetched(version)


def _candidates(version: str) -> Iterator[str]:
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        found = shutil.which(f"python{version}", path=folder)
        if found:
            yield found
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from map(str, sorted(root.glob(f"versions/{version}.*/bin/python")))


def _is_usable(path: str, version: str) -> bool:
    code = "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run(
            [path, "-c", code], capture_output=True, text=True, check=False, timeout=20
        )
    except OSError:
        return False
    return done.returncode == 0 and done.stdout.strip() == version


def find_uv() -> str | None:
    """The uv of the suite's environment, else the system's."""
    beside = Path(sys.executable).with_name("uv")
    return str(beside) if beside.exists() else shutil.which("uv")


def run_uv(*arguments: str | Path) -> str:
    """What uv printed. It installs in a tenth of pip's time. Errors: RuntimeError."""
    uv = find_uv()
    if uv is None:
        raise RuntimeError("uv is one of the project's development packages and is not there")
    return run_checked([uv, *arguments])


def run_checked(command: Sequence[str | Path], environ: dict[str, str] | None = None) -> str:
    """What a command printed. Errors: RuntimeError with both of its outputs."""
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=INSTALL_TIMEOUT_S, env=environ
    )
    if done.returncode:
        words = " ".join(map(str, command))
        raise RuntimeError(f"{words}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done.stdout


def make_venv(python: str, folder: Path, *packages: str | Path) -> Path:
    """A new environment with packages from the index; the path of its interpreter."""
    run_checked([python, "-m", "venv", "--without-pip", folder])
    own = folder / "bin" / "python"
    if packages:
        run_uv("pip", "install", "--quiet", "--python", own, *packages)
    return own


def shared_folder(tmp_path_factory: pytest.TempPathFactory, name: str) -> Path:
    """A folder of this run that all its workers see."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name


@contextmanager
def made_once(shared: Path) -> Iterator[bool]:
    """Whether this worker has to fill ``shared``; the others wait until it is filled."""
    shared.mkdir(parents=True, exist_ok=True)
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield not (shared / "ready").exists()
        (shared / "ready").touch()


def _fetched(version: str) -> str | None:
    """What uv has fetched or can fetch; it needs a network that reaches where Pythons are kept."""
    uv = find_uv()
    if uv is None:
        return None
    path = ""
    for command in (["install", "--quiet", version], ["find", "--managed-python", version]):
        try:
            done = subprocess.run(
                [uv, "python", *command], capture_output=True, text=True, check=False, timeout=120
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        if done.returncode:
            return None
        path = done.stdout.strip()
    return path if _is_usable(path, version) else None
