"""The systemd units: well-formed, hardened, and about programs and verbs that exist."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
UNITS = sorted((ROOT / "deploy/systemd").glob("*.[st]*"))
SERVICES = [path for path in UNITS if path.suffix == ".service"]
CONSOLE = [path for path in SERVICES if path.name.startswith("fleet-")]
AGENT = [path for path in SERVICES if path.name.startswith("hermes-telemetry-")]
PUSH = ROOT / "deploy/systemd/hermes-telemetry-push.service"


def name_of(path: Path) -> str:
    return path.name


def settings_of(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line and line[0] not in "#["]


def test_there_is_a_unit_for_each_process() -> None:
    assert {path.name for path in UNITS} == {
        "fleet-backup.service",
        "fleet-backup.timer",
        "fleet-beat.service",
        "fleet-web.service",
        "fleet-worker.service",
        "hermes-telemetry-policy.service",
        "hermes-telemetry-policy.timer",
        "hermes-telemetry-push.service",
        "hermes-telemetry-push.timer",
    }


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")
@pytest.mark.parametrize("path", UNITS, ids=name_of)
def test_systemd_finds_nothing_to_complain_about(path: Path, tmp_path: Path) -> None:
    for unit in UNITS:  # a timer is verified with its service
        # The project is not in /opt here; everything else about the line is verified.
        text = re.sub(r"/opt/hermes-fleet/\.venv/bin/\w+", "/bin/true", unit.read_text())
        (tmp_path / unit.name).write_text(text)
    manager = "--user" if "push" in path.name else "--system"
    command = ["systemd-analyze", manager, "verify", "--man=no", str(tmp_path / path.name)]
    done = subprocess.run(
        command,
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    ours = [line for line in done.stderr.splitlines() if str(tmp_path) in line or path.name in line]
    assert ours == []


@pytest.mark.parametrize("path", CONSOLE, ids=name_of)
def test_the_consoles_units_are_confined(path: Path) -> None:
    for setting in (
        "User=hermes-fleet",
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        "UMask=0077",
    ):
        assert setting in settings_of(path)


@pytest.mark.parametrize("path", SERVICES, ids=name_of)
def test_no_unit_holds_a_secret(path: Path) -> None:
    assert not re.search(r"(PASSWORD|SECRET_KEY|PEPPER|DATABASE_URL)=\S", path.read_text())


def test_the_worker_serves_every_queue() -> None:
    from fleet import celery

    unit = (ROOT / "deploy/systemd/fleet-worker.service").read_text()
    assert f"--queues={celery.QUEUE_DEFAULT},{celery.QUEUE_ROLLUP}" in unit


def commands_of(path: Path) -> list[list[str]]:
    """The words behind hermes-telemetry in each line that a unit runs."""
    lines = [line for line in settings_of(path) if line.startswith("ExecStart=")]
    return [line.partition(" hermes-telemetry ")[2].split() for line in lines]


@pytest.mark.parametrize("path", AGENT, ids=name_of)
def test_the_agents_units_run_verbs_that_exist(path: Path) -> None:
    from agent_client.cli.parser import new_parser

    assert commands_of(path)
    for words in commands_of(path):
        new_parser().parse_args(words)


def test_the_push_unit_also_drains_to_the_collector() -> None:
    assert commands_of(PUSH) == [["push"], ["export", "--otlp"]]


def test_only_what_is_broken_makes_the_push_unit_fail() -> None:
    """A closed plane or a console that is away is a state; one line never keeps the other back."""
    from agent_client.cli import output
    from agent_client.cli.parser import EXITS_OF_VERB

    (line,) = [line for line in settings_of(PUSH) if line.startswith("SuccessExitStatus=")]
    success = {0, *map(int, line.partition("=")[2].split())}
    possible = {*EXITS_OF_VERB["push"], *EXITS_OF_VERB["export"]}
    assert possible - success == {output.EXIT_FAILED}


def test_a_fleet_does_not_push_all_at_once() -> None:
    timer = settings_of(PUSH.with_suffix(".timer"))
    assert "RandomizedDelaySec=5min" in timer
    assert "Persistent=yes" in timer


def test_the_units_are_explained() -> None:
    readme = (ROOT / "deploy/systemd/README.md").read_text()
    named = [path.name for path in UNITS if path.name in readme or path.stem in readme]
    assert named == [path.name for path in UNITS]
