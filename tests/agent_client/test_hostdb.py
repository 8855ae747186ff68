"""The reader of the host's live database: sees what is there, holds little, writes nothing."""

from __future__ import annotations

import sqlite3
import tracemalloc
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from agent_client import hostdb
from agent_client.hostdb import Fields, Session, connect, messages, sessions
from tests.agent_client.host_state import (
    START_S,
    add_message,
    add_session,
    host_database,
    insert,
)

DEEP = "\x00json:" + '[{"text":' * 400 + "1" + "}]" * 400


def read(home: Path, since_s: float | None = None) -> list[tuple[Session, list[Fields]]]:
    with closing(connect(home / hostdb.STATE_DB)) as connection:
        found = list(sessions(connection, since_s=since_s, with_title=True))
        return [(session, list(messages(connection, session))) for session in found]


def only_message(home: Path) -> Fields:
    ((_, (message,)),) = read(home)
    return message


def files_of(home: Path) -> dict[str, tuple[bytes, int]]:
    return {
        path.name: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in home.iterdir()
        if not path.name.endswith("-shm")
    }


def test_rows_that_are_only_in_the_wal_are_read_and_no_file_is_changed(tmp_path: Path) -> None:
    with host_database(tmp_path) as host:
        add_session(host)
        add_message(host)
        before = files_of(tmp_path)
        assert set(before) == {"state.db", "state.db-wal"}
        ((session, (message,)),) = read(tmp_path)
        assert files_of(tmp_path) == before
    assert session.facts["id"] == "session-0"
    assert message.fields["role"] == "user"


def test_the_connection_cannot_write(tmp_path: Path) -> None:
    with host_database(tmp_path):
        pass
    with (
        closing(connect(tmp_path / hostdb.STATE_DB)) as connection,
        pytest.raises(sqlite3.OperationalError, match="readonly"),
    ):
        connection.execute("DELETE FROM sessions")


def test_sessions_and_messages_keep_their_order_over_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hostdb, "PAGE_SESSIONS", 2)
    monkeypatch.setattr(hostdb, "PAGE_IDS", 2)
    with host_database(tmp_path) as host:
        for number in range(5):
            add_session(host, number)
        for number in range(10):
            add_message(host, number % 2, timestamp=START_S - number, token_count=number)
    found = read(tmp_path)
    assert [session.facts["id"] for session, _ in found] == [f"session-{n}" for n in range(5)]
    counts = [[message.fields["token_count"] for message in held] for _, held in found]
    assert counts == [[0, 2, 4, 6, 8], [1, 3, 5, 7, 9], [], [], []]


def test_messages_are_found_by_the_hosts_index(tmp_path: Path) -> None:
    traced: list[str] = []
    with host_database(tmp_path) as host:
        add_session(host)
        host.set_trace_callback(traced.append)
        list(messages(host, Session(1, {})))
        (sql,) = [statement for statement in traced if "ORDER BY +rowid" in statement]
        plan = host.execute(f"EXPLAIN QUERY PLAN {sql}").fetchall()
    assert "idx_messages_session" in str(plan)


@pytest.mark.parametrize(
    ("stored", "seconds"),
    [
        (START_S, START_S),
        (str(START_S), START_S),
        ("2026-11-22T09:45:10Z", START_S),
        ("2026-11-22 09:45:10", START_S),
        ("yesterday", None),
        (b"\xff\x00", None),
        (float("inf"), None),
        (None, None),
    ],
)
def test_a_time_is_seconds_or_unknown(tmp_path: Path, stored: Any, seconds: float | None) -> None:  # noqa: ANN401
    with host_database(tmp_path) as host:
        add_session(host, ended_at=stored)
    ((session, _),) = read(tmp_path)
    assert session.facts["ended_at"] == seconds


@pytest.mark.parametrize(
    ("stored", "count"),
    [("7", 7), (7.0, 7), (7.5, None), ("many", None), (b"7", 7), (2**63 - 1, 2**63 - 1)],
)
def test_a_count_is_a_whole_number_or_unknown(
    tmp_path: Path,
    stored: Any,  # noqa: ANN401
    count: int | None,
) -> None:
    with host_database(tmp_path) as host:
        add_session(host, message_count=stored)
    ((session, _),) = read(tmp_path)
    assert session.facts["message_count"] == count


def test_a_window_holds_sessions_by_their_start_whatever_form_it_has(tmp_path: Path) -> None:
    with host_database(tmp_path) as host:
        add_session(host, 0, started_at=START_S - 1)
        add_session(host, 1, started_at=START_S)
        add_session(host, 2, started_at="2026-11-22T09:45:11Z")
        add_session(host, 3, started_at="unknown")
    found = read(tmp_path, since_s=START_S)
    assert [session.facts["id"] for session, _ in found] == ["session-1", "session-2"]
    assert len(read(tmp_path)) == 4


