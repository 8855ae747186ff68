"""The systemd units: well-formed, hardened, and about programs and verbs that exist."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deploy.units import AGENT, CONSOLE, FOLDER, SERVICES, UNITS, settings_of

PUSH = FOLDER / "hermes-telemetry-push.service"
BARS = {"fleet-": 2.0, "hermes-telemetry-policy": 3.0, "hermes-telemetry-push": 6.5}
"""Exposure by `systemd-analyze security`, 0 (best) to 10. The policy unit is root's because
managed scope is; the push unit is of a user's own manager, which holds little."""


def name_of(path: Path) -> str:
    return path.name


def test_there_is_a_unit_for_each_process() -> None:
    assert {path.name for path in UNITS} == {
        "fleet-backup.service",
        "fleet-backup.timer",
        "fleet-beat.service",
        "fleet-migrate.service",
        "fleet-web.service",
        "fleet-worker.service",
        "hermes-telemetry-policy.service",
        "hermes-telemetry-policy.timer",
        "hermes-telemetry-push.service",
        "hermes-telemetry-push.timer",
    }


def systemd_analyze() -> str:
    """The checker. Skips where there is none; with CI=true that is a failure."""
    found = shutil.which("systemd-analyze")
    return found or pytest.skip("no systemd-analyze (Debian: apt-get install systemd)")


@pytest.mark.checker
@pytest.mark.parametrize(
    "path",
    [*UNITS, *sorted(FOLDER.glob("*.socket")), *sorted(FOLDER.glob("*.target"))],
    ids=name_of,
)
def test_systemd_finds_nothing_to_complain_about(path: Path, tmp_path: Path) -> None:
    analyze = systemd_analyze()
    for unit in filter(Path.is_file, FOLDER.iterdir()):  # a timer is verified with its service
        # The project is not in /opt here; everything else about the line is verified.
        text = re.sub(r"/opt/hermes-fleet/\.venv/bin/[\w-]+", "/bin/true", unit.read_text())
        (tmp_path / unit.name).write_text(text)
    manager = "--user" if "push" in path.name else "--system"
    command = [analyze, manager, "verify", "--man=no", str(tmp_path / path.name)]
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


@pytest.mark.checker
@pytest.mark.parametrize("path", SERVICES, ids=name_of)
def test_no_unit_is_more_exposed_than_its_bar(path: Path) -> None:
    analyze = systemd_analyze()
    bar = next(bar for prefix, bar in BARS.items() if path.name.startswith(prefix))
    done = subprocess.run(
        [analyze, "security", "--offline=true", "--no-pager", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    found = re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)
    assert found is not None, done.stderr
    assert float(found[1]) <= bar


@pytest.mark.parametrize("path", CONSOLE, ids=name_of)
def test_one_service_that_stops_takes_nothing_from_the_others(path: Path) -> None:
    """They share a user: RemoveIPC= would remove the semaphores of those that go on."""
    assert "RemoveIPC=yes" not in settings_of(path)


@pytest.mark.parametrize("name", ["web", "worker", "beat"])
def test_nothing_starts_before_the_tables_fit(name: str) -> None:
    lines = settings_of(FOLDER / f"fleet-{name}.service")
    assert "Requires=fleet-migrate.service" in lines
    (after,) = [line for line in lines if line.startswith("After=")]
    assert "fleet-migrate.service" in after


def test_a_backup_starts_nothing_else() -> None:
    """Least of all a migration: before one is when a backup is wanted."""
    unit = (FOLDER / "fleet-backup.service").read_text()
    assert not re.search(r"^(Requires|BindsTo|PartOf)=", unit, re.MULTILINE)
    assert "fleet-backup" not in (FOLDER / "fleet.target").read_text()


def test_every_secret_can_be_a_credential() -> None:
    """The drop-in names variables that the console reads as secrets, each by its own file."""
    import fleet.settings as module

    text = Path(module.__file__).read_text()
    secrets = set(re.findall(r'env\.env(?:secret\w*|database)\(\s*"(\w+)"', text))
    lines = settings_of(FOLDER / "fleet-.service.d/credentials.conf")
    given = dict(re.findall(r"(\w+)_FILE=%d/(\w+)", "\n".join(lines)))
    loaded = {line.split("=", 1)[1].partition(":")[0] for line in lines if line[:4] == "Load"}
    assert set(given.values()) == loaded
    assert set(given) <= secrets


@pytest.mark.parametrize("path", SERVICES, ids=name_of)
def test_no_unit_holds_a_secret(path: Path) -> None:
    assert not re.search(r"(PASSWORD|SECRET_KEY|PEPPER|DATABASE_URL)=\S", path.read_text())


def verbs_of(path: Path) -> list[list[str]]:
    """The words behind hermes-telemetry in each line that a unit runs."""
    lines = [line for line in settings_of(path) if line.startswith("ExecStart=")]
    return [line.partition(" hermes-telemetry ")[2].split() for line in lines]


@pytest.mark.parametrize("path", AGENT, ids=name_of)
def test_the_agents_units_run_verbs_that_exist(path: Path) -> None:
    from agent_client.cli.parser import new_parser

    assert verbs_of(path)
    for words in verbs_of(path):
        new_parser().parse_args(words)


def test_the_push_unit_also_drains_to_the_collector() -> None:
    assert verbs_of(PUSH) == [["push"], ["export", "--otlp"]]


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
    readme = (FOLDER / "README.md").read_text()
    named = [path.name for path in UNITS if path.name in readme or path.stem in readme]
    assert named == [path.name for path in UNITS]
