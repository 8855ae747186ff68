from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_client import cli, doctor
from agent_client.cli import output
from agent_client.contract.wire import PATH_DISCOVERY, PATH_TELEMETRY
from agent_client.credential import credential_path
from tests.agent_client.homes import enrolled, record
from tests.agent_client.loopback_console import CREDENTIAL, ENROLL_TOKEN, Fault, LoopbackConsole

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def console() -> Iterator[LoopbackConsole]:
    with LoopbackConsole() as running:
        yield running


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HERMES_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HERMES_MANAGED_DIR", str(tmp_path / "managed"))
    (tmp_path / "home").mkdir()
    (tmp_path / "managed").mkdir(mode=0o755)
    return tmp_path / "home"


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = cli.main(argv)
    out, err = capsys.readouterr()
    return code, out, err


def run_json(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, object]:
    _, out, _ = run(capsys, *argv, "--json")
    found = json.loads(out)
    assert found["schema"] == 1
    assert isinstance(found, dict)
    return found


def test_status_of_a_new_home_is_honest_and_says_what_to_do(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "status")
    assert code == 0
    assert "nothing yet" in out
    assert "not enrolled: nothing is sent anywhere" in out
    assert "hermes plugins enable telemetry" in out
    assert list(home.iterdir()) == []


def test_status_follows_recording_enrollment_and_push(
    home: Path, console: LoopbackConsole, capsys: pytest.CaptureFixture[str]
) -> None:
    record(home)
    assert "1 run, 2 model calls" in run(capsys, "status")[1]
    enrolled(home, console)
    assert "3 rows pending" in run(capsys, "status")[1]
    run(capsys, "push")
    _, out, _ = run(capsys, "status")
    assert "3 rows: 3 accepted, 0 known, 0 refused" in out
    assert "receipt " in out
    assert "0 rows pending" in out


def test_status_as_json_has_its_documented_parts(
    home: Path, console: LoopbackConsole, capsys: pytest.CaptureFixture[str]
) -> None:
    enrolled(home, console)
    found = run_json(capsys, "status")
    assert found["planes"] == {"local": True, "aggregate": False, "trajectories": False}
    assert found["redaction"] == {"secrets": True, "content_redaction": "none"}
    enrollment = found["enrollment"]
    assert isinstance(enrollment, dict)
    assert enrollment["enabled"] is True


def test_no_verb_prints_a_secret(
    home: Path, console: LoopbackConsole, capsys: pytest.CaptureFixture[str]
) -> None:
    record(home)
    run(capsys, "enroll", console.url, console.enrollment)
    console.publish({"model.default": "x"})
    shown = ""
    for argv in (
        ["status"],
        ["status", "--json"],
        ["push", "--dry-run"],
        ["push"],
        ["policy", "sync"],
        ["policy", "show"],
        ["doctor"],
        ["doctor", "--json"],
    ):
        shown += "".join(map(str, run(capsys, *argv)))
    assert CREDENTIAL not in shown
    assert ENROLL_TOKEN not in shown


def test_enroll_reads_the_string_from_stdin(
    home: Path,
    console: LoopbackConsole,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(console.enrollment + "\n"))
    code, out, _ = run(capsys, "enroll", console.url, "-")
    assert code == 0
    assert "group lab" in out
    assert credential_path(home).exists()


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["enroll", "http://127.0.0.1:9", "nonsense"], 2),
        (["enroll", "http://127.0.0.1:9"], 2),
        (["push"], 4),
        (["push", "--dry-run"], 4),
        (["policy", "sync"], 4),
        (["policy", "why", "no.such.key"], 1),
        (["policy", "show"], 0),
        (["policy"], 0),
        (["insights"], 0),
        (["unenroll"], 0),
        (["rebuild"], 1),
        ([], 0),
    ],
)
def test_each_verb_ends_with_its_documented_code(
    home: Path, capsys: pytest.CaptureFixture[str], argv: list[str], code: int
) -> None:
    assert run(capsys, *argv)[0] == code


def test_an_address_that_is_not_safe_is_wrong_usage(
    home: Path, console: LoopbackConsole, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, "enroll", "http://console.example", console.enrollment)
    assert code == output.EXIT_USAGE
    assert "--insecure-http" in err


