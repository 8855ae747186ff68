"""Costs: read from the host's own accounting, shared out, never invented."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_client import costs
from agent_client.costs import RunCost, read_costs, share
from agent_client.hostdb import STATE_DB
from agent_client.recovery import reconcile, recover
from tests.agent_client.accounts import LAST_SEEN_S, host_accounts, usage
from tests.agent_client.builders import (
    SECOND_NS,
    START_NS,
    Anything,
    log_records,
    model_call,
    query,
    run_event,
    store_events,
)


def run_costs(home: Path) -> list[tuple[object, ...]]:
    sql = "SELECT run_id, estimated_cost_usd, cost_status FROM tel_runs ORDER BY run_id"
    return query(home, sql)


def test_a_sessions_cost_reaches_its_run(tmp_path: Path) -> None:
    store_events(tmp_path, run_event())
    host_accounts(tmp_path, usage(0.1), usage(0.2, model="model-b"))
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
    host_accounts(tmp_path, usage(0.5, "actual", actual_cost_usd=0.7))
    (found,) = read_costs(tmp_path)
    assert (found.session_id, found.cost_usd({}), found.status) == ("session-0", 0.7, "actual")
    assert found.last_seen_s == LAST_SEEN_S


def test_a_session_that_is_partly_estimated_is_estimated(tmp_path: Path) -> None:
    host_accounts(tmp_path, usage(0.5, "actual"), usage(0.25, model="model-b"))
    (found,) = read_costs(tmp_path)
    assert (found.cost_usd({}), found.status) == (0.75, "estimated")


def test_what_fires_no_hook_is_paid_for_too(tmp_path: Path) -> None:
    store_events(tmp_path, run_event())
    auxiliary = usage(0.05, None, task="compression", model="small")
    unknown = usage(0.0, None, task="vision", model="other")
    host_accounts(tmp_path, usage(0.3), auxiliary, unknown)
    recover(tmp_path)
    assert run_costs(tmp_path) == [("run-0", pytest.approx(0.35), "estimated")]


def test_a_subscription_that_pays_for_all_costs_nothing(tmp_path: Path) -> None:
    store_events(tmp_path, run_event())
    host_accounts(tmp_path, usage(0.0, "included"))
    recover(tmp_path)
    assert run_costs(tmp_path) == [("run-0", 0.0, "estimated")]


def test_a_model_that_was_not_used_since_still_counts(tmp_path: Path) -> None:
    store_events(tmp_path, run_event())
    host_accounts(tmp_path, usage(0.3, last_seen=LAST_SEEN_S))
    recover(tmp_path)
    later_s = LAST_SEEN_S + 3 * costs.LOOK_BACK_S
    host_accounts(tmp_path, usage(0.2, model="model-b", last_seen=later_s))
    recover(tmp_path)
    assert run_costs(tmp_path) == [("run-0", pytest.approx(0.5), "estimated")]


def priced_call(number: int = 0, cost_usd: float = 0.01, **changes: Anything) -> Anything:
    priced = {"estimated_cost_usd": cost_usd, "cost_status": "estimated", "cost_source": "override"}
    return model_call(number, **{**priced, **changes})


def test_a_run_costs_its_own_prices_and_the_hosts_rest(tmp_path: Path) -> None:
    store_events(tmp_path, run_event(), priced_call(0), priced_call(1), model_call(2, model="b"))
    host_accounts(
        tmp_path,
        usage(9.0, input_tokens=200),  # the list price of what was negotiated
        usage(0.4, model="b"),
        usage(0.05, None, task="compression"),  # of the same model, but nobody priced it
    )
    recover(tmp_path)
    assert run_costs(tmp_path) == [("run-0", pytest.approx(0.02 + 0.4 + 0.05), "estimated")]


def test_calls_from_before_a_price_keep_what_the_host_has_for_them(tmp_path: Path) -> None:
    store_events(
        tmp_path,
        run_event(0),
        run_event(1, session_id="session-0", start_ns=START_NS + SECOND_NS),
        model_call(0, input_tokens=300),
        priced_call(1, run_id="run-1", input_tokens=100),
    )
    host_accounts(tmp_path, usage(0.4, input_tokens=400))
    recover(tmp_path)
    assert [row[1] for row in run_costs(tmp_path)] == [pytest.approx(0.3), pytest.approx(0.01)]


def test_own_prices_need_no_accounts_of_the_host(tmp_path: Path) -> None:
    store_events(tmp_path, run_event(), priced_call(), run_event(1))
    recover(tmp_path)
    recover(tmp_path)
    assert run_costs(tmp_path) == [
        ("run-0", pytest.approx(0.01), "estimated"),
        ("run-1", None, None),
    ]
    assert len(log_records(tmp_path)) == 4


def test_a_run_that_goes_on_costs_more(tmp_path: Path) -> None:
    store_events(tmp_path, run_event(), priced_call(0), model_call(1, model="b"))
    host_accounts(tmp_path, usage(0.2, model="b"))
    assert reconcile(tmp_path, ["session-0"]) == 1
    store_events(tmp_path, run_event(end_ns=START_NS + 2 * SECOND_NS), priced_call(2, 0.5))
    host_accounts(tmp_path, usage(0.3, model="b"))
    assert reconcile(tmp_path, ["session-0"]) == 1
    assert run_costs(tmp_path) == [("run-0", pytest.approx(0.51 + 0.3), "estimated")]
    assert reconcile(tmp_path, ["session-0"]) == 0


def test_a_clock_that_was_a_year_ahead_leaves_no_later_session_unpriced(tmp_path: Path) -> None:
    store_events(tmp_path, run_event(0), run_event(1))
    host_accounts(tmp_path, usage(0.1, last_seen=time.time() + 365 * 86_400))
    recover(tmp_path)
    host_accounts(tmp_path, usage(0.2, session_id="session-1", last_seen=time.time()))
    recover(tmp_path)
    assert [row[1] for row in run_costs(tmp_path)] == [pytest.approx(0.1), pytest.approx(0.2)]


def test_only_the_sessions_named_are_priced(tmp_path: Path) -> None:
    store_events(tmp_path, run_event(0), run_event(1))
    host_accounts(tmp_path, usage(0.1), usage(0.2, session_id="session-1"))
    reconcile(tmp_path, ["session-1", "of another home"])
    assert run_costs(tmp_path) == [
        ("run-0", None, None),
        ("run-1", pytest.approx(0.2), "estimated"),
    ]


def test_an_open_run_is_not_priced_yet(tmp_path: Path) -> None:
    store_events(tmp_path, run_event(end_ns=None, end_reason=None), priced_call())
    assert reconcile(tmp_path, ["session-0"]) == 0


def test_without_the_hosts_accounts_there_are_no_costs(tmp_path: Path) -> None:
    assert read_costs(tmp_path) == []
    (tmp_path / STATE_DB).write_bytes(b"no database" * 200)
    assert read_costs(tmp_path) == []


def test_a_home_may_have_any_character_in_its_path(tmp_path: Path) -> None:
    home = tmp_path / "a #100% odd? home"
    host_accounts(home, usage())
    assert len(read_costs(home)) == 1


priced = st.none() | st.floats(0, 5)
run_rows = st.lists(
    st.tuples(st.none() | st.floats(0, 5), st.integers(0, 1000), priced), min_size=1, max_size=6
)


@given(st.floats(0, 100), run_rows)
def test_shares_add_up_to_the_sessions_cost(
    rest_usd: float, rows: list[tuple[float | None, int, float | None]]
) -> None:
    runs = [
        RunCost(str(number), known, None, tokens, own)
        for number, (known, tokens, own) in enumerate(rows)
    ]
    new = share(rest_usd, runs)
    known_usd = sum(run.rest_usd or 0.0 for run in runs)
    own_usd = sum(run.priced_usd or 0.0 for run in runs)
    assert sum(new.values()) == pytest.approx(max(rest_usd, known_usd) + own_usd, abs=1e-6)
    assert all(value >= 0 for value in new.values())
    again = share(rest_usd, [replace(run, cost_usd=new.get(run.run_id)) for run in runs])
    assert again == pytest.approx(new, abs=1e-6)
