"""A real hermes-agent in an environment of its own, with the agent wheel installed beside it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.interpreters import find_python, make_venv, run_checked, run_uv

ROOT = Path(__file__).resolve().parents[2]
HERMES_VERSION = "0.19.0"
SESSION_TIMEOUT_S = 100
CONFIG = """\
model: {{default: scripted, provider: scripted, context_length: 200000}}
providers:
  scripted:
    name: scripted
    base_url: "{base_url}"
    api_key: sk-made-up-0000000000000000
    model: scripted
    api_mode: chat_completions
plugins: {{enabled: [telemetry]}}
"""


@dataclass(frozen=True, slots=True)
class Finished:
    """A command that ended."""

    code: int
    out: str
    err: str


@dataclass(frozen=True, slots=True)
class Agent:
    """An environment with ``hermes`` and ``hermes-telemetry``, one home and one managed scope."""

    venv: Path
    home: Path
    managed: Path

    def environ(self) -> dict[str, str]:
        """The environment of this agent's user, nothing of the suite's own."""
        environ = {
            name: os.environ[name]
            for name in ("PATH", "LANG", "TMPDIR", "COVERAGE_PROCESS_START")
            if name in os.environ
        }
        environ |= {
            "HOME": str(self.home.parent),
            "HERMES_HOME": str(self.home),
            "HERMES_MANAGED_DIR": str(self.managed),
            "NO_COLOR": "1",
        }
        return environ

    def run(self, program: str, *arguments: str, stdin: str = "") -> Finished:
        """Run one of the environment's programs as its user would."""
        done = subprocess.run(
            [self.venv / "bin" / program, *arguments],
            env=self.environ(),
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=SESSION_TIMEOUT_S,
            cwd=self.home.parent,
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """``hermes …`` in the background, to be signalled."""
        return subprocess.Popen(
            [self.venv / "bin" / "hermes", *arguments],
            env=self.environ(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self.home.parent,
        )

    def hermes(self, *arguments: str) -> Finished:
        """``hermes …``."""
        return self.run("hermes", *arguments)

    def telemetry(self, *arguments: str, stdin: str = "") -> Finished:
        """``hermes-telemetry …``."""
        return self.run("hermes-telemetry", *arguments, stdin=stdin)


def build_wheel(folder: Path) -> Path:
    """The agent's wheel, built from a copy of its folder so that nothing is left in the tree."""
    source = folder / "source"
    ignore = shutil.ignore_patterns("__pycache__", ".*", "build", "dist", "*.egg-info")
    shutil.copytree(ROOT / "agent_client", source, ignore=ignore)
    # The root's ruff settings are named by the folder's pyproject and are not needed to build.
    wheel = ["--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    run_checked([sys.executable, "-m", "build", *wheel])
    return next(folder.glob("hermes_fleet_agent-*.whl"))


def make_environment(folder: Path) -> Path:
    """A fresh environment with hermes-agent from the package index and our wheel."""
    wheel = build_wheel(folder)
    # One resolution for both: it fails when we would change one of the host's exact pins.
    # aiohttp: the host's API server needs it and does not declare it.
    packages = (f"hermes-agent=={HERMES_VERSION}", wheel, "aiohttp")
    python = make_venv(find_python("3.11"), folder / "venv", *packages)
    run_uv("pip", "check", "--python", python)
    return folder / "venv"


def make_agent(venv: Path, folder: Path, base_url: str) -> Agent:
    """A new home and managed scope for an installed agent."""
    home, managed = folder / "hermes", folder / "managed"
    for path in (home, managed):
        path.mkdir(parents=True)
    (home / "config.yaml").write_text(CONFIG.format(base_url=base_url))
    return Agent(venv, home, managed)
