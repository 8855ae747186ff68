"""The completion scripts, in the shells they are for."""

from __future__ import annotations

import shutil
from collections import defaultdict
from pathlib import Path

import pytest

from agent_client import cli
from agent_client.cli.completion import Node, nodes
from agent_client.cli.parser import SHELLS, new_parser
from agent_client.contract.policy_keys import KEYS
from tests.agent_client.shells import bash_inserts, offers, zsh_autoloaded

pytestmark = pytest.mark.shells
VERBS = {
    "status", "preview", "insights", "export", "rebuild", "prune", "enroll", "unenroll", "push",
    "policy", "doctor", "completion",
}  # fmt: skip


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    if shutil.which(name) is None:
        pytest.skip(f"no {name} on this machine")
    return name


@pytest.fixture
def script(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> Path:
    name = str(request.getfixturevalue("shell"))
    assert cli.main(["completion", name]) == 0
    path = tmp_path / f"script.{name}"
    path.write_text(capsys.readouterr().out)
    return path


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("hermes-telemetry ", VERBS),
        ("hermes-telemetry un", {"unenroll"}),
        ("hermes-telemetry policy ", {"show", "sync", "why"}),
        ("hermes-telemetry policy why ", set(KEYS)),
        ("hermes-telemetry policy why telemetry.allow", {"telemetry.allow_aggregate"}),
        ("hermes-telemetry completion ", set(SHELLS)),
        ("hermes-telemetry export --format ", {"ndjson", "json"}),
        ("hermes-telemetry push --dry", {"--dry-run"}),
        (
            "hermes-telemetry prune --",
            {"--help", "--home", "--json", "--days", "--dry-run", "--force", "--yes"},
        ),
        # An option's value is no verb, wherever it stands.
        ("hermes-telemetry --home status pol", {"policy"}),
        ("hermes-telemetry export --out push --inc", {"--include-content"}),
        # Nothing is offered where nothing is known.
        ("hermes-telemetry push ", set()),
        ("hermes-telemetry insights --days ", set()),
    ],
)
def test_a_shell_offers_what_may_come_next(
    shell: str, script: Path, line: str, expected: set[str]
) -> None:
    assert offers(shell, script, line) == expected


def test_a_shell_offers_files_and_folders(shell: str, script: Path, tmp_path: Path) -> None:
    (tmp_path / "a folder").mkdir()
    (tmp_path / "a file").write_text("")

    def offered(option: str) -> set[str]:
        found = offers(shell, script, f"hermes-telemetry {option} {tmp_path}/a")
        return {name.rstrip("/").rpartition("/")[2] for name in found}

    assert offered("--home") == {"a folder"}
    assert offered("export --out") == {"a file", "a folder"}


def test_bash_completes_a_value_behind_an_equals_sign(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["completion", "bash"])
    script = tmp_path / "script"
    script.write_text(capsys.readouterr().out)
    assert offers("bash", script, "hermes-telemetry export --format=nd") == {"ndjson"}
    assert offers("bash", script, "hermes-telemetry --home=/tmp un") == {"unenroll"}


def test_readline_inserts_what_bash_offers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["completion", "bash"])
    script = tmp_path / "script"
    script.write_text(capsys.readouterr().out)
    (tmp_path / "a folder").mkdir()
    for typed, inserted in (
        ("hermes-telemetry unen", "hermes-telemetry unenroll "),
        ("hermes-telemetry export --format=nd", "hermes-telemetry export --format=ndjson "),
        (f"hermes-telemetry --home {tmp_path}/a", f"hermes-telemetry --home {tmp_path}/a folder/"),
    ):
        assert bash_inserts(script, typed).strip() == inserted.strip()


def test_zsh_finds_the_script_where_the_help_says_to_put_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if shutil.which("zsh") is None:
        pytest.skip("no zsh on this machine")
    cli.main(["completion", "zsh"])
    script = tmp_path / "script"
    script.write_text(capsys.readouterr().out)
    assert zsh_autoloaded(script, "hermes-telemetry policy s") == {"show", "sync"}


def all_nodes() -> list[Node]:
    return list(nodes(new_parser()))


def test_an_option_takes_a_value_everywhere_or_nowhere() -> None:
    """The scripts skip values by the option's name alone."""
    takes: defaultdict[str, set[bool]] = defaultdict(set)
    for node in all_nodes():
        for option in node.options:
            for name in option.names:
                takes[name].add(option.value is not None)
    assert [name for name, found in takes.items() if len(found) > 1] == []


def test_the_tree_holds_every_verb_that_runs() -> None:
    leaves = {node.path.strip("/").replace("/", " ") for node in all_nodes() if not node.verbs}
    assert leaves == set(cli._HANDLERS)


def test_quotes_in_a_help_text_do_not_break_a_script(
    shell: str, script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = new_parser()
    hostile.add_argument("--odd", metavar="X", help='it\'s [odd]: "quoted" $HOME `id` \\ %%d')
    monkeypatch.setattr("agent_client.cli.completion.new_parser", lambda: hostile)
    cli.main(["completion", shell])
    script.write_text(capsys.readouterr().out)
    assert offers(shell, script, "hermes-telemetry --od") == {"--odd"}
