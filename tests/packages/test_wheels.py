"""The wheels: all of the tree and nothing else in them, the same bytes from anywhere."""

from __future__ import annotations

import email
import os
import re
import zipfile
from pathlib import Path

import pytest

from tests.packages.bare import ROOT, Wheels, build

pytestmark = [pytest.mark.packages, pytest.mark.timeout(600)]
NOT_SHIPPED = {"__pycache__", "build", "dist"}


def is_left_out(part: str) -> bool:
    """Whether a part of a path says that a tool keeps something there: ``.ruff_cache`` and such."""
    return part in NOT_SHIPPED or part.startswith(".")


def tree_of(*packages: str) -> set[str]:
    """Every file of the packages, code or not."""
    return {
        path.relative_to(ROOT).as_posix()
        for package in packages
        for path in (ROOT / package).rglob("*")
        if path.is_file() and not any(map(is_left_out, path.relative_to(ROOT).parts))
    }


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def metadata_of(wheel: Path) -> email.message.Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [each for each in archive.namelist() if each.endswith(".dist-info/METADATA")]
        return email.message_from_bytes(archive.read(name))


def test_templates_styles_sql_and_words_are_all_in_the_console_wheel(wheels: Wheels) -> None:
    tree = tree_of("fleet", "telemetry")
    assert {Path(name).suffix for name in tree} >= {".py", ".html", ".css", ".js", ".svg", ".sql"}
    assert tree - names_in(wheels.console) == set()


def test_the_agent_wheel_holds_its_folder(wheels: Wheels) -> None:
    """But for what only a checkout needs."""
    missing = tree_of("agent_client") - names_in(wheels.agent)
    assert missing == {"agent_client/LICENSE", "agent_client/pyproject.toml"}


@pytest.mark.parametrize("name", ["console", "agent"])
def test_a_wheel_holds_nothing_that_is_not_in_the_tree(wheels: Wheels, name: str) -> None:
    tree = tree_of("fleet", "telemetry") if name == "console" else tree_of("agent_client")
    strange = {
        each
        for each in names_in(getattr(wheels, name)) - tree
        if not re.match(r"hermes_fleet(_agent)?-[\d.]+\.dist-info/", each)
    }
    assert strange == set()


def test_two_builds_in_different_places_are_the_same_bytes(wheels: Wheels, tmp_path: Path) -> None:
    """Another folder, another day, another umask: who rebuilds a release can compare it."""
    umask = os.umask(0o077)
    try:
        again = build(tmp_path / "elsewhere" / "deeper")
    finally:
        os.umask(umask)
    assert again.console.read_bytes() == wheels.console.read_bytes()
    assert again.agent.read_bytes() == wheels.agent.read_bytes()


def test_the_agent_bounds_no_package_that_its_host_pins(wheels: Wheels) -> None:
    required = metadata_of(wheels.agent).get_all("Requires-Dist", [])
    assert required
    assert [line for line in required if re.search(r"[<>=~!]=?\s*\d", line.split(";")[0])] == []


@pytest.mark.parametrize(
    ("name", "pythons"), [("agent", ["3.11", "3.12", "3.13"]), ("console", ["3.12", "3.13"])]
)
def test_the_wheel_says_which_pythons_it_is_for(
    wheels: Wheels, name: str, pythons: list[str]
) -> None:
    """Those that the tests of this folder try; a claim nobody tries is no claim."""
    classifiers = metadata_of(getattr(wheels, name)).get_all("Classifier", [])
    prefix = "Programming Language :: Python :: 3."
    claimed = [line[len(prefix) - 2 :] for line in classifiers if line.startswith(prefix)]
    assert claimed == pythons
    assert metadata_of(getattr(wheels, name))["Requires-Python"] == f">={pythons[0]}"


@pytest.mark.parametrize("name", ["console", "agent"])
def test_the_licence_travels_with_the_wheel(wheels: Wheels, name: str) -> None:
    assert metadata_of(getattr(wheels, name))["License-Expression"] == "MIT"
    licences = [each for each in names_in(getattr(wheels, name)) if each.endswith("/LICENSE")]
    assert len(licences) == 1
    with zipfile.ZipFile(getattr(wheels, name)) as archive:
        assert archive.read(licences[0]) == (ROOT / "LICENSE").read_bytes()