def test_an_unreachable_console_means_try_later(
    home: Path, console: LoopbackConsole, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, "enroll", "http://127.0.0.1:1", console.enrollment)
    assert (code, "nothing listens" in err) == (output.EXIT_NETWORK, True)


@pytest.mark.parametrize(
    ("status", "code", "exit_code"),
    [
        (401, "credential_revoked", 4),
        (403, "plane_closed", 3),
        (503, "unavailable", 5),
        (422, "invalid", 1),
    ],
)
def test_push_ends_with_the_code_of_its_refusal(
    home: Path,
    console: LoopbackConsole,
    capsys: pytest.CaptureFixture[str],
    status: int,
    code: str,
    exit_code: int,
) -> None:
    record(home)
    enrolled(home, console)
    headers = {"Retry-After": "600"}
    console.faults.append(Fault(PATH_TELEMETRY, "status", status, code, headers))
    got, out, err = run(capsys, "push")
    assert got == exit_code
    assert code in out
    assert exit_code == 3 or err


def test_a_partial_push_names_the_refused_lines(
    home: Path, console: LoopbackConsole, capsys: pytest.CaptureFixture[str]
) -> None:
    record(home)
    enrolled(home, console)
    console.refused_lines = 1
    code, out, _ = run(capsys, "push")
    assert (code, "wrong_type 1" in out) == (output.EXIT_PARTIAL, True)


def test_a_dry_run_shows_what_would_leave_and_sends_nothing(
    home: Path, console: LoopbackConsole, capsys: pytest.CaptureFixture[str]
) -> None:
    record(home)
    enrolled(home, console)
    code, out, _ = run(capsys, "push", "--dry-run")
    assert code == 0
    assert "Telemetry-Plane: local" in out
    _, lines, _ = run(capsys, "push", "--dry-run", "--lines")
    assert len([json.loads(line) for line in lines.splitlines()]) == 3
    assert run_json(capsys, "push", "--dry-run")["rows"] == 3
    assert console.sent(PATH_TELEMETRY) == []


