"""The host's own accounts: its ``state.db`` with rows of ``session_model_usage``."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from agent_client.hostdb import STATE_DB
from tests.agent_client.builders import START_NS, Anything

# As hermes-agent 0.19.0 makes it.
ACCOUNTS = """
CREATE TABLE IF NOT EXISTS session_model_usage (
  session_id TEXT NOT NULL, model TEXT NOT NULL, billing_provider TEXT NOT NULL DEFAULT '',
  billing_base_url TEXT NOT NULL DEFAULT '', billing_mode TEXT NOT NULL DEFAULT '',
  task TEXT NOT NULL DEFAULT '', api_call_count INTEGER NOT NULL DEFAULT 0,
  input_tokens INTEGER NOT NULL DEFAULT 0, output_tokens INTEGER NOT NULL DEFAULT 0,
  cache_read_tokens INTEGER NOT NULL DEFAULT 0, cache_write_tokens INTEGER NOT NULL DEFAULT 0,
  reasoning_tokens INTEGER NOT NULL DEFAULT 0, estimated_cost_usd REAL NOT NULL DEFAULT 0,
  actual_cost_usd REAL NOT NULL DEFAULT 0, cost_status TEXT, cost_source TEXT,
  first_seen REAL, last_seen REAL,
  PRIMARY KEY (session_id, model, billing_provider, billing_base_url, billing_mode, task))
"""
LAST_SEEN_S = START_NS / 1e9
Usage = dict[str, Anything]


def usage(cost_usd: float = 0.3, status: str | None = "estimated", **changes: Anything) -> Usage:
    """A row of the host's accounts."""
    defaults: Usage = {
        "session_id": "session-0",
        "model": "model-a",
        "billing_provider": "custom",
        "input_tokens": 100,
        "estimated_cost_usd": cost_usd,
        "cost_status": status,
        "last_seen": LAST_SEEN_S,
    }
    return {**defaults, **changes}


def host_accounts(home: Path, *rows: Usage) -> None:
    """The host's state.db with these rows of ``session_model_usage``; a row again replaces it."""
    home.mkdir(exist_ok=True)
    with closing(sqlite3.connect(home / STATE_DB, isolation_level=None)) as connection:
        connection.execute(ACCOUNTS)
        for row in rows:
            connection.execute(
                f"INSERT OR REPLACE INTO session_model_usage ({', '.join(row)}) "
                f"VALUES ({', '.join('?' * len(row))})",
                [*row.values()],
            )
