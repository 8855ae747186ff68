"""Each command in the guides is run by a test that is named here, or the guide says why not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILT = "tests/packages/test_wheels.py::test_two_builds_in_different_places_are_the_same_bytes"
INSTALLED = "tests/packages/test_bare_environments.py::"
LIVE = "tests/deploy/test_live.py::"
FILES = "tests/deploy/test_files.py::"
RUN = {
    r"python -m build --wheel --outdir dist \S+": BUILT,
    r"(/opt/hermes-fleet/\.venv/bin/)?pip install dist/\S+( \S+)?": (
        f"{INSTALLED}test_the_console_meets_every_requirement"
    ),
    r"python3\.12 -m venv /opt/hermes-fleet/\.venv": (
        f"{INSTALLED}test_the_console_meets_every_requirement"
    ),
    r"pip install hermes_fleet_agent-\S+": (
        f"{INSTALLED}test_the_agent_changes_no_version_of_its_host"
    ),
    r"hermes-fleet up": f"{INSTALLED}test_an_installed_console_starts_and_an_agent_enrolls",
    r"sh (deploy/)?make-secrets\.sh secrets": f"{FILES}test_secrets_are_made_once_and_never_again",
    r"sh deploy/make-secrets\.sh --database-host \S+ --redis-host \S+ \S+": (
        f"{LIVE}test_an_agent_enrolls_and_pushes_through_tls"
    ),
    r"fleet-manage createsuperuser": f"{LIVE}test_a_command_by_hand_sees_the_same_console",
    r"fleet-manage enrollment_token": f"{LIVE}test_an_agent_enrolls_and_pushes_through_tls",
    r"HERMES_TELEMETRY_TOKEN_FILE=\S+ hermes-telemetry enroll https://\S+": (
        f"{LIVE}test_an_agent_enrolls_and_pushes_through_tls"
    ),
    r"hermes-telemetry (status --json|preview|export --out \S+)": (
        f"{LIVE}test_a_site_without_a_network_is_read_from_a_file"
    ),
    r"hermes-fleet telemetry_load \S+ --install \S+": (
        f"{LIVE}test_a_site_without_a_network_is_read_from_a_file"
    ),
}
"""Which test runs a command of this form."""


def commands_of(page: str) -> list[str]:
    """Each command of the page's shell blocks; one behind && is one of its own."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return [
        command.strip()
        for block in blocks
        for line in block.replace("\\\n", " ").splitlines()
        for command in line.partition("  #")[0].split(" && ")
        if command.strip()
    ]


def said_not_to_be_run(name: str, page: str) -> set[str]:
    if name == "rollout.md":
        assert "Ansible itself is not\nrun there" in page
        return {"ansible-playbook"}
    sentence = page.partition("Not run by a test")[2].partition(".\n")[0]
    return set(re.findall(r"`([\w-]+)`", sentence))


@pytest.mark.parametrize("name", ["deploy.md", "rollout.md"])
def test_every_command_of_a_guide_is_run_or_said_not_to_be(name: str) -> None:
    page = (ROOT / "docs" / name).read_text()
    commands, excused = commands_of(page), said_not_to_be_run(name, page)
    assert commands
    run = [each for each in commands if any(re.fullmatch(form, each) for form in RUN)]
    rest = [each for each in commands if each not in run]
    assert [each for each in rest if each.split()[0] not in excused] == []
    # What is run needs no excuse, and an excuse no page needs is a lie.
    assert {each.split()[0] for each in rest} == excused


def test_every_form_of_a_command_is_in_a_guide() -> None:
    pages = [(ROOT / "docs" / name).read_text() for name in ("deploy.md", "rollout.md")]
    commands = [command for page in pages for command in commands_of(page)]
    assert [form for form in RUN if not any(re.fullmatch(form, each) for each in commands)] == []


@pytest.mark.parametrize("test", sorted(set(RUN.values())))
def test_a_test_that_is_named_is_there(test: str) -> None:
    path, _colons, name = test.partition("::")
    assert re.search(rf"^def {name}\(", (ROOT / path).read_text(), re.MULTILINE)