def test_export_keeps_stdout_clean(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    record(home)
    assert cli.main(["export", "--out", "-"]) == 0
    out, err = capfd.readouterr()
    assert {json.loads(line)["_kind"] for line in out.splitlines()} == {
        "tel_runs",
        "tel_model_calls",
    }
    assert "3 records exported" in err
    assert "tel_model_calls      2" in err


def test_export_writes_a_private_whole_file(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(home)
    target = tmp_path / "out.json"
    code, _, err = run(
        capsys, "export", "--out", str(target), "--format", "json", "--include-content"
    )
    assert code == 0
    assert len(json.loads(target.read_text())["records"]) == 3
    assert "warning: content was asked for" in err
    assert target.stat().st_mode & 0o777 == 0o600


def test_insights_tell_of_recorded_runs(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(home)
    assert "Workflows" in run(capsys, "insights", "--days", "7")[1]
    assert run_json(capsys, "insights")["has_data"] is True


def test_rebuild_makes_the_database_again(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(home)
    code, out, _ = run(capsys, "rebuild")
    assert (code, "3 events" in out) == (0, True)


def test_policy_show_and_why_say_who_and_why(
    home: Path, console: LoopbackConsole, capsys: pytest.CaptureFixture[str]
) -> None:
    enrolled(home, console)
    console.publish({"model.default": "corp"})
    code, out, _ = run(capsys, "policy", "sync")
    assert (code, "in force: 1 key changed" in out) == (0, True)
    shown = run(capsys, "policy", "show")[1]
    assert "why: house rule" in shown
    assert "ask: ops@x" in shown
    why = run(capsys, "policy", "why", "model.default")[1]
    assert "pinned in managed scope" in why
    assert run_json(capsys, "policy", "why", "model.default")["source"] == "managed"
    assert run_json(capsys, "policy", "show")["state"] == "in_sync"


def test_home_is_taken_before_and_behind_the_verb(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for argv in (["--home", str(tmp_path), "status"], ["status", "--home", str(tmp_path)]):
        assert str(tmp_path) in run(capsys, *argv)[1]


def test_the_host_mounts_the_same_verbs(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser(prog="hermes")
    commands = parser.add_subparsers(dest="command")
    cli.add_verbs(commands.add_parser("telemetry"))
    args = parser.parse_args(["telemetry", "status", "--json"])
    assert not hasattr(args, "func")
    assert cli.run(args) == 0
    assert json.loads(capsys.readouterr().out)["home"] == str(home)


def test_help_documents_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["push", "--help"])
    shown = capsys.readouterr().out
    codes = [value for name, value in vars(output).items() if name.startswith("EXIT_")]
    assert all(f"\n  {code}  " in shown for code in codes if isinstance(code, int))


def test_an_interrupt_has_its_own_code(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(args: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("agent_client.cli.status.run_status", interrupt)
    assert run(capsys, "status")[0] == output.EXIT_INTERRUPTED


def test_colour_is_for_terminals_that_want_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert output.paint("x", "red", stream=Terminal()) == "\x1b[31mx\x1b[0m"
    assert output.paint("x", "red", stream=io.StringIO()) == "x"
    monkeypatch.setenv("NO_COLOR", "1")
    assert output.paint("x", "red", stream=Terminal()) == "x"


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 B"), (1500, "1.5 kB"), (2_000_000, "2.0 MB"), (10**13, "10000.0 GB")],
)
def test_sizes_carry_their_unit(size_bytes: int, text: str) -> None:
    assert output.size_text(size_bytes) == text


def test_ages_carry_their_unit() -> None:
    assert output.age_text(5 * 10**9) == "5 s ago"
    assert output.age_text(7200 * 10**9) == "2 h ago"
    assert output.age_text(-(10**12)).startswith("in the future")


# ------------------------------------------------------------------------------------ doctor


def levels(checks: list[doctor.Check]) -> dict[str, str]:
    return {check.name: check.level for check in checks}


def test_doctor_finds_nothing_wrong_with_a_good_home(
    home: Path, console: LoopbackConsole, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "config.yaml").write_text("plugins: {enabled: [telemetry]}\n")
    record(home)
    enrolled(home, console)
    code, out, _ = run(capsys, "doctor")
    assert (code, "No problem found" in out) == (0, True)


def test_doctor_names_each_fault_with_its_mend(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, console: LoopbackConsole
) -> None:
    record(home)
    enrolled(home, console)
    (home / "config.yaml").write_text("plugins: {disabled: [telemetry]}\ntelemetry: {local: off}\n")
    credential_path(home).chmod(0o644)
    console.credential_is_good = False
    monkeypatch.setenv("HERMES_MANAGED_DIR", str(tmp_path / "nowhere"))
    checks = doctor.examine(home)
    failed = {check.name for check in checks if check.level == "fail"}
    assert failed >= {"plugin", "permissions", "credential", "managed scope"}
    assert all(check.hint for check in checks if check.level == "fail")
    assert levels(checks)["recording"] == "warn"


def test_doctor_sees_a_clock_that_is_wrong(home: Path, console: LoopbackConsole) -> None:
    enrolled(home, console)
    console.faults.append(Fault(PATH_DISCOVERY, "reply", reply={"server_time_ns": 1}))
    assert levels(doctor.examine(home))["clock"] == "fail"


def test_doctor_does_not_ask_the_console_offline(home: Path, console: LoopbackConsole) -> None:
    enrolled(home, console)
    console.requests.clear()
    doctor.examine(home, offline=True)
    assert console.requests == []


def test_doctor_sees_a_damaged_database(home: Path) -> None:
    record(home)
    for path in (home / "telemetry").glob("telemetry.db*"):
        path.write_bytes(b"not a database" * 400)
    assert levels(doctor.examine(home))["database"] == "fail"


def test_doctor_sees_an_open_or_closed_managed_scope(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "managed"
    for mode, level in ((0o777, "fail"), (0o700, "fail"), (0o755, "ok")):
        folder.chmod(mode)
        assert levels(doctor.examine(home))["managed scope"] == level


# -------------------------------------------------------------------------------- start-up


def test_the_module_runs_as_a_program(home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "agent_client", "--version"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("hermes-telemetry ")
