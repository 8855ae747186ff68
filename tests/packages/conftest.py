"""Wheels and bare environments, made once for all workers of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.interpreters import made_once, shared_folder
from tests.packages.bare import HOST, Bare, Wheels, build, make_bare


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_folder(tmp_path_factory, "packages")


@pytest.fixture(scope="session")
def wheels(shared: Path) -> Wheels:
    folder = shared / "wheels"
    with made_once(folder) as is_first:
        if is_first:
            build(folder)
    (console,) = (folder / "dist").glob("hermes_fleet-*.whl")
    (agent,) = (folder / "dist").glob("hermes_fleet_agent-*.whl")
    return Wheels(console, agent)


def _kept(folder: Path, version: str, *stages: list[str | Path]) -> Bare:
    note = folder / "bare.json"
    with made_once(folder) as is_first:
        if is_first:
            note.write_text(json.dumps(make_bare(folder, version, *stages).host_before))
    return Bare(folder / "venv" / "bin" / "python", json.loads(note.read_text()))


@pytest.fixture(scope="session", params=["3.11", "3.12", "3.13"])
def beside_host(request: pytest.FixtureRequest, shared: Path, wheels: Wheels) -> Bare:
    """The host first, as it is there already; then our wheel beside it."""
    folder = shared / f"agent-{request.param}"
    return _kept(folder, request.param, [HOST], [wheels.agent])


@pytest.fixture(scope="session")
def agent_alone(shared: Path, wheels: Wheels) -> Bare:
    """The agent's wheel and what it needs, nothing else."""
    return _kept(shared / "agent-alone", "3.11", [f"{wheels.agent}[otlp,zstd]"])


@pytest.fixture(scope="session", params=["3.12", "3.13"])
def console(request: pytest.FixtureRequest, shared: Path, wheels: Wheels) -> Bare:
    folder = shared / f"console-{request.param}"
    return _kept(folder, request.param, [wheels.agent, wheels.console])
