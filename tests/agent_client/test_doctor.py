"""What ``doctor`` finds out about machine, records and collector; test_cli has the rest."""

from __future__ import annotations

import importlib
import os
import sqlite3
import time
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest

from agent_client import cli, doctor
from agent_client.credential import credential_path
from agent_client.doctor import Check, machine, records
from agent_client.files import telemetry_dir
from agent_client.otlp.state import OtlpState
from agent_client.otlp.target import Header
from agent_client.policy.state import load_state, save_state
from agent_client.store import Store
from tests.agent_client.builders import run_event, store_events
from tests.agent_client.homes import enrolled, record
from tests.agent_client.loopback_console import LoopbackConsole


@pytest.fixture
def console() -> Iterator[LoopbackConsole]:
    with LoopbackConsole() as running:
        yield running


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, variable in (("home", "HERMES_HOME"), ("managed", "HERMES_MANAGED_DIR")):
        (tmp_path / name).mkdir(mode=0o755)
        monkeypatch.setenv(variable, str(tmp_path / name))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    return tmp_path / "home"


def found(home: Path, name: str) -> list[Check]:
    return [check for check in doctor.examine(home, offline=True) if check.name == name]


def one(home: Path, name: str) -> Check:
    (check,) = found(home, name)
    return check


def without(monkeypatch: pytest.MonkeyPatch, *missing: str) -> None:
    """Make modules look as if they were not installed."""
    real = importlib.util.find_spec

    def find_spec(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name in missing else real(name, package)

    monkeypatch.setattr("importlib.util.find_spec", find_spec)


def test_a_missing_package_is_named_with_what_fails_without_it(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, "re2", "yaml", "phonenumbers")
    checks = {check.finding.split(" ")[0]: check for check in found(home, "packages")}
    assert checks["google-re2"].level == "fail"
    assert "nothing is exported or pushed" in checks["google-re2"].finding
    assert "-m pip install 'google-re2'" in checks["google-re2"].hint
    assert (checks["PyYAML"].level, checks["phonenumbers"].level) == ("warn", "warn")
    (home / "config.yaml").write_text("{}\n")
    assert {c.finding: c.level for c in found(home, "packages")}[checks["PyYAML"].finding] == "fail"


def test_an_extra_is_missed_only_where_it_is_used(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, "zstandard")
    monkeypatch.setattr("agent_client.otlp.state.is_installed", lambda: False)
    assert one(home, "packages").finding == "all there; [zstd] is not there, pushes use gzip"
    (home / "config.yaml").write_text(
        "telemetry: {export: {otlp: {enabled: true, endpoint: 'http://127.0.0.1:9'}}}\n"
    )
    assert any("[otlp]" in check.finding and check.level == "fail" for check in found(home, "otlp"))


def test_an_old_python_is_too_old(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "OLDEST_PYTHON", (99, 0))
    assert (one(home, "python").level, "too old" in one(home, "python").finding) == ("fail", True)


def test_every_file_below_the_folder_is_private(home: Path) -> None:
    record(home)
    assert one(home, "permissions").level == "ok"
    (telemetry_dir(home) / "events.jsonl").chmod(0o640)
    for name in "abcd":
        (telemetry_dir(home) / name).touch(0o644)
    check = one(home, "permissions")
    assert check.level == "fail"
    assert "0644" in check.finding
    assert "and 2 more" in check.finding
    assert check.hint.startswith("chmod -R go-rwx")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_file_of_another_owner_is_found(home: Path) -> None:
    record(home)
    os.chown(telemetry_dir(home) / "telemetry.db", 12345, 12345)
    assert "of another owner: telemetry/telemetry.db" in one(home, "permissions").finding


@pytest.mark.parametrize(("free_bytes", "level"), [(0, "fail"), (10**8, "warn"), (10**11, "ok")])
def test_a_full_disk_is_told_before_events_are_lost(
    home: Path, monkeypatch: pytest.MonkeyPatch, free_bytes: int, level: str
) -> None:
    blocks = free_bytes // 4096
    answer = os.statvfs_result((4096, 4096, 10**9, blocks, blocks, 100, 100, 100, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _path: answer)
    assert one(home, "disk").level == level


def test_a_log_that_is_gone_is_told_with_a_warning_about_rebuild(home: Path) -> None:
    record(home)
    assert one(home, "log").level == "ok"
    (telemetry_dir(home) / "events.jsonl").unlink()
    check = one(home, "log")
    assert (check.level, "Do not run rebuild" in check.hint) == ("warn", True)


def test_a_large_database_is_checked_as_far_as_the_time_goes(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(home, runs=2000, calls=1)
    monkeypatch.setattr(records, "CHECK_S", -1.0)
    assert one(home, "database").finding.startswith("no damage found in")


def test_a_database_with_a_torn_page_is_damaged(home: Path) -> None:
    record(home, runs=3000, calls=1)
    database = telemetry_dir(home) / "telemetry.db"
    connection = sqlite3.connect(database)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    with database.open("r+b") as file:
        file.seek(database.stat().st_size // 2 // 4096 * 4096)
        file.write(b"\xff" * 8192)
    check = one(home, "database")
    assert (check.level, check.hint) == ("fail", records.REBUILD)


def test_retention_that_does_not_work_is_told(home: Path) -> None:
    day_ns = records.DAY_NS
    store_events(home, run_event(start_ns=time.time_ns() - 95 * day_ns))
    check = one(home, "retention")
    assert (check.level, check.hint) == ("warn", "hermes-telemetry prune")
    assert "95 days ago, retention is 90 days" in check.finding
    (home / "config.yaml").write_text("telemetry: {retention_days: 100}\n")
    assert one(home, "retention").level == "ok"


def test_a_process_that_records_is_no_fault(home: Path) -> None:
    from agent_client.emitter import Emitter

    emitter = Emitter(home)
    try:
        emitter.emit(run_event())
        emitter.flush(5)
        assert one(home, "spool").level == "info"
    finally:
        emitter.close()


def test_timers_are_told_whether_enabled_or_only_there(home: Path, tmp_path: Path) -> None:
    units = tmp_path / "xdg/systemd/user"
    assert one(home, "timers").finding.startswith("none")
    units.mkdir(parents=True)
    (units / "hermes-telemetry-push.timer").touch()
    assert "hermes-telemetry-push.timer there, not enabled" in one(home, "timers").finding
    (units / "timers.target.wants").mkdir()
    (units / "timers.target.wants/hermes-telemetry-push.timer").touch()
    assert "hermes-telemetry-push.timer enabled" in one(home, "timers").finding
    assert one(home, "timers").level == "info"


# -------------------------------------------------------------------------- collector, policy


def otlp_state(*headers: Header, **facts: Any) -> OtlpState:  # noqa: ANN401  # OtlpState's own
    return OtlpState(is_enabled=True, endpoint="", headers=headers, **facts)


def collector(home: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str, state: OtlpState) -> None:
    module = importlib.import_module("agent_client.otlp.state")
    monkeypatch.setattr(module, "otlp_state", lambda _home, _config: state)
    (home / "config.yaml").write_text(
        f"telemetry: {{export: {{otlp: {{enabled: true, endpoint: '{endpoint}'}}}}}}\n"
    )


def test_a_collector_needs_an_address_and_its_headers(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = Header("authorization", "OTLP_TOKEN", "NOT set")
    collector(home, monkeypatch, "http://localhost:4318", otlp_state(header))
    checks = {check.level: check for check in doctor.examine(home) if check.name == "otlp"}
    assert checks["fail"].finding == "$OTLP_TOKEN (for authorization): not set"
    collector(home, monkeypatch, "http://localhost:4318", otlp_state())
    (check,) = [check for check in doctor.examine(home) if check.name == "otlp"]
    assert (check.level, check.finding) == ("ok", "http://localhost")
    collector(home, monkeypatch, "", otlp_state(problem="no endpoint"))
    assert (one(home, "otlp").level, one(home, "otlp").finding) == ("fail", "no endpoint")


def test_a_collector_whose_name_has_no_address_is_found(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector(home, monkeypatch, "http://collector.invalid", otlp_state())

    def getaddrinfo(*_args: object, **_kw: object) -> None:
        raise OSError(-2, "Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", getaddrinfo)
    levels = [check.level for check in doctor.examine(home) if check.name == "otlp"]
    assert levels == ["warn", "fail"]  # not encrypted, and nowhere
    assert [check.level for check in found(home, "otlp")] == ["warn", "info"]


def test_a_policy_nobody_asks_for_any_more_is_told(home: Path, console: LoopbackConsole) -> None:
    enrolled(home, console)
    console.publish({"model.default": "corp"})
    cli.main(["policy", "sync"])
    assert one(home, "policy").level == "ok"
    state = load_state(home)
    object.__setattr__(state, "last_sync_ns", time.time_ns() - 3 * records.DAY_NS)
    save_state(home, state)
    assert "not asked for 3 days" in one(home, "policy").finding


def test_a_policy_whose_managed_scope_is_not_this_one_is_told(
    home: Path, console: LoopbackConsole, monkeypatch: pytest.MonkeyPatch
) -> None:
    enrolled(home, console)
    console.publish({"model.default": "corp"})
    cli.main(["policy", "sync"])
    monkeypatch.delenv("HERMES_MANAGED_DIR")
    assert "HERMES_MANAGED_DIR" in one(home, "policy").hint


def test_plain_http_to_another_machine_is_told(home: Path, console: LoopbackConsole) -> None:
    enrolled(home, console)
    path = credential_path(home)
    path.write_text(
        path.read_text().replace('"allow_plain_http": false', '"allow_plain_http": true')
    )
    assert any(check.name == "tls" for check in doctor.examine(home))


def test_a_check_that_breaks_is_a_finding_and_the_others_go_on(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_subject: object) -> Iterator[Check]:
        raise RuntimeError("hunter2")
        yield  # type: ignore[unreachable]  # makes it the generator that a check is

    monkeypatch.setattr(machine, "check_disk", fail)
    checks = doctor.examine(home, offline=True)
    assert [c.finding for c in checks if c.level == "fail" and "could not" in c.finding] == [
        "could not be checked (RuntimeError)"
    ]
    assert checks[-1].name == "timers"


def test_doctor_changes_nothing(home: Path, console: LoopbackConsole) -> None:
    record(home)
    enrolled(home, console)
    (home / "config.yaml").write_text("plugins: {enabled: [telemetry]}\n")

    def contents() -> dict[str, object]:
        with Store(home) as store:  # its bytes may move between the file and the WAL
            dump: object = list(store.connection.iterdump())
        files = [path for path in home.rglob("*") if path.is_file() and ".db" not in path.name]
        return {"database": dump, **{str(path): path.read_bytes() for path in files}}

    before = contents()
    doctor.examine(home)
    assert contents() == before
    fresh = home.parent / "fresh"
    fresh.mkdir()
    doctor.examine(fresh)
    assert list(fresh.iterdir()) == []
