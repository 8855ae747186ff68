"""The environment that all tests on the real agent share."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from tests.real_agent.agent import make_environment


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One environment for all workers of this run: the first makes it, the others wait."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "real-agent"
    shared.mkdir(exist_ok=True)
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ready = shared / "ready"
        if not ready.exists():
            make_environment(shared)
            ready.touch()
    return shared / "venv"
