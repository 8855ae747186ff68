"""The host's ``state.db`` as hermes-agent 0.19.0 makes it, with every personal field filled."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from agent_client.hostdb import STATE_DB

START_S = 1_795_340_710.0
CANARY = "CANARY-of-content"
PERSONAL = (
    "user_id", "session_key", "chat_id", "chat_type", "thread_id", "display_name", "origin_json",
    "model_config", "system_prompt", "parent_session_id", "cwd", "git_branch", "git_repo_root",
    "title", "handoff_state", "handoff_error",
)  # fmt: skip
SCHEMA = f"""
CREATE TABLE sessions (id TEXT PRIMARY KEY, source TEXT NOT NULL, model TEXT,
  started_at REAL NOT NULL, ended_at REAL, message_count INTEGER DEFAULT 0,
  tool_call_count INTEGER DEFAULT 0, {", ".join(f"{name} TEXT" for name in PERSONAL)});
CREATE TABLE messages (id INTEGER PRIMARY KEY AUTOINCREMENT, session_id TEXT NOT NULL,
  role TEXT NOT NULL, content TEXT, tool_call_id TEXT, tool_calls TEXT, tool_name TEXT,
  effect_disposition TEXT, timestamp REAL NOT NULL, token_count INTEGER, finish_reason TEXT,
  reasoning TEXT, reasoning_content TEXT, reasoning_details TEXT, codex_reasoning_items TEXT,
  codex_message_items TEXT, platform_message_id TEXT, observed INTEGER DEFAULT 0,
  active INTEGER NOT NULL DEFAULT 1, compacted INTEGER NOT NULL DEFAULT 0, api_content TEXT);
CREATE INDEX idx_messages_session ON messages(session_id, timestamp);
"""
# Values of any column: what a test puts in goes in unseen.
Anything = Any


@contextmanager
def host_database(home: Path) -> Iterator[sqlite3.Connection]:
    """The host's connection to its own database, in WAL mode and open for as long as wanted."""
    home.mkdir(exist_ok=True)
    with closing(sqlite3.connect(home / STATE_DB, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        if not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
            connection.executescript(SCHEMA)
        yield connection


def insert(connection: sqlite3.Connection, table: str, **values: Anything) -> None:
    names = ", ".join(values)
    marks = ", ".join("?" * len(values))
    connection.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", list(values.values()))


def add_session(connection: sqlite3.Connection, number: int = 0, **changes: Anything) -> None:
    """A session whose every personal field holds the canary."""
    values: dict[str, Anything] = {
        "id": f"session-{number}",
        "source": "cli",
        "model": "model-a",
        "started_at": START_S + number,
        "ended_at": START_S + number + 60,
        "message_count": 2,
        "tool_call_count": 1,
        **dict.fromkeys(PERSONAL, CANARY),
    }
    insert(connection, "sessions", **{**values, **changes})


def add_message(connection: sqlite3.Connection, session: int = 0, **changes: Anything) -> None:
    """A message of the user's with content."""
    values: dict[str, Anything] = {
        "session_id": f"session-{session}",
        "role": "user",
        "content": f"{CANARY} hello",
        "timestamp": START_S,
        "codex_message_items": CANARY,
        "platform_message_id": CANARY,
        "api_content": CANARY,
    }
    insert(connection, "messages", **{**values, **changes})