def test_text_that_is_none_is_read_with_marks(tmp_path: Path) -> None:
    with host_database(tmp_path) as host:
        add_session(host)
        host.execute(
            "INSERT INTO messages (session_id, role, content, timestamp) VALUES "
            "('session-0', CAST(x'75ff' AS TEXT), CAST(x'eda080' AS TEXT), 1)"
        )
        add_message(host, content=b"bytes \xff", role="r" * 2_000)
    ((_, (first, second)),) = read(tmp_path)
    assert first.fields["role"] == "u\N{REPLACEMENT CHARACTER}"
    assert set(str(first.fields["content"])) == {"\N{REPLACEMENT CHARACTER}"}
    assert second.fields["content"] == "bytes \N{REPLACEMENT CHARACTER}"
    assert second.fields["role"] == hostdb.TOO_LONG


def test_structured_content_is_read_as_its_parts(tmp_path: Path) -> None:
    parts = '[{"type":"text","text":"hello"}]'
    with host_database(tmp_path) as host:
        add_session(host)
        add_message(host, content=f"\x00json:{parts}", reasoning_details=parts)
    message = only_message(tmp_path)
    assert message.fields["content"] == [{"type": "text", "text": "hello"}]
    assert message.fields["reasoning_details"] == [{"type": "text", "text": "hello"}]


@pytest.mark.parametrize("content", ["\x00json:[", "\x00json:7", "\x00json:" + "[" * 50_000, DEEP])
def test_content_that_only_looks_structured_stays_text(tmp_path: Path, content: str) -> None:
    with host_database(tmp_path) as host:
        add_session(host)
        add_message(host, content=content)
    assert only_message(tmp_path).fields["content"] == content


def test_a_field_of_any_size_is_counted_and_not_loaded(tmp_path: Path) -> None:
    chars = 16_000_000
    with host_database(tmp_path) as host:
        add_session(host)
        host.execute(
            "INSERT INTO messages (session_id, role, content, reasoning, timestamp) "
            "VALUES ('session-0', 'tool', replace(hex(zeroblob(?)), '00', 'é'), 'short', 1)",
            (chars,),
        )
    tracemalloc.start()
    message = only_message(tmp_path)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert message.long == {"content": chars}
    assert message.fields["content"] == hostdb.TOO_LONG
    assert message.fields["reasoning"] == "short"
    assert peak_bytes < 2_000_000


def test_a_session_of_many_messages_is_read_in_constant_memory(tmp_path: Path) -> None:
    count = 40_000
    with host_database(tmp_path) as host:
        add_session(host)
        host.execute(
            "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < ?) "
            "INSERT INTO messages (session_id, role, content, timestamp) "
            "SELECT 'session-0', 'user', 'hello ' || x, x FROM n",
            (count,),
        )
    with closing(connect(tmp_path / hostdb.STATE_DB)) as connection:
        tracemalloc.start()
        seen = sum(1 for _ in messages(connection, Session(1, {})))
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert seen == count
    assert peak_bytes < 4_000_000  # a page of row numbers; the messages themselves take 25 MB


def test_a_message_that_is_deleted_meanwhile_is_left_out(tmp_path: Path) -> None:
    with host_database(tmp_path) as host:
        add_session(host)
        for number in range(3):
            add_message(host, token_count=number)
        with closing(connect(tmp_path / hostdb.STATE_DB)) as connection:
            found = messages(connection, Session(1, {}))
            first = next(found)
            host.execute("DELETE FROM messages WHERE token_count = 1")
            rest = [message.fields["token_count"] for message in found]
    assert (first.fields["token_count"], rest) == (0, [2])


def test_another_version_of_the_host_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = tmp_path / hostdb.STATE_DB
    with closing(sqlite3.connect(path, isolation_level=None)) as host:
        host.execute("CREATE TABLE sessions (id TEXT, started_at REAL, novelty TEXT)")
        insert(host, "sessions", id="s", started_at=1.5, novelty="new")
        assert read(tmp_path)[0][1] == []
        host.execute("CREATE TABLE messages (session_id TEXT, role TEXT, novelty TEXT)")
        insert(host, "messages", session_id="s", role="user", novelty="new")
    ((session, (message,)),) = read(tmp_path)
    assert session.facts == {
        "id": "s",
        "source": None,
        "model": None,
        "started_at": 1.5,
        "ended_at": None,
        "message_count": None,
        "tool_call_count": None,
        "title": None,
    }
    assert message.fields == {"role": "user"}


def test_a_database_without_sessions_has_none(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / hostdb.STATE_DB)):
        pass
    assert read(tmp_path) == []
