"""Pages of rows as PostgreSQL reads them: by the index that orders them, whatever is selected."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from django.db import connection

from telemetry.exports.datasets import DATASETS
from telemetry.exports.parts import Place, pages_of, read_from
from telemetry.store.pages import read_page
from tests.telemetry import builders as make
from tests.telemetry import export_jobs as exports

pytestmark = [pytest.mark.django_db, pytest.mark.postgres]
EVENTS = sorted(
    name for name, one in DATASETS.items() if one.is_partitioned and one.plane == "local"
)


def plan_of_last(read: Callable[[], object]) -> str:
    """The plan of the last statement that is run, sequential scans being out of the question."""
    asked: list[tuple[str, Sequence[Any]]] = []

    def watch(run: Callable[..., Any], query: str, values: Any, *rest: Any) -> Any:  # noqa: ANN401 -- Django's hook
        asked.append((query, values))
        return run(query, values, *rest)

    with connection.execute_wrapper(watch):
        read()
    query, values = asked[-1]
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off")
        cursor.execute(f"EXPLAIN {query}", values)
        return "\n".join(row[0] for row in cursor.fetchall())


@pytest.mark.parametrize("name", EVENTS)
def test_a_page_is_read_in_the_order_of_an_index_and_never_sorted(name: str) -> None:
    """One in-order walk of a day's key: sorting the day for each page made an export quadratic."""
    make.push(*make.one_of_each())
    job = exports.order(name)
    pages = read_from(job, DATASETS[name], Place())
    plan = plan_of_last(lambda: next(rows for rows, _place in pages if rows))
    assert "Index" in plan
    assert "Sort" not in plan, plan


def test_a_page_is_read_among_more_values_than_a_statement_has_parameters() -> None:
    make.push(make.tool_call())
    job = exports.order("tool_calls")
    dataset = DATASETS["tool_calls"]
    pages = pages_of(job, dataset)
    names = [f"tool-{n}" for n in range(70_000)]
    among = {"tool_name": [*names, "terminal"]}
    assert len(read_page(replace(pages, among=among), None, 10)) == 1
    assert read_page(replace(pages, among={"tool_name": names}), None, 10) == []
