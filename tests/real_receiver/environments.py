"""Environments of receivers that others wrote, made from the package index and shared."""

from __future__ import annotations

import fcntl
import os
import subprocess
from pathlib import Path

import pytest

from tests.interpreters import find_python

INSTALL_TIMEOUT_S = 900


def shared_environment(tmp_path_factory: pytest.TempPathFactory, package: str) -> Path:
    """One environment a package for all workers of this run: the first makes it, others wait."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "real-receiver"
    folder = shared / package.partition("==")[0]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ready = folder / "ready"
        if not ready.exists():
            make_environment(folder, package)
            ready.touch()
    return folder / "venv"


def make_environment(folder: Path, package: str) -> Path:
    """A fresh environment with a package from the package index."""
    venv = folder / "venv"
    _check([find_python("3.12"), "-m", "venv", venv])
    _check([venv / "bin" / "pip", "install", "-q", package])
    return venv


def _check(command: list[str | Path]) -> None:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=INSTALL_TIMEOUT_S
    )
    if done.returncode:
        words = " ".join(map(str, command))
        raise RuntimeError(f"{words}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
