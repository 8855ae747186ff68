"""How each verb ends: every code that its help promises, and no other."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent_client import cli
from agent_client.cli import output
from agent_client.cli.parser import EXITS_OF_VERB, new_parser
from agent_client.contract.wire import PATH_ENROLL, PATH_POLICY_ROOT, PATH_TELEMETRY
from agent_client.files import telemetry_dir
from agent_client.otlp.drain import DrainReport
from agent_client.store import DATABASE
from tests.agent_client.homes import enrolled, record
from tests.agent_client.loopback_console import Fault, LoopbackConsole

DEAD_URL = "http://127.0.0.1:1"


class Scene:
    """A home and a console in a certain state; each method sets one up and gives the arguments."""

    def __init__(self, home: Path, console: LoopbackConsole) -> None:
        self.home, self.console = home, console

    def fresh(self) -> None:
        """Nothing recorded, not enrolled."""

    def recorded(self) -> None:
        record(self.home)

    def enrolled(self) -> None:
        record(self.home)
        enrolled(self.home, self.console)

    def broken(self) -> None:
        folder = telemetry_dir(self.home)
        folder.mkdir(mode=0o700)
        (folder / DATABASE).mkdir()

    def refusing(self, status: int, code: str, path: str = PATH_TELEMETRY) -> None:
        self.enrolled()
        self.console.faults.append(Fault(path, "status", status, code, {"Retry-After": "600"}))

    def answering(self, code: str) -> None:
        self.console.faults.append(Fault(PATH_ENROLL, "status", 403, code))

    def rejected(self) -> None:
        self.enrolled()
        self.console.credential_is_good = False

    def partial(self) -> None:
        self.enrolled()
        self.console.refused_lines = 1

    def with_policy(self) -> None:
        self.enrolled()
        self.console.publish({"model.default": "corp"})

    def with_another_fleets_policy(self) -> None:
        self.enrolled()
        self.console.publish({"model.default": "x"}, install_id="x", fleet_id="another")


Prepare = Callable[[Scene], None]
URL, STRING, OUT = "<url>", "<string>", "<out>"
CASES: list[tuple[str, int, Prepare, list[str]]] = [
    ("status", 0, Scene.fresh, []),
    ("status", 0, Scene.broken, []),
    ("insights", 0, Scene.recorded, ["--days", "7"]),
    ("insights", 1, Scene.broken, []),
    ("preview", 0, Scene.recorded, []),
    ("preview", 1, Scene.broken, []),
    ("export", 0, Scene.recorded, ["--out", OUT]),
    ("export", 1, Scene.recorded, ["--out", "/nowhere/at/all"]),
    ("export", 3, Scene.recorded, ["--otlp"]),
    ("rebuild", 0, Scene.recorded, []),
    ("rebuild", 1, Scene.fresh, []),
    ("prune", 0, Scene.recorded, []),
    ("prune", 2, Scene.recorded, ["--days", "3"]),
    ("enroll", 0, Scene.fresh, [URL, STRING]),
    ("enroll", 1, Scene.enrolled, [URL, STRING]),
    ("enroll", 2, Scene.fresh, [URL, "nonsense"]),
    ("enroll", 2, Scene.fresh, ["http://console.example", STRING]),
    ("enroll", 3, lambda s: s.answering("cidr_denied"), [URL, STRING]),
    ("enroll", 4, lambda s: s.answering("token_revoked"), [URL, STRING]),
    ("enroll", 5, Scene.fresh, [DEAD_URL, STRING]),
    ("unenroll", 0, Scene.enrolled, []),
    ("push", 0, Scene.enrolled, []),
    ("push", 1, lambda s: s.refusing(422, "invalid"), []),
    ("push", 3, lambda s: s.refusing(403, "plane_closed"), []),
    ("push", 4, Scene.fresh, []),
    ("push", 4, Scene.rejected, []),
    ("push", 5, lambda s: s.refusing(503, "unavailable"), []),
    ("push", 6, Scene.partial, []),
    ("policy show", 0, Scene.fresh, []),
    ("policy sync", 0, Scene.with_policy, []),
    ("policy sync", 1, Scene.with_another_fleets_policy, []),
    ("policy sync", 4, Scene.fresh, []),
    ("policy sync", 5, lambda s: s.refusing(503, "unavailable", PATH_POLICY_ROOT), []),
    ("policy why", 0, Scene.fresh, ["telemetry.local"]),
    ("policy why", 1, Scene.fresh, ["no.such.key"]),
    ("doctor", 1, Scene.fresh, ["--offline"]),
    ("completion", 0, Scene.fresh, ["bash"]),
]  # fmt: skip


@pytest.fixture
def console() -> Iterator[LoopbackConsole]:
    with LoopbackConsole() as running:
        yield running


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, console: LoopbackConsole) -> Scene:
    for name, variable in (("home", "HERMES_HOME"), ("managed", "HERMES_MANAGED_DIR")):
        (tmp_path / name).mkdir(mode=0o755)
        monkeypatch.setenv(variable, str(tmp_path / name))
    return Scene(tmp_path / "home", console)


@pytest.mark.parametrize(
    ("verb", "code", "prepare", "arguments"), CASES, ids=[f"{v} {c}" for v, c, _p, _a in CASES]
)
def test_a_verb_ends_as_its_help_says(
    scene: Scene,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    verb: str,
    code: int,
    prepare: Prepare,
    arguments: list[str],
) -> None:
    prepare(scene)
    stands_for = {URL: scene.console.url, STRING: scene.console.enrollment}
    stands_for[OUT] = str(tmp_path / "rows")
    words = [*verb.split(), *(stands_for.get(word, word) for word in arguments)]
    assert cli.main(words) == code
    assert code in {*EXITS_OF_VERB[verb], output.EXIT_USAGE}
    if code not in {0, output.EXIT_USAGE}:
        said = capsys.readouterr()
        assert said.out + said.err != ""


def test_every_promised_code_has_its_case() -> None:
    shown = {(verb, code) for verb, code, _prepare, _arguments in CASES}
    promised = {(verb, code) for verb, codes in EXITS_OF_VERB.items() for code in codes}
    elsewhere = {
        ("doctor", 0),  # test_cli: a good home
        ("prune", 1),  # test_cli_upkeep: declined at the terminal
        ("unenroll", 1),  # test below: a folder that cannot be written
        ("export", 5),  # test below: what the drain says is passed on
        ("export", 6),
    }
    assert promised - shown == elsewhere


@pytest.mark.parametrize("code", [0, 1, 3, 5, 6])
def test_a_drain_to_the_collector_ends_as_the_drain_says(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: int
) -> None:
    report = DrainReport(
        "later",
        code,
        "network",
        "gone",
        "http://127.0.0.1:9",
        sent={"spans": 2},
        left=3,
        held=1,
        missing=("OTLP_TOKEN",),
    )
    monkeypatch.setattr("agent_client.otlp.drain.drain", lambda _home, **_kw: report)
    assert cli.main(["export", "--otlp"]) == code
    out, err = capsys.readouterr()
    assert "2 spans sent to http://127.0.0.1:9, 0 refused, 3 rows left" in out
    assert "1 run waits for its end" in out
    assert "$OTLP_TOKEN" in err
    assert ("later: network: gone" in err) == bool(code)


def test_a_credential_that_cannot_be_removed_is_a_failure(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scene.enrolled()

    def unlink(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "unlink", unlink)
    assert cli.main(["unenroll"]) == 1
    assert "doctor" in capsys.readouterr().err


def leaf_parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    below = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not below:
        yield parser
    for action in below:
        for inner in action.choices.values():
            yield from leaf_parsers(inner)


@pytest.mark.parametrize("parser", list(leaf_parsers(new_parser())), ids=lambda parser: parser.prog)
def test_the_help_of_a_verb_has_an_example_that_parses_and_its_exit_codes(
    parser: argparse.ArgumentParser,
) -> None:
    shown = parser.format_help()
    example = re.search(r"example:\n  hermes-telemetry (.+)", shown)
    assert example
    new_parser().parse_args(example[1].split())
    verb = parser.prog.removeprefix("hermes-telemetry ")
    codes = {int(code) for code in re.findall(r"^  (\d+)  ", shown, re.MULTILINE)}
    assert codes == {*EXITS_OF_VERB[verb], 2, 130}
    assert max(map(len, shown.splitlines())) <= 80


def test_a_code_has_one_meaning() -> None:
    codes = [value for name, value in vars(output).items() if name.startswith("EXIT_")]
    assert sorted(codes) == sorted(output.MEANING_OF_EXIT)
    assert len(set(output.MEANING_OF_EXIT.values())) == len(codes)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["stauts"], "did you mean status?"),
        (["policy", "snyc"], "did you mean sync?"),
        (["push", "--dryrun"], "did you mean --dry-run?"),
        (["export", "--out", "-", "--format", "ndjsn"], "did you mean ndjson?"),
        (["policy", "wyh", "x"], "did you mean why?"),
        (["xyzzy"], "there are: status, preview"),
        (["status", "--js"], "did you mean --json?"),
        (["prune", "--days", "1.5"], "whole number of days"),
        (["export"], "one of the arguments --out --otlp is required"),
    ],
)
def test_a_mistyping_is_answered_with_the_nearest_word(
    capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == output.EXIT_USAGE
    out, err = capsys.readouterr()
    assert (out, said in err) == ("", True)


def test_a_mistyped_key_is_answered_with_the_nearest(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    (scene.home / "config.yaml").write_text("model: {default: x}\n")
    for wrong, right in (
        ("telemetry.loca", "telemetry.local"),
        ("retention_days", "telemetry.retention_days"),
        ("modle.default", "model.default"),
    ):
        cli.main(["policy", "why", wrong])
        assert f"Did you mean {right}?" in capsys.readouterr().err
    cli.main(["policy", "why", "x" * 100_000])
    assert capsys.readouterr().err == ""


def test_the_host_mounted_verbs_mend_mistypings_as_well(
    capsys: pytest.CaptureFixture[str],
) -> None:
    parser = argparse.ArgumentParser(prog="hermes")
    cli.add_verbs(parser.add_subparsers(dest="command").add_parser("telemetry"))
    with pytest.raises(SystemExit):
        parser.parse_args(["telemetry", "push", "--dryrun"])
    assert "did you mean --dry-run?" in capsys.readouterr().err


def test_a_fault_of_ours_names_its_place_and_no_value(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(home: Path) -> None:
        raise ValueError("Invalid header value b'Bearer hunter2'")

    monkeypatch.setattr("agent_client.cli.status.gather", fail)
    assert cli.main(["status"]) == 1
    err = capsys.readouterr().err
    assert "ValueError at status.py:" in err
    assert "hunter2" not in err
    monkeypatch.setenv(cli.TRACEBACK_VARIABLE, "1")
    with pytest.raises(ValueError, match="hunter2"):
        cli.main(["status"])


def test_an_interrupt_from_the_keyboard_ends_with_130(scene: Scene) -> None:
    program = (
        "import os, signal, agent_client.cli.status as s\n"
        # A shell has what it runs in the background ignore the keyboard, and tests inherit it.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "s.run_status = lambda args: os.kill(os.getpid(), signal.SIGINT)\n"
        "import sys; from agent_client.cli import main; sys.exit(main(['status']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, "nothing is lost" in done.stderr) == (130, True)


def test_a_reader_that_goes_away_is_no_traceback(scene: Scene) -> None:
    record(scene.home, runs=2000, calls=3)
    command = f"{sys.executable} -m agent_client export --out - | head -1"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.parametrize("verb", [["status"], ["doctor", "--offline"], ["policy", "show"]])
def test_a_terminal_of_another_encoding_is_no_fault(scene: Scene, verb: list[str]) -> None:
    """Nor is a home whose name is no text at all."""
    home = Path(os.fsdecode(os.fsencode(scene.home) + b"/\xff\xe9"))
    home.mkdir()
    for more in ([], ["--json"]):
        done = subprocess.run(
            [sys.executable, "-m", "agent_client", "--home", home, *verb, *more],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONIOENCODING": "ascii"},
            capture_output=True,
            check=False,
            timeout=60,
        )
        assert b"fault" not in done.stderr
        assert done.stdout.isascii()
        if more:
            assert json.loads(done.stdout)["schema"] == 1


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_stream_that_was_closed_before_the_start_is_no_fault(tmp_path: Path, closed: str) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", f'"$0" -m agent_client status {closed}', sys.executable],
        env={**os.environ, "HERMES_HOME": str(tmp_path)},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
