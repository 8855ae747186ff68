"""Sessions in the export: structure always, content only behind the gate, never a failure."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_client import config, hostdb
from agent_client.contract import redact
from agent_client.export import CONTENT_CLOSED, ExportReport, export
from agent_client.hostdb import STATE_DB
from agent_client.sessions import Scope, SessionReader
from tests.agent_client.builders import one_of_each, store_events
from tests.agent_client.host_state import (
    CANARY,
    START_S,
    add_message,
    add_session,
    host_database,
)

OPEN: dict[str, Any] = {"telemetry": {"trajectories": {"enabled": True}}}
OPEN_PII: dict[str, Any] = {
    "telemetry": {"trajectories": {"enabled": True}, "content_redaction": "pii"}
}
SECRET = "ghp_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"  # made up
TOOL_CALLS = [{"id": "call_1", "function": {"name": "terminal", "arguments": '{"cmd": "ls"}'}}]


def exported(home: Path, **options: Any) -> tuple[bytes, ExportReport]:  # noqa: ANN401  # export's own
    out = io.BytesIO()
    report = export(out, **{"home": home, "config": {}, **options})
    return out.getvalue(), report


def session_records(home: Path, **options: Any) -> list[dict[str, Any]]:  # noqa: ANN401  # export's own
    data, _ = exported(home, **options)
    records = [json.loads(line, parse_constant=pytest.fail) for line in data.splitlines()]
    return [record for record in records if record["_kind"] == "session"]


def with_content(home: Path, settings: Mapping[str, Any] | None = OPEN) -> list[dict[str, Any]]:
    return session_records(home, include_content=True, config=settings)


def one_session(home: Path, **message: Any) -> Path:  # noqa: ANN401  # any stored value
    with host_database(home) as host:
        add_session(host)
        add_message(host, **message)
    return home


def test_a_session_is_exported_by_its_structure(tmp_path: Path) -> None:
    home = one_session(
        tmp_path,
        content="hello",
        reasoning="hm",
        tool_calls=json.dumps(TOOL_CALLS),
        tool_name="terminal",
    )
    assert session_records(home) == [
        {
            "_kind": "session",
            "id": "session-0",
            "source": "cli",
            "model": "model-a",
            "started_at": START_S,
            "ended_at": START_S + 60,
            "message_count": 2,
            "tool_call_count": 1,
            "messages": [
                {
                    "id": 1,
                    "role": "user",
                    "tool_name": "terminal",
                    "timestamp": START_S,
                    "active": 1,
                    "compacted": 0,
                    "content_chars": 5,
                    "reasoning_chars": 2,
                    "tool_call_count": 1,
                }
            ],
        }
    ]


def test_a_sentence_in_a_names_place_does_not_leave_without_content(tmp_path: Path) -> None:
    said = "please delete everything"
    home = one_session(tmp_path, role="tool", tool_name=said, finish_reason=said, tool_call_id=said)
    (session,) = session_records(home)
    message = session["messages"][0]
    names = ("role", "tool_name", "finish_reason", "tool_call_id")
    assert [message[name] for name in names] == ["tool", "other", "other", "other"]
    (opened,) = with_content(home)
    assert opened["messages"][0]["tool_name"] == said


def test_content_stays_where_a_layer_that_may_shut_it_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, managed = one_session(tmp_path / "home", content="hello"), tmp_path / "managed"
    managed.mkdir()
    monkeypatch.setenv("HERMES_MANAGED_DIR", str(managed))
    (home / "config.yaml").write_text("telemetry: {trajectories: {enabled: true}}")
    (session,) = with_content(home, None)
    assert session["messages"][0]["content"] == "hello"
    (managed / "config.yaml").write_text("telemetry: {trajectories: {enabled: fal")
    (session,) = with_content(home, None)
    assert "content" not in session["messages"][0]


CLOSED: tuple[Any, ...] = (
    {},
    None,
    {"telemetry": None},
    {"telemetry": {"trajectories": {"enabled": "true"}}},
    {"telemetry": {"trajectories": True}},
)


@pytest.mark.parametrize("settings", CLOSED)
@pytest.mark.parametrize("asked", [False, True])
def test_while_the_plane_is_off_no_content_and_nothing_personal_leaves(
    tmp_path: Path,
    settings: Any,  # noqa: ANN401  # hostile configurations
    asked: bool,
) -> None:
    home = one_session(
        tmp_path,
        reasoning=CANARY,
        reasoning_content=CANARY,
        reasoning_details=json.dumps([{"text": CANARY}]),
        tool_calls=json.dumps([{"function": {"name": CANARY, "arguments": CANARY}}]),
        codex_reasoning_items=CANARY,
    )
    data, report = exported(home, include_content=asked, config=settings)
    assert b"session-0" in data
    assert CANARY.encode() not in data
    assert report.warnings == ((CONTENT_CLOSED,) if asked else ())


def test_with_the_plane_open_content_leaves_scrubbed(tmp_path: Path) -> None:
    calls = [{"id": "c", "function": {"name": "web", "arguments": f'{{"key": "{SECRET}"}}'}}]
    home = one_session(
        tmp_path, content=f"my token {SECRET}", reasoning=SECRET, tool_calls=json.dumps(calls)
    )
    (session,) = with_content(home)
    (message,) = session["messages"]
    assert session["title"] == CANARY
    assert message["content"].startswith("my token [REDACTED:")
    assert message["tool_calls"][0]["function"]["name"] == "web"
    assert SECRET not in json.dumps(session)


def test_personal_fields_stay_even_with_content(tmp_path: Path) -> None:
    home = one_session(tmp_path, content="hello")
    (session,) = with_content(home)
    del session["title"]
    assert CANARY not in json.dumps(session)


def test_personal_data_in_content_goes_by_its_setting(tmp_path: Path) -> None:
    home = one_session(tmp_path, content="write to ada@example.org")
    assert "ada@example.org" in json.dumps(with_content(home))
    assert "[email]" in json.dumps(with_content(home, OPEN_PII))
    assert "ada@example.org" not in json.dumps(with_content(home, OPEN_PII))


def test_without_its_engine_the_export_shows_no_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "re2", None)
    monkeypatch.setattr(redact, "_engine", redact._Engine())
    (session,) = with_content(one_session(tmp_path, content="hello to all"))
    assert session["messages"][0]["content"] == redact.UNAVAILABLE
    assert session["title"] == redact.UNAVAILABLE


def test_content_opens_by_the_effective_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = one_session(tmp_path / "home", content="hello")
    managed = tmp_path / "managed"
    managed.mkdir()
    monkeypatch.setenv("HERMES_MANAGED_DIR", str(managed))
    (home / "config.yaml").write_text("telemetry: {trajectories: {enabled: true}}\n")
    assert b"hello" in exported(home, include_content=True, config=config.load(home))[0]
    assert b"hello" in exported(home, include_content=True, config=None)[0]
    (managed / "config.yaml").write_text("telemetry: {trajectories: {enabled: false}}\n")
    assert b"hello" not in exported(home, include_content=True, config=None)[0]


@pytest.mark.parametrize("stored", ["no json", "7", '"text"', '{"a": 1}', "[" * 5_000])
def test_tool_calls_that_are_no_list_are_unparseable(tmp_path: Path, stored: str) -> None:
    home = one_session(tmp_path, tool_calls=stored)
    (structural,) = session_records(home)
    (whole,) = with_content(home)
    assert structural["messages"][0]["tool_call_count"] == "[unparseable-tool-calls]"
    assert whole["messages"][0]["tool_calls"] == "[unparseable-tool-calls]"


def test_numbers_that_json_has_no_form_for_do_not_break_the_line(tmp_path: Path) -> None:
    calls = '[{"arguments": [NaN, Infinity, -Infinity, 1e999, 123456789012345678901234567890]}]'
    home = one_session(tmp_path, tool_calls=calls, timestamp=float("inf"), token_count=float("inf"))
    (session,) = with_content(home)
    arguments = session["messages"][0]["tool_calls"][0]["arguments"]
    assert arguments == [None, None, None, None, 123456789012345678901234567890]
    assert "timestamp" not in session["messages"][0]


def test_a_field_past_the_limit_is_counted_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hostdb, "MAX_FIELD_BYTES", 1_000)
    home = one_session(tmp_path, content="é" * 600, reasoning="y" * 2_000, tool_calls="z" * 2_000)
    (message,) = session_records(home)[0]["messages"]
    assert (message["content_chars"], message["reasoning_chars"]) == (600, 2_000)
    assert message["tool_call_count"] == "[unparseable-tool-calls]"
    data, report = exported(home, include_content=True, config=OPEN)
    (message,) = json.loads(data)["messages"]
    assert message["content"] == "[too-long: 600 characters]"
    assert message["tool_calls"] == "[too-long: 2000 characters]"
    assert "3 fields of messages are longer" in report.warnings[0]


def test_a_title_past_the_limit_is_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hostdb, "MAX_FIELD_BYTES", 1_000)
    with host_database(tmp_path) as host:
        add_session(host, title="t" * 2_000)
    (session,) = with_content(tmp_path)
    assert session["title"] == hostdb.TOO_LONG


@pytest.mark.parametrize("depth", [200, 900, 5_000])
def test_content_nested_without_end_leaves_as_a_count_or_scrubbed(
    tmp_path: Path, depth: int
) -> None:
    nested = "[" * depth + f'"{SECRET}"' + "]" * depth
    home = one_session(
        tmp_path, content=f"\x00json:{nested}", reasoning_details=nested, tool_calls=nested
    )
    (structural,) = session_records(home)
    assert structural["messages"][0]["content_chars"] > depth
    assert SECRET not in json.dumps(with_content(home))


def test_sessions_come_after_the_tables_and_are_counted(tmp_path: Path) -> None:
    store_events(tmp_path, *one_of_each())
    one_session(tmp_path)
    data, report = exported(tmp_path, fmt="json")
    kinds = [record["_kind"] for record in json.loads(data)["records"]]
    assert kinds[-1] == "session"
    assert report.counts["session"] == 1
    assert list(report.counts) == kinds


def test_since_windows_sessions_by_their_start(tmp_path: Path) -> None:
    with host_database(tmp_path) as host:
        for number in range(3):
            add_session(host, number)
    found = session_records(tmp_path, since_ns=int((START_S + 1) * 1e9))
    assert [session["id"] for session in found] == ["session-1", "session-2"]


@pytest.mark.parametrize("damage", ["junk", "folder", "pipe", "header"])
def test_a_state_database_that_cannot_be_read_costs_only_the_sessions(
    tmp_path: Path, damage: str
) -> None:
    store_events(tmp_path, *one_of_each())
    path = tmp_path / STATE_DB
    if damage == "folder":
        path.mkdir()
    elif damage == "pipe":
        os.mkfifo(path)
    elif damage == "junk":
        path.write_bytes(b"no database" * 500)
    else:
        path.write_bytes(b"SQLite format 3\x00" + b"\xff" * 5_000)
    data, report = exported(tmp_path)
    assert len(data.splitlines()) == len(one_of_each())
    assert "session" not in report.counts
    assert len(report.warnings) == (1 if damage in {"junk", "header"} else 0)


def test_a_locked_state_database_costs_only_the_sessions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hostdb, "BUSY_TIMEOUT_S", 0.01)
    store_events(tmp_path, *one_of_each())
    with host_database(one_session(tmp_path)) as host:
        host.execute("PRAGMA journal_mode = DELETE")
        host.execute("BEGIN EXCLUSIVE")
        data, report = exported(tmp_path)
    assert len(data.splitlines()) == len(one_of_each())
    assert "OperationalError" in report.warnings[0]


def test_damage_in_the_middle_ends_the_record_and_says_so(tmp_path: Path) -> None:
    with host_database(tmp_path) as host:
        host.execute("PRAGMA journal_mode = DELETE")
        add_session(host, 0)
        add_session(host, 1)
        for _ in range(60):
            add_message(host, content="x" * 30_000)  # nearly all of the file is overflow pages
    path = tmp_path / STATE_DB
    damaged = bytearray(path.read_bytes())
    at = len(damaged) // 2
    damaged[at : at + 40_000] = b"\xff" * 40_000
    path.write_bytes(damaged)
    data, report = exported(tmp_path, fmt="json")
    (session,) = json.loads(data)["records"]
    assert 0 < len(session["messages"]) < 60
    assert session["is_cut"] is True
    assert "could not be read to its end" in report.warnings[0]


@contextmanager
def read_only_folder() -> Iterator[Path]:
    """A folder outside of any private one; within it, until it is closed, we are nobody."""
    folder = Path(tempfile.mkdtemp())
    is_root = os.geteuid() == 0
    try:
        yield folder
    finally:
        if is_root:
            os.seteuid(0)
        folder.chmod(0o700)
        shutil.rmtree(folder)


@pytest.mark.parametrize(("mode", "is_read"), [("DELETE", True), ("WAL", False)])
def test_a_folder_that_may_only_be_read_is_read_as_far_as_sqlite_can(
    mode: str, is_read: bool
) -> None:
    with read_only_folder() as home:
        with host_database(one_session(home)) as host:
            host.execute(f"PRAGMA journal_mode = {mode}")
        (home / STATE_DB).chmod(0o444)
        home.chmod(0o555)
        if os.geteuid() == 0:
            os.seteuid(65_534)
        reader = SessionReader(home, Scope())
        records = ["".join(pieces) for pieces in reader.records()]
        assert [path.name for path in home.iterdir()] == [STATE_DB]
    assert len(records) == is_read
    assert bool(reader.warnings) is not is_read


def test_the_host_may_write_while_its_sessions_leave(tmp_path: Path) -> None:
    with host_database(tmp_path) as host:
        add_session(host)
        add_message(host)

        class Out(io.BytesIO):
            def write(self, data: Any) -> int:  # noqa: ANN401  # any buffer
                add_message(host)  # fails at once if we held a lock that shuts the host out
                return super().write(data)

        host.execute("PRAGMA busy_timeout = 0")
        out = Out()
        export(out, home=tmp_path, config={})
    assert json.loads(out.getvalue())["id"] == "session-0"


FIELDS = ("content", "reasoning", "reasoning_content", "reasoning_details", "tool_calls")
PIECES = st.lists(
    st.sampled_from([CANARY, '["', '"]', '{"', '":', "\x00json:", "\n", "é", "[]", "7"]), max_size=5
).map("".join)


@settings(max_examples=30)  # each makes a home of files
@given(st.lists(st.dictionaries(st.sampled_from(FIELDS), PIECES), max_size=4), st.booleans())
def test_no_content_of_any_form_leaves_while_the_plane_is_off(
    tmp_path_factory: pytest.TempPathFactory, stored: list[dict[str, Any]], asked: bool
) -> None:
    home = tmp_path_factory.mktemp("home")
    with host_database(home) as host:
        add_session(host)
        for message in stored:
            add_message(host, **message)
    data, _ = exported(home, include_content=asked)
    assert len(json.loads(data)["messages"]) == len(stored)
    assert CANARY.encode() not in data
