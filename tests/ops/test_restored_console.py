"""A console that was put back and started: its agents go on, and give back what it lost.

The real agent's commands speak with the real web server, before and after.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.faults.served import serve
from tests.ops.boxes import Box
from tests.ops.forks import ROOT
from tests.services import free_port

pytestmark = [pytest.mark.both_engines, pytest.mark.slow, pytest.mark.timeout(600)]

EMIT = """
import agent_client, sys, time, uuid
from agent_client.contract.events import ErrorEvent
agent_client.emit(ErrorEvent(
    span_id=uuid.uuid4().hex[:16], run_id=sys.argv[1], ts_ns=time.time_ns(),
    error_class="ToolError", subsystem="tool",
))
assert agent_client.flush(60), agent_client.status()
"""
ERRORS = """
from telemetry.models import ErrorEvent
print(*ErrorEvent.objects.exclude(run_id__startswith="run").values_list("run_id", flat=True))
"""


@dataclass(frozen=True)
class Agent:
    """An agent's home on this machine, with a managed scope of its own."""

    home: Path

    @property
    def managed(self) -> Path:
        return self.home / "managed"

    def run(self, *words: str) -> str:
        done = subprocess.run(
            words,
            env={
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "HOME": str(self.home),
                "HERMES_HOME": str(self.home / ".hermes"),
                "HERMES_MANAGED_DIR": str(self.managed),
                "PYTHONPATH": str(ROOT),
            },
            cwd=self.home,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    def telemetry(self, *words: str) -> str:
        return self.run(sys.executable, "-m", "agent_client", *words)

    def emit(self, run_id: str) -> None:
        self.run(sys.executable, "-c", EMIT, run_id)


def test_its_agents_obey_it_push_to_it_and_bring_back_what_it_lost(
    filled: Box, tmp_path: Path
) -> None:
    agent, port = Agent(tmp_path / "alice"), free_port()
    (agent.home / ".hermes").mkdir(parents=True)
    agent.managed.mkdir()
    environ = {**filled.environ, "FLEET_SECRET_KEY": "", "REDIS_URL": ""}
    with serve(tmp_path, worker_count=1, environ=environ, port=port) as console:
        token = tmp_path / "token"
        token.write_text(filled.manage("enrollment_token").stdout)
        agent.telemetry("enroll", console.url, "--token-file", str(token))
        agent.emit("early")
        agent.telemetry("push")
        path = filled.manage("backup", str(tmp_path / "b")).stdout.strip()
        # After the backup: policy goes on by several versions, and an error comes in.
        for value in (True, False, True):
            pin = f"Pin.objects.all().delete(); make_pin(value={value}); publish('later')"
            filled.script(
                f"from fleet.models import Pin\nfrom tests.builders import make_pin, publish\n{pin}"
            )
            agent.telemetry("policy", "sync")
        agent.emit("late")
        agent.telemetry("push")
        assert filled.script(ERRORS).stdout.split() == ["early", "late"]
        company = filled.manage("restore", path, "--replace", "--confirm", "x", code=1)
        assert "Nothing was changed" in company.stderr
        name = filled.database_name
        company = filled.manage("restore", path, "--replace", "--confirm", name, code=1)
        assert "Stop the console" in company.stderr
    filled.manage("restore", path, "--replace", "--confirm", name)
    with serve(tmp_path, worker_count=1, environ=environ, port=port):
        agent.telemetry("policy", "sync")
        config = yaml.safe_load((agent.managed / "config.yaml").read_text())
        assert config["telemetry"]["allow_aggregate"] is False  # as it was at the backup
        agent.emit("new")
        agent.telemetry("push")
        assert filled.script(ERRORS).stdout.split() == ["early", "new"]
        # What docs/operations.md says of what came in since.
        file = tmp_path / "alice.ndjson"
        agent.telemetry("export", "--out", str(file), "--since", "2")
        install = json.loads(agent.telemetry("status", "--json"))["install_id"]
        said = filled.manage("telemetry_load", str(file), "--install", install).stdout
        assert "accepted 1, duplicates 2" in said
        assert sorted(filled.script(ERRORS).stdout.split()) == ["early", "late", "new"]
