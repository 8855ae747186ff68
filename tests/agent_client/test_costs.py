"""Costs: read from the host's own accounting, shared out, never invented."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_client import costs
from agent_client.costs import RunCost, SessionCost, read_costs, share
from agent_client.recovery import recover
from tests.agent_client.builders import model_call, query, run_event, store_events

USAGE_COLUMNS = (
    "session_id TEXT, model TEXT, task TEXT, estimated_cost_usd REAL, actual_cost_usd REAL, "
    "cost_status TEXT, last_seen REAL"
)
Usage = tuple[str, float, float, str, float]


def usage(
    cost_usd: float = 0.3,
    status: str = "estimated",
    *,
    session_id: str = "session-0",
    actual_usd: float = 0.0,
    last_seen_s: float = 10_000.0,
) -> Usage:
    return session_id, cost_usd, actual_usd, status, last_seen_s


def host_accounts(home: Path, *rows: Usage) -> None:
    """The host's state.db with these rows of ``session_model_usage``."""
    home.mkdir(exist_ok=True)
    with closing(sqlite3.connect(home / costs.STATE_DB, isolation_level=None)) as connection:
        connection.execute(f"CREATE TABLE IF NOT EXISTS session_model_usage ({USAGE_COLUMNS})")
        connection.executemany(
            "INSERT INTO session_model_usage (session_id, estimated_cost_usd, actual_cost_usd, "
            "cost_status, last_seen) VALUES (?, ?, ?, ?, ?)",
            rows,
        )


def run_costs(home: Path) -> list[tuple[object, ...]]:
    sql = "SELECT run_id, estimated_cost_usd, cost_status FROM tel_runs ORDER BY run_id"
    return query(home, sql)


def test_a_sessions_cost_reaches_its_run(tmp_path: Path) -> None:
    store_events(tmp_path, run_event())
    host_accounts(tmp_path, usage(0.1), usage(0.2))
    recover(tmp_path)
    assert run_costs(tmp_path) == [("run-0", pytest.approx(0.3), "estimated")]


def test_reconciling_again_changes_nothing(tmp_path: Path) -> None:
    store_events(tmp_path, run_event())
    host_accounts(tmp_path, usage())
    recover(tmp_path)
    before = query(tmp_path, "SELECT * FROM tel_runs")
    recover(tmp_path)
    assert query(tmp_path, "SELECT * FROM tel_runs") == before


def test_runs_of_one_session_share_its_cost_by_their_tokens(tmp_path: Path) -> None:
    store_events(
        tmp_path,
        run_event(0),
        run_event(1, session_id="session-0"),
        model_call(0, run_id="run-0", input_tokens=300),
        model_call(1, run_id="run-1", input_tokens=100),
    )
    host_accounts(tmp_path, usage(0.4))
    recover(tmp_path)
    assert [row[1] for row in run_costs(tmp_path)] == [pytest.approx(0.3), pytest.approx(0.1)]


def test_a_cost_the_host_does_not_know_stays_unknown(tmp_path: Path) -> None:
    store_events(tmp_path, run_event())
    host_accounts(tmp_path, usage(0.0, "unknown"))
    recover(tmp_path)
    assert run_costs(tmp_path) == [("run-0", None, None)]


def test_an_actual_cost_goes_before_an_estimate(tmp_path: Path) -> None:
    host_accounts(tmp_path, usage(0.5, "actual", actual_usd=0.7))
    assert read_costs(tmp_path, 0) == [SessionCost("session-0", 0.7, "actual", 10_000.0)]


def test_a_session_that_is_partly_estimated_is_estimated(tmp_path: Path) -> None:
    host_accounts(tmp_path, usage(0.5, "actual"), usage(0.25))
    (found,) = read_costs(tmp_path, 0)
    assert (found.cost_usd, found.status) == (0.75, "estimated")


def test_without_the_hosts_accounts_there_are_no_costs(tmp_path: Path) -> None:
    assert read_costs(tmp_path, 0) == []
    (tmp_path / costs.STATE_DB).write_bytes(b"no database" * 200)
    assert read_costs(tmp_path, 0) == []


def test_a_home_may_have_any_character_in_its_path(tmp_path: Path) -> None:
    home = tmp_path / "a #100% odd? home"
    host_accounts(home, usage())
    assert len(read_costs(home, 0)) == 1


run_rows = st.lists(
    st.tuples(st.none() | st.floats(0, 5), st.integers(0, 1000)), min_size=1, max_size=6
)


@given(st.floats(0, 100), run_rows)
def test_shares_add_up_to_the_sessions_cost(
    cost_usd: float, rows: list[tuple[float | None, int]]
) -> None:
    runs = [
        RunCost(str(number), known, None if known is None else "estimated", tokens)
        for number, (known, tokens) in enumerate(rows)
    ]
    new = share(SessionCost("s", cost_usd, "estimated", 1.0), runs)
    total = sum(new.get(run.run_id, run.cost_usd or 0.0) for run in runs)
    known_usd = sum(run.cost_usd or 0.0 for run in runs)
    assert total == pytest.approx(max(cost_usd, known_usd), abs=1e-6)
    assert all(value >= 0 for value in new.values())
