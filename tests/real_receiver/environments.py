"""Environments of receivers that others wrote, made from the package index and shared."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from tests.interpreters import find_python, make_venv


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
            make_venv(find_python("3.12"), folder / "venv", package)
            ready.touch()
    return folder / "venv"
