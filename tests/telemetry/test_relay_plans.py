"""Reading what batches brought needs no statistics: each row of a stretch is read once."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from fleet.lib.clock import now
from telemetry.models import FeedEntry
from telemetry.relay.feed import feed
from telemetry.store.relay_facts import look_up
from telemetry.store.relay_rows import TRACE_TABLES, read_entries
from tests.telemetry import builders as make

pytestmark = [pytest.mark.postgres, pytest.mark.django_db]
BATCHES = 20
RUNS = 40


@pytest.fixture
def entries() -> list[FeedEntry]:
    """Many batches of one install within an hour, in tables that nobody has analysed."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stats WHERE tablename LIKE 'telemetry_modelcall%'")
        assert cursor.fetchone() == (0,)
    at_ns = make.recent_ns()
    for batch in range(BATCHES):
        events = []
        for at in range(RUNS):
            run_id, seq = f"run-{batch}-{at}", 2 * at
            events.append(
                make.model_call(seq, run_id=run_id, span_id=f"s-{run_id}", start_ns=at_ns)
            )
            events.append(make.run(seq + 1, run_id=run_id, start_ns=at_ns))
        assert make.push(*events).receipt["accepted"]
    feed()
    return list(FeedEntry.objects.order_by("pk"))


def plans_of(work: Callable[[], object]) -> list[dict[str, Any]]:
    """How PostgreSQL carried out the statements of some work that read event tables."""
    with CaptureQueriesContext(
        connection,
    ) as seen:
        work()
    plans = []
    for query in seen.captured_queries:
        if "LATERAL" in query["sql"]:
            with connection.cursor() as cursor:
                cursor.execute("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + query["sql"])
                (found,) = cursor.fetchone()
                plan = json.loads(found) if isinstance(found, str) else found
                plans.append(plan[0]["Plan"])
    return plans


def nodes_of(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """A plan and all below it."""
    return [plan, *(node for part in plan.get("Plans", ()) for node in nodes_of(part))]


@pytest.mark.parametrize("reads", [True, False])
def test_each_row_is_looked_at_once_without_statistics(
    entries: list[FeedEntry], reads: bool
) -> None:
    found = read_entries(entries, TRACE_TABLES)
    assert sum(entry.count() for entry in found) == 2 * BATCHES * RUNS
    plans = plans_of(
        (lambda: read_entries(entries, TRACE_TABLES))
        if reads
        else (lambda: look_up(found, with_providers=True))
    )
    assert plans
    tables = 0
    for plan in plans:
        scans = [
            node for node in nodes_of(plan) if "Relation Name" in node and node["Actual Loops"]
        ]
        looked_at = sum(
            node["Actual Loops"] * (node["Actual Rows"] + node.get("Rows Removed by Filter", 0))
            for node in scans
        )
        # Of one install in one stretch: as many rows as its table has, not as many for each batch.
        assert looked_at <= BATCHES * RUNS + RUNS
        tables += bool(looked_at)
    assert tables >= 1


def test_days_that_nobody_asks_for_are_not_opened(entries: list[FeedEntry]) -> None:
    days = {
        node["Relation Name"]
        for plan in plans_of(lambda: read_entries(entries, TRACE_TABLES))
        for node in nodes_of(plan)
        if "Relation Name" in node
    }
    day = now() - timedelta(days=9)
    assert days
    assert not any(day.strftime("%Y%m%d") in name for name in days)
    assert len(days) <= 3 * len(TRACE_TABLES)
