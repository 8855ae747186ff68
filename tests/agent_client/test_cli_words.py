"""What the verbs say when something is not as it should be."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_client import cli, doctor
from agent_client.cli.network import result_text
from agent_client.cli.ticker import Ticker
from agent_client.config import install_id_path
from agent_client.contract import redact
from agent_client.contract.wire import PATH_DISCOVERY, PATH_ENROLL, PATH_POLICY_ROOT, PATH_TELEMETRY
from agent_client.credential import credential_path
from agent_client.files import telemetry_dir
from agent_client.policy.allow import UNSAFE
from agent_client.policy.state import load_state, save_state
from agent_client.push import PushResult
from agent_client.store import DATABASE
from tests.agent_client.homes import enrolled, record
from tests.agent_client.loopback_console import Fault, LoopbackConsole, sealed_root


@pytest.fixture
def console() -> Iterator[LoopbackConsole]:
    with LoopbackConsole() as running:
        yield running


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    (tmp_path / "managed").mkdir(mode=0o755)
    monkeypatch.setenv("HERMES_HOME", str(folder))
    monkeypatch.setenv("HERMES_MANAGED_DIR", str(tmp_path / "managed"))
    return folder


def said(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    cli.main(argv)
    out, err = capsys.readouterr()
    return out + err


def configure(home: Path, text: str) -> None:
    (home / "config.yaml").write_text(text)


def failing(checks: list[doctor.Check]) -> dict[str, str]:
    return {check.name: check.finding for check in checks if check.level == "fail"}


def test_status_tells_of_each_switch_and_its_source(
    home: Path, console: LoopbackConsole, capsys: pytest.CaptureFixture[str]
) -> None:
    record(home)
    enrolled(home, console)
    configure(
        home,
        "telemetry:\n  local: false\n  allow_aggregate: false\n  consent_state: aggregate\n"
        "  retention_days: many\n  export: {console: {enabled: false}}\n",
    )
    shown = said(capsys, "status")
    assert "off  nothing is recorded (config.yaml)" in shown
    assert "consent aggregate (config.yaml), allowed: NO (config.yaml)" in shown
    assert "pushing is switched off (config.yaml)" in shown
    assert "telemetry.retention_days: Use a whole number." in shown
    assert "hermes config set telemetry.local true" in shown


def test_status_says_when_aggregate_is_open(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configure(home, "telemetry: {consent_state: aggregate}\n")
    assert "on   consent aggregate (config.yaml), allowed: yes (default)" in said(capsys, "status")


def test_status_tells_of_a_refused_batch_and_credential(
    home: Path, console: LoopbackConsole, capsys: pytest.CaptureFixture[str]
) -> None:
    record(home)
    enrolled(home, console)
    console.faults.append(Fault(PATH_TELEMETRY, "status", 422, "invalid"))
    assert "kept and tried again" in said(capsys, "push")
    assert "a batch is refused by the console (invalid)" in said(capsys, "status")
    console.credential_is_good = False
    assert "does not accept this install's credential" in said(capsys, "push", "--force")
    assert "enroll --force" in said(capsys, "status")


def test_status_tells_of_a_changed_install_id(
    home: Path, console: LoopbackConsole, capsys: pytest.CaptureFixture[str]
) -> None:
    enrolled(home, console)
    install_id_path(home).write_text("")
    assert "the install id has changed since" in said(capsys, "status")
    assert "console" in failing(doctor.examine(home))


def test_status_survives_a_store_it_cannot_open(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = telemetry_dir(home)
    folder.mkdir()
    (folder / DATABASE).mkdir()
    assert "Next: hermes-telemetry doctor" in said(capsys, "status")
    assert cli.main(["insights"]) == 1


def test_enrolling_as_json_answers_in_both_outcomes(
    home: Path, console: LoopbackConsole, capsys: pytest.CaptureFixture[str]
) -> None:
    console.faults.append(Fault(PATH_ENROLL, "status", 403, "token_exhausted"))
    assert cli.main(["enroll", console.url, console.enrollment, "--json"]) == 4
    assert json.loads(capsys.readouterr().out)["code"] == "token_exhausted"
    assert cli.main(["enroll", console.url, console.enrollment, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["group"] == "lab"


def test_a_wait_for_approval_shows_the_code_once(
    home: Path, console: LoopbackConsole, capsys: pytest.CaptureFixture[str]
) -> None:
    console.pending_polls = 2
    assert said(capsys, "enroll", console.url, console.enrollment).count("ABCD-EFGH") == 1


def test_unenroll_says_what_stays(
    home: Path, console: LoopbackConsole, capsys: pytest.CaptureFixture[str]
) -> None:
    enrolled(home, console)
    assert "Recorded data stays" in said(capsys, "unenroll")
    assert json.loads(said(capsys, "unenroll", "--json"))["was_enrolled"] is False


def test_push_as_json_and_with_nothing_to_send(
    home: Path, console: LoopbackConsole, capsys: pytest.CaptureFixture[str]
) -> None:
    enrolled(home, console)
    assert json.loads(said(capsys, "push", "--json"))["status"] == "nothing"
    assert "the console has everything" in said(capsys, "push", "--dry-run")
    assert json.loads(said(capsys, "push", "--dry-run", "--json"))["status"] == "nothing"


def test_a_push_that_stops_half_way_says_both() -> None:
    text = result_text(PushResult("later", 5, "network", "gone", batches=1, rows=2, accepted=2))
    assert text.startswith("2 rows sent in 1 batch: 2 accepted")
    assert "then later: network: gone" in text
    assert result_text(PushResult("not_enrolled", 4, "not_enrolled")) == (
        "Not pushed, not enrolled. 0 rows pending."
    )


def test_a_push_of_two_planes_has_one_line_for_each_and_no_sum(
    home: Path, console: LoopbackConsole, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(home, "telemetry: {consent_state: aggregate}\n")
    enrolled(home, console)
    assert "no summary sent yet" in said(capsys, "status")
    record(home)
    cli.main(["push"])
    assert capsys.readouterr().out.splitlines() == [
        "records:   Pushed. 3 rows sent in 1 batch: 3 accepted, 0 known, 0 refused.",
        "summaries: Pushed. 1 row sent in 1 batch: 1 accepted, 0 known, 0 refused.",
    ]
    assert "1 record: 1 accepted, 0 known, 0 refused" in said(capsys, "status")
    cli.main(["push"])
    assert capsys.readouterr().out == "Nothing to send: the console has everything.\n"


def test_status_tells_of_refused_summaries(
    home: Path, console: LoopbackConsole, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(home, "telemetry: {consent_state: aggregate}\n")
    enrolled(home, console)
    console.faults.append(Fault(PATH_TELEMETRY, "status", 422, "invalid"))
    said(capsys, "push")  # nothing is recorded: the heartbeat is all that leaves
    shown = said(capsys, "status")
    assert "a batch is refused by the console (invalid)" in shown
    assert json.loads(said(capsys, "status", "--json"))["push"]["aggregate"]["blocked"] == "invalid"


def test_an_export_to_where_nothing_can_be_written_names_the_place(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = said(capsys, "export", "--out", str(home / "none" / "rows.ndjson"))
    assert f"{home}/none/rows.ndjson is in a directory that is not there" in shown
    assert "Name a file with --out" in shown
    assert f"{home} is a directory" in said(capsys, "export", "--out", str(home))
    assert "Errno" not in shown


def test_an_export_of_a_home_that_is_not_there_makes_none(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    none = tmp_path / "mistyped"
    assert cli.main(["export", "--out", "-", "--home", str(none)]) == 0
    assert capsys.readouterr().out == ""
    assert not none.exists()


def test_insights_without_the_redactor_show_nothing_and_say_what_to_install(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record(home)
    monkeypatch.setitem(sys.modules, "re2", None)
    monkeypatch.setattr(redact, "_engine", redact._Engine())
    shown = said(capsys, "insights")
    assert "nothing is shown; install google-re2" in shown
    assert "fault in this program" not in shown


def test_doctor_says_which_file_it_may_not_read(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_subject: object) -> Iterator[doctor.Check]:
        raise PermissionError(13, "Permission denied", str(home / "config.yaml"))

    monkeypatch.setattr(doctor.machine, "check_python", refuse)
    finding = next(check for check in doctor.examine(home, offline=True) if check.name == "refuse")
    assert finding.finding == f"{home}/config.yaml: Permission denied"
    assert "who may read it" in finding.hint


def test_doctor_does_not_send_to_itself_nor_rebuild_what_is_not_ours(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(home)

    def refuse(_path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("agent_client.store.connect", refuse)
    checks = doctor.examine(home, offline=True)
    found = next(check for check in checks if check.name == "database")
    assert found.finding.endswith("cannot be opened (PermissionError)")
    assert found.hint == "Check who owns it, and who may write it."


def test_an_export_to_no_collector_says_which_key_opens_it(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = said(capsys, "export", "--otlp")
    assert "telemetry.export.otlp.enabled is off (default)" in shown
    assert "Set telemetry.export.otlp.enabled: true and an endpoint" in shown


def test_a_hint_is_given_once(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = telemetry_dir(home)
    folder.mkdir()
    (folder / DATABASE).mkdir()
    assert said(capsys, "insights").count("hermes-telemetry doctor") == 1


def test_a_folder_with_control_characters_does_not_steer_the_terminal(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "\x1b" not in said(capsys, "status", "--home", f"{home}/red\x1b[31m")


def test_the_next_step_knows_whether_the_plugin_is_enabled(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "Next: hermes plugins enable telemetry" in said(capsys, "status")
    configure(home, "plugins: {enabled: [telemetry]}\n")
    assert "Next: use the agent" in said(capsys, "status")


def test_an_export_to_an_impossible_place_fails_plainly(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(home)
    assert cli.main(["export", "--out", str(tmp_path / "no" / "where")]) == 1
    assert cli.main(["export", "--out", "/dev/null", "--since", "3"]) == 0
    target = tmp_path / "rows.ndjson"
    capsys.readouterr()
    answer = json.loads(said(capsys, "export", "--out", str(target), "--json"))
    assert (answer["rows"], answer["warnings"]) == (3, [])


def test_an_export_to_stdout_answers_in_json_on_stderr(
    home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    record(home)
    assert cli.main(["export", "--out", "-", "--json", "--include-content"]) == 0
    out, err = capfd.readouterr()
    assert len([json.loads(line) for line in out.splitlines()]) == 3
    answer = json.loads(err[err.index("{") :])
    assert (answer["out"], answer["counts"]["tel_runs"]) == ("-", 1)
    assert "telemetry.trajectories.enabled" in answer["warnings"][0]


def test_an_export_tells_how_far_it_is_and_only_a_terminal_sees_it(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record(home)
    noted: list[object] = []
    monkeypatch.setattr(Ticker, "note", lambda _self, detail: noted.append(detail))
    assert cli.main(["export", "--out", str(tmp_path / "rows")]) == 0
    assert "\r" not in capsys.readouterr().err
    assert noted[-1] == "3 records"


def test_an_interrupted_export_leaves_no_file(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(home)

    def interrupt(*args: object, **kw: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("agent_client.export.export", interrupt)
    assert cli.main(["export", "--out", str(tmp_path / "rows")]) == 130
    assert [path.name for path in tmp_path.glob("*rows*")] == []


@pytest.mark.parametrize("days", ["0", "-1", "x", "nan", "1e9"])
def test_a_window_that_makes_no_sense_is_wrong_usage(home: Path, days: str) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["insights", f"--days={days}"])
    assert caught.value.code == 2


def test_insights_and_rebuild_speak_json(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(said(capsys, "insights", "--json"))["has_data"] is False
    record(home)
    capsys.readouterr()
    cli.main(["rebuild", "--json"])
    assert json.loads(capsys.readouterr().out)["lines"] == 3


def test_sync_speaks_json_and_names_drift(
    home: Path, tmp_path: Path, console: LoopbackConsole, capsys: pytest.CaptureFixture[str]
) -> None:
    enrolled(home, console)
    assert "has published no policy" in said(capsys, "policy", "sync")
    console.publish({"model.default": "corp"})
    (tmp_path / "managed" / "config.yaml").write_text("model: {default: theirs}\n")
    found = json.loads(said(capsys, "policy", "sync", "--json"))
    assert (found["exit_code"], found["drift"][0]["cause"]) == (1, "foreign_key")
    assert "drift: model.default" in said(capsys, "policy", "sync")
    assert "not by the fleet" in said(capsys, "policy", "show")
    console.faults.append(Fault(PATH_POLICY_ROOT, "reset"))
    assert "What was in force stays in force" in said(capsys, "policy", "sync")


def test_show_tells_of_drift_and_staleness(
    home: Path, tmp_path: Path, console: LoopbackConsole, capsys: pytest.CaptureFixture[str]
) -> None:
    enrolled(home, console)
    console.publish({"model.default": "corp"})
    cli.main(["policy", "sync"])
    state = load_state(home)
    object.__setattr__(state, "expires_ns", time.time_ns() - 1)
    save_state(home, state)
    assert "stale: it stays in force" in said(capsys, "policy", "show")
    assert "policy" in {c.name for c in doctor.examine(home, offline=True) if c.level == "warn"}
    (tmp_path / "managed" / "config.yaml").write_text("{}\n")
    assert "NOT in force" in said(capsys, "policy", "show")


def test_why_names_the_users_own_setting(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configure(home, "telemetry: {local: false}\n")
    shown = said(capsys, "policy", "why", "telemetry.local")
    assert "set in the user's config.yaml" in shown
    assert "Record the local plane" in shown
    assert json.loads(said(capsys, "policy", "why", "x.y", "--json"))["is_set"] is False


# ------------------------------------------------------------------------------------ doctor


def test_doctor_tells_of_a_home_that_is_not_there(tmp_path: Path) -> None:
    assert "home" in failing(doctor.examine(tmp_path / "nowhere"))


def test_doctor_tells_of_files_it_cannot_use(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(home, "a: [")
    credential_path(home).parent.mkdir(mode=0o700)
    credential_path(home).write_text("damaged")
    credential_path(home).chmod(0o600)
    (tmp_path / "managed" / "config.yaml").write_text("- a list\n")
    monkeypatch.setenv("HERMES_SAFE_MODE", "1")
    checks = doctor.examine(home)
    assert set(failing(checks)) >= {"configuration", "managed scope", "plugin"}
    assert any("HERMES_SAFE_MODE" in check.finding for check in checks)


def test_doctor_tells_of_losses_and_a_failed_policy(home: Path, console: LoopbackConsole) -> None:
    from agent_client.store import Store

    record(home)
    enrolled(home, console)
    with Store(home) as store:
        store.state_set({"loss.overflow": "4"})
    console.publish({"model.default": "x"}, install_id="x", fleet_id="another")
    cli.main(["policy", "sync"])
    checks = doctor.examine(home)
    assert "policy" in failing(checks)
    assert any(check.name == "losses" for check in checks)


def test_doctor_tells_of_a_console_it_cannot_reach_or_trust(
    home: Path, console: LoopbackConsole
) -> None:
    enrolled(home, console)
    console.root = sealed_root(expires_ns=1)
    assert "expired" in failing(doctor.examine(home))["policy root"]
    console.faults.append(Fault(PATH_DISCOVERY, "reset"))
    assert "console" in failing(doctor.examine(home))
    console.faults.append(Fault(PATH_POLICY_ROOT, "reset"))
    levels = {check.name: check.level for check in doctor.examine(home)}
    assert levels["credential"] == "warn"


def test_doctor_tells_of_a_push_that_is_switched_off(home: Path, console: LoopbackConsole) -> None:
    enrolled(home, console)
    configure(home, "telemetry: {export: {console: {enabled: false}}}\n")
    assert any("switched off (user)" in check.finding for check in doctor.examine(home))


def test_doctor_looks_for_the_host_and_its_plugin(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda _name: "0.19.0")
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_kw: ())
    assert "does not find the plugin" in failing(doctor.examine(home))["host"]


# ------------------------------------------------------------------------------------- README


def test_the_readme_names_every_verb_option_and_exit_code() -> None:
    readme = (Path(cli.__file__).parents[1] / "README.md").read_text()
    verbs = [name for name in cli._HANDLERS if f"`{name}" not in readme]
    options = ["--home", "--json", "--new-id", "--force", "--no-wait", "--insecure-http"]
    options += ["--token-file", "--dry-run", "--lines", "--verify-host", "--offline", "--days"]
    assert verbs == []
    assert [option for option in options if option not in readme] == []
    assert all(f"{code} " in readme for code in (0, 1, 2, 3, 4, 5, 6, 130))


def test_the_readme_names_every_key_that_is_not_pinnable_by_default() -> None:
    readme = (Path(cli.__file__).parents[1] / "README.md").read_text()
    assert [pattern for pattern in UNSAFE if f"`{pattern.rstrip('*')}`" not in readme] == []
