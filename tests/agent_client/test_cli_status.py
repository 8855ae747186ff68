"""``status`` on a terminal: grouped, aligned, in 80 columns, and with every answer it promises."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent_client import cli
from agent_client.cli import output
from agent_client.config import install_id_path
from agent_client.otlp.state import OtlpState
from agent_client.otlp.target import Header
from agent_client.store import Store
from tests.agent_client.homes import enrolled, record
from tests.agent_client.loopback_console import LoopbackConsole
from tests.agent_client.terminals import Terminal


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, variable in (("home", "HERMES_HOME"), ("managed", "HERMES_MANAGED_DIR")):
        (tmp_path / name).mkdir(mode=0o755)
        monkeypatch.setenv(variable, str(tmp_path / name))
    return tmp_path / "home"


@pytest.fixture
def console() -> Iterator[LoopbackConsole]:
    with LoopbackConsole() as running:
        yield running


def status(capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert cli.main(["status"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return str(out)


def otlp_state(*headers: Header, **facts: Any) -> OtlpState:  # noqa: ANN401  # OtlpState's own
    return OtlpState(is_enabled=True, endpoint="", headers=headers, **facts)


def otlp(monkeypatch: pytest.MonkeyPatch, home: Path, state: OtlpState) -> None:
    import importlib

    module = importlib.import_module("agent_client.otlp.state")
    monkeypatch.setattr(module, "otlp_state", lambda _home, _config: state)
    endpoint = "https://collector.example/v1/traces?key=k"
    (home / "config.yaml").write_text(
        f"telemetry: {{export: {{otlp: {{enabled: true, endpoint: '{endpoint}'}}}}}}\n"
    )


def test_a_fresh_home_fits_on_a_small_screen(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = status(capsys).splitlines()
    assert len(lines) <= 20
    assert [line for line in lines if len(line) > 80 and str(home) not in line] == []


def test_a_full_home_fits_in_forty_lines_of_eighty_columns(
    home: Path,
    console: LoopbackConsole,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    record(home, runs=3)
    enrolled(home, console)
    console.publish({f"model.key_{number}": number for number in range(8)})
    cli.main(["push"])
    cli.main(["policy", "sync"])
    otlp(monkeypatch, home, otlp_state(Header("authorization", "OTLP_TOKEN", "NOT set"), left=4))
    lines = status(capsys).splitlines()
    assert len(lines) <= 40
    assert [line for line in lines if len(line) > 80 and str(home) not in line] == []
    assert "and 3 more: hermes-telemetry policy show" in "\n".join(lines)


def test_values_stand_in_one_column(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [line for line in status(capsys).splitlines() if line.startswith("  ")]
    assert rows
    assert {len(re.match(r"  .{13} ", line)[0]) for line in rows} == {16}  # type: ignore[index]
    assert all(line[16] != " " for line in rows)


def test_the_collector_is_shown_with_its_headers_and_progress(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    state = otlp_state(
        Header("authorization", "OTLP_TOKEN", "NOT set"),
        Header("x-team", "TEAM"),
        problem="",
        left=12,
        success_ns=time.time_ns() - 300 * 10**9,
        last_ns=time.time_ns(),
        last_status="later",
        last_reason="network",
    )
    otlp(monkeypatch, home, state)
    shown = status(capsys)
    assert "on   https://collector.example/v1/traces?… (config.yaml)" in shown
    assert "authorization from $OTLP_TOKEN: NOT set" in shown
    assert "x-team from $TEAM: set" in shown
    assert "last sent 5 min ago; 12 rows pending" in shown
    assert "the last try ended later: network" in shown
    otlp(monkeypatch, home, otlp_state(problem="install the extra [otlp]"))
    assert "install the extra [otlp]" in status(capsys)


def test_a_collector_that_is_switched_off_loads_nothing_for_it(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "config.yaml").write_text(
        "telemetry: {export: {otlp: {endpoint: 'https://c.example', headers_env: {a: B_C}}}}\n"
    )
    shown = status(capsys)
    assert "off  https://c.example (default)" in shown
    assert "a from $B_C: NOT set" in shown


def test_a_wait_is_shown_with_its_length(
    home: Path, console: LoopbackConsole, capsys: pytest.CaptureFixture[str]
) -> None:
    record(home)
    enrolled(home, console)
    with Store(home) as store:
        store.state_set({"push.not_before_ns": str(time.time_ns() + 3600 * 10**9)})
    assert "3 rows pending; the next attempt is in 60 min" in status(capsys)


def test_losses_and_segments_of_the_log_are_shown(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(home)
    (home / "telemetry/events-00000000000000000001.jsonl").write_text("")
    with Store(home) as store:
        store.state_set({"loss.overflow": "1234"})
    shown = status(capsys)
    assert "overflow 1,234" in shown
    assert "in 2 files" in shown


def test_pins_are_named_with_who_set_them(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "managed/config.yaml").write_text("telemetry: {local: true}\nmodel: {x: secret}\n")
    shown = status(capsys)
    assert "none; 2 keys pinned by an administrator" in shown
    assert "telemetry.local = true   administrator" in shown
    assert "model.x   administrator" in shown
    assert "never what is said (pinned)" in shown


def test_what_others_wrote_cannot_steer_the_terminal(
    home: Path, console: LoopbackConsole, capsys: pytest.CaptureFixture[str]
) -> None:
    enrolled(home, console)
    path = home / "telemetry/credential"
    path.write_text(path.read_text().replace('"lab"', '"\\u001b[2Jlab\\nfake line"'))
    shown = status(capsys)
    assert "\x1b" not in shown
    assert "?[2Jlab?fake line" in shown


def test_a_terminal_gets_colour_and_the_same_columns(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = status(capsys)
    screen = Terminal()
    monkeypatch.setattr("sys.stdout", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    cli.main(["status"])
    coloured = screen.getvalue()
    assert "\x1b[32mon\x1b[0m" in coloured
    assert re.sub(r"\x1b\[\d+m", "", coloured) == plain
    monkeypatch.setenv("NO_COLOR", "1")
    bare = Terminal()
    monkeypatch.setattr("sys.stdout", bare)
    cli.main(["status"])
    assert bare.getvalue() == plain


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("a b c", 3, ["a b", "c"]),
        ("", 5, [""]),
        ("/a/very/long/path x", 5, ["/a/very/long/path", "x"]),
        ("\x1b[32mab\x1b[0m cd ef", 5, ["\x1b[32mab\x1b[0m cd", "ef"]),
    ],
)
def test_words_are_never_broken(text: str, width: int, lines: list[str]) -> None:
    assert list(output.wrapped(text, width)) == lines


def test_a_changed_install_id_is_told(
    home: Path, console: LoopbackConsole, capsys: pytest.CaptureFixture[str]
) -> None:
    enrolled(home, console)
    install_id_path(home).write_text("")
    assert "enroll again" in status(capsys)
