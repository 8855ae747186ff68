from __future__ import annotations

import sys
from pathlib import Path

import pytest

from agent_client import config
from agent_client.files import telemetry_dir
from agent_client.otlp.drain import drain
from agent_client.otlp.encode import is_installed
from agent_client.otlp.state import otlp_state
from agent_client.store import Store
from tests.agent_client.otlp_homes import configure, instant, recorded
from tests.agent_client.otlp_receiver import OtlpReceiver


def test_the_state_tells_what_is_configured_and_what_was_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLLECTOR_KEY", "sesame-open-1234")
    monkeypatch.delenv("OTHER_KEY", raising=False)
    with OtlpReceiver() as receiver:
        headers = {"x-key": "COLLECTOR_KEY", "x-other": "OTHER_KEY"}
        recorded(tmp_path, receiver.url, headers_env=headers)
        before = otlp_state(tmp_path, config.load(tmp_path))
        assert (before.is_enabled, before.endpoint, before.problem) == (True, receiver.url, "")
        assert (before.cursor, before.left, before.success_ns) == (0, 10, 0)
        report = drain(tmp_path, timing=instant(now_ns=7 * 10**9))
        after = otlp_state(tmp_path, config.load(tmp_path))
    assert report.missing == ("OTHER_KEY",)
    assert (after.cursor, after.left, after.success_ns) == (10, 0, 7 * 10**9)
    assert (after.last_status, after.last_ns) == ("sent", 7 * 10**9)
    assert [(found.name, found.variable, found.is_set) for found in after.headers] == [
        ("x-key", "COLLECTOR_KEY", True),
        ("x-other", "OTHER_KEY", False),
    ]
    assert "sesame" not in repr((before, after, report))


def test_the_state_of_a_home_without_records_makes_nothing(tmp_path: Path) -> None:
    state = otlp_state(tmp_path, config.load(tmp_path))
    assert (state.is_enabled, state.left) == (False, 0)
    assert "is off (default)" in state.problem
    configure(tmp_path, "https://collector.example")
    assert otlp_state(tmp_path, config.load(tmp_path)).problem == ""
    assert not telemetry_dir(tmp_path).exists()


def test_a_database_that_cannot_be_opened_is_a_problem_and_no_crash(tmp_path: Path) -> None:
    configure(tmp_path, "https://collector.example")
    (telemetry_dir(tmp_path) / "telemetry.db").mkdir(parents=True)
    assert "cannot be opened" in otlp_state(tmp_path, config.load(tmp_path)).problem
    report = drain(tmp_path, timing=instant())
    assert (report.status, report.exit_code, report.reason) == ("failed", 1, "store")


def test_a_telemetry_folder_that_is_a_file_is_reported(tmp_path: Path) -> None:
    configure(tmp_path, "https://collector.example")
    telemetry_dir(tmp_path).write_text("in the way")
    report = drain(tmp_path, timing=instant())
    assert (report.status, report.exit_code) == ("failed", 1)


def test_damaged_books_count_as_none(tmp_path: Path) -> None:
    with OtlpReceiver() as receiver:
        recorded(tmp_path, receiver.url)
        drain(tmp_path, timing=instant())
        with Store(tmp_path) as store:
            store.connection.execute(
                "UPDATE tel_state SET value = '{' WHERE key LIKE 'otlp.%' AND key NOT LIKE '%run%'"
            )
        assert drain(tmp_path, timing=instant()).sent["spans"] == 4
        assert receiver.span_arrivals == 8


def test_missing_packages_are_noticed_without_loading_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(tmp_path, "https://collector.example")
    assert otlp_state(tmp_path, config.load(tmp_path)).problem == ""
    monkeypatch.delitem(sys.modules, "opentelemetry.proto", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    assert not is_installed()
    problem = otlp_state(tmp_path, config.load(tmp_path)).problem
    assert "pip install 'hermes-fleet-agent[otlp]'" in problem
