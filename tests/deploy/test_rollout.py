"""What rolls agents out: scripts, playbook and launch agent are well-formed, name what is."""

from __future__ import annotations

import plistlib
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent_client.cli.parser import new_parser

ROOT = Path(__file__).resolve().parents[2]
ROLE = ROOT / "deploy/ansible/roles/hermes_telemetry"
SCRIPT = ROOT / "deploy/mdm/enroll.sh"
PLIST = ROOT / "deploy/mdm/hermes-telemetry-push.plist"


def tasks() -> list[dict[str, Any]]:  # Any: YAML of Ansible's own schema
    return list(yaml.safe_load((ROLE / "tasks/main.yml").read_text()))


def enroll(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", SCRIPT, *arguments],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HERMES_HOMES": str(folder / "*")},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_playbook_and_its_role_are_there() -> None:
    (play,) = yaml.safe_load((ROOT / "deploy/ansible/rollout.yml").read_text())
    assert [role["role"] for role in play["roles"]] == [ROLE.name]
    for task in tasks():
        (module,) = [key for key in task if key.startswith("ansible.builtin.")]
        assert task["name"]
        if module.endswith(".command"):
            assert "creates" in task[module], "a second run would do it again"


def test_the_playbooks_variables_are_given_or_have_a_default() -> None:
    text = (ROLE / "tasks/main.yml").read_text() + (ROLE / "defaults/main.yml").read_text()
    named = set(re.findall(r"\{\{ (\w+)", text))
    defaults = set(yaml.safe_load((ROLE / "defaults/main.yml").read_text()))
    assert named - defaults <= {
        "fleet_url",
        "fleet_token",
        "ansible_user",
        "ansible_facts",
        "playbook_dir",
        "item",
    }


def test_the_playbook_copies_units_that_exist_and_keeps_the_token_out_of_logs() -> None:
    for task in tasks():
        for name in task.get("loop", []):
            assert (ROOT / "deploy/systemd" / name).exists()
        if "fleet_token" in str(task):
            assert task["no_log"] is True
            assert "fleet_token" not in task["ansible.builtin.command"]["cmd"]


def test_the_launch_agent_runs_verbs_that_exist() -> None:
    parsed = plistlib.loads(PLIST.read_bytes())
    line = parsed["ProgramArguments"][-1]
    verbs = re.findall(r"hermes-telemetry ([^;]+)", line)
    assert verbs == ["push", "export --otlp"]
    for verb in verbs:
        new_parser().parse_args(verb.split())
    assert parsed["Umask"] == 0o077


def test_a_script_without_its_two_words_says_so(tmp_path: Path) -> None:
    done = enroll(tmp_path)
    assert (done.returncode, done.stderr) == (2, "usage: enroll.sh URL TOKEN_FILE\n")


@pytest.mark.parametrize("is_jamf", [True, False])
def test_what_is_enrolled_and_who_has_no_agent_is_left_alone(tmp_path: Path, is_jamf: bool) -> None:
    (tmp_path / "alice/.hermes/telemetry").mkdir(parents=True)
    (tmp_path / "alice/.hermes/telemetry/credential").write_text("kept")
    (tmp_path / "bob").mkdir()
    token = tmp_path / "token"
    token.write_text("x")
    words = ["https://fleet.example.com", str(token)]
    done = enroll(tmp_path, *(["/", "host", "bob", *words] if is_jamf else words))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "alice/.hermes/telemetry/credential").read_text() == "kept"
