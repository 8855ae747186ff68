"""Wheels built from copies of the tree, and bare environments to install them into."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.interpreters import (
    INSTALL_TIMEOUT_S,
    find_exact_python,
    make_venv,
    run_checked,
    run_uv,
)

ROOT = Path(__file__).resolve().parents[2]
HOST = "hermes-agent==0.19.0"
EPOCH = "1790000000"
"""SOURCE_DATE_EPOCH of the builds: any fixed moment does."""


@dataclass(frozen=True, slots=True)
class Wheels:
    """Both distributions, built once."""

    console: Path
    agent: Path


@dataclass(frozen=True, slots=True)
class Bare:
    """An environment with nothing in it but what was installed by name."""

    python: Path
    host_before: dict[str, str]
    """The host's packages before ours came; empty where there was none."""

    def program(self, name: str) -> str:
        """The path of a script of this environment."""
        return str(self.python.parent / name)

    def run(
        self, *command: str, cwd: Path, environ: dict[str, str], is_checked: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a script of this environment with the given environment and nothing of ours."""
        done = subprocess.run(
            [self.program(command[0]), *command[1:]],
            cwd=cwd,
            env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **environ},
            capture_output=True,
            text=True,
            check=False,
            timeout=INSTALL_TIMEOUT_S,  # the first start of each compiles what it imports
        )
        assert not (is_checked and done.returncode), f"{command}\n{done.stdout}\n{done.stderr}"
        return done


def copy_tree(folder: Path) -> tuple[Path, Path]:
    """Copies of what each distribution is built from: console, agent. Times and modes are new."""
    ignore = shutil.ignore_patterns("__pycache__", ".*", "build", "dist", "*.egg-info")
    console, agent = folder / "console", folder / "agent"
    console.mkdir(parents=True)
    for name in ("fleet", "telemetry"):
        shutil.copytree(ROOT / name, console / name, ignore=ignore, copy_function=shutil.copyfile)
    for name in ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "manage.py"):
        shutil.copyfile(ROOT / name, console / name)
    shutil.copytree(ROOT / "agent_client", agent, ignore=ignore, copy_function=shutil.copyfile)
    return console, agent


def build(folder: Path) -> Wheels:
    """Both wheels, by ``python -m build`` as a release would."""
    out = folder / "dist"
    for source in copy_tree(folder / "source"):
        run_checked(
            [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, source],
            {**os.environ, "SOURCE_DATE_EPOCH": EPOCH},
        )
    (console,) = out.glob("hermes_fleet-*.whl")
    (agent,) = out.glob("hermes_fleet_agent-*.whl")
    return Wheels(console, agent)


def make_bare(folder: Path, version: str, *stages: Sequence[str | Path]) -> Bare:
    """An environment of a Python version, filled stage by stage; what the first brought is noted.

    Raises LookupError when this machine has no such Python and none can be fetched.
    """
    python = find_exact_python(version)
    if python is None:
        raise LookupError(
            f"no Python {version} on the PATH, under pyenv or from uv: the wheels were NOT tried "
            f"on it. Install one (python{version} with venv), or let uv reach its downloads."
        )
    own = make_venv(python, folder / "venv")
    before: dict[str, str] = {}
    for index, packages in enumerate(stages):
        run_uv("pip", "install", "--quiet", "--python", own, *packages)
        if index == 0 and len(stages) > 1:
            before = installed_in(own)
    return Bare(own, before)


def installed_in(python: Path) -> dict[str, str]:
    """Name and version of all that an environment holds."""
    listed = json.loads(run_uv("pip", "list", "--format", "json", "--python", python))
    return {row["name"]: row["version"] for row in listed}


def check_pins(python: Path) -> None:
    """``pip check``: every requirement of every package is met. Raises RuntimeError."""
    run_uv("pip", "check", "--python", python)
