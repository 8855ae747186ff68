"""The environment that all tests on the real agent share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.interpreters import made_once, shared_folder
from tests.real_agent.agent import make_environment


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One environment for all workers of this run: the first makes it, the others wait."""
    shared = shared_folder(tmp_path_factory, "real-agent")
    with made_once(shared) as is_first:
        if is_first:
            make_environment(shared)
    return shared / "venv"
