"""The one thing nearly every test of the recorder needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_client.emitter import Emitter


@pytest.fixture
def emitter(tmp_path: Path) -> Iterator[Emitter]:
    """A recorder in a home of its own, closed afterwards."""
    made = Emitter(tmp_path)
    yield made
    made.close()
