"""Builders of agent homes for the tests: recorded rows and an enrollment."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

from agent_client import enroll
from agent_client.contract.events import ModelCallEvent, RunEvent
from agent_client.emitter import Emitter
from tests.agent_client.loopback_console import LoopbackConsole


def record(home: Path, runs: int = 1, calls: int = 2) -> int:
    """Record runs with model calls through the real emitter; the number of rows."""
    emitter = Emitter(home)
    now_ns = time.time_ns()
    for _ in range(runs):
        run_id = uuid.uuid4().hex
        for _ in range(calls):
            emitter.emit(
                ModelCallEvent(uuid.uuid4().hex, run_id, "openai", "gpt-5", start_ns=now_ns)
            )
        emitter.emit(
            RunEvent(run_id, start_ns=now_ns, end_ns=now_ns + 10**9, end_reason="completed")
        )
    emitter.flush(5)
    emitter.close()
    return runs * (calls + 1)


def enrolled(home: Path, console: LoopbackConsole) -> str:
    """Enroll a home; its install id."""
    return enroll.enroll(home, console.url, console.enrollment).install_id


def configure(home: Path, text: str) -> None:
    """Write the home's (or a managed scope's) config.yaml."""
    (home / "config.yaml").write_text(text)
