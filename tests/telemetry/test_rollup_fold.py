"""Folds: each batch goes into the cells once, whatever comes in whatever order."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db.models import Model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleet.lib.clock import floor_hour, ns_to_datetime
from telemetry.models import (
    CELL_MODELS,
    EVENT_MODELS,
    FillState,
    FirstSeen,
    IngestBatch,
    ReplacedRun,
    TouchedHour,
)
from telemetry.rollup.fill import fill_hour, fill_pending
from telemetry.rollup.fold import fold_touched
from telemetry.rollup.verify import verify_cells
from tests.telemetry import builders as make
from tests.telemetry.recount import counted, stored

both_engines = pytest.mark.both_engines
pytestmark = pytest.mark.django_db
AT_NS = make.recent_ns(2 * 3600)
HOUR = floor_hour(ns_to_datetime(AT_NS))


def all_kinds(at_ns: int = AT_NS) -> list[dict[str, object]]:
    return [
        make.run(1, start_ns=at_ns, estimated_cost_usd=0.75, platform="linux", turn_count=3),
        make.model_call(2, start_ns=at_ns, ttft_ms=80.0, cache_read_tokens=7),
        make.tool_call(3, start_ns=at_ns, result_class="blocked", approval="denied"),
        make.error(4, ts_ns=at_ns, recovery="none"),
    ]


@both_engines
def test_what_was_folded_is_what_the_rows_say() -> None:
    make.push(*all_kinds())
    assert fold_touched() == 1
    assert stored() == counted() != {}
    assert not TouchedHour.objects.exists()


@both_engines
def test_a_refill_makes_the_same_cells_as_folds() -> None:
    make.push(*all_kinds())
    make.push(*all_kinds(AT_NS + 1_800 * make.S), group_id=4)
    fill_pending()
    folded = stored()
    assert fill_hour(HOUR)
    assert folded == stored() == counted()


NUMBERS = st.integers(0, 3)
RUNS = st.tuples(
    st.just("run"),
    NUMBERS,
    st.integers(0, 3),
    st.sampled_from(["completed", "failed", None]),
    st.sampled_from([None, 0.1, 2.5]),
)
CALLS = st.tuples(
    st.sampled_from(["model", "tool", "error"]),
    st.integers(0, 5),
    NUMBERS,
    st.sampled_from(["completed", "ok", None]),
    st.sampled_from([None, 0.0, 30.0, 1e11]),
)
PUSH = st.tuples(
    st.just("push"),
    st.integers(0, 1),
    st.integers(0, 2),
    st.lists(RUNS | CALLS, min_size=1, max_size=5),
)
STEPS = st.lists(
    PUSH
    | st.tuples(st.just("fold"), st.integers(1, 3))
    | st.tuples(st.just("refill"), NUMBERS)
    | st.tuples(st.just("again"), NUMBERS),
    min_size=1,
    max_size=9,
)
INSTALLS = (make.INSTALL, UUID("01890000-0000-7000-8000-000000000002"))
# Two hours before a UTC midnight and two after it: a run stays in the hour where it began.
MIDNIGHT_NS = AT_NS // (86_400 * make.S) * 86_400 * make.S
HOURS_NS = [MIDNIGHT_NS + number * 3_600 * make.S for number in (-2, -1, 0, 1)]
SHARED_BATCH = UUID("01890000-0000-7000-8000-00000000000a")


def record_of(item: tuple[str, int, int, str | None, float | None]) -> dict[str, object]:
    """Of small numbers a row; the same number is the same row again, runs with another seq."""
    kind, number, other, word, amount = item
    at_ns = HOURS_NS[number % 4]
    if kind == "run":
        ended = None if word is None else at_ns + (1 + other) * 1_000_000
        more = {"end_ns": ended, "end_reason": word, "estimated_cost_usd": amount}
        return make.run(
            other, run_id=f"r{number}", start_ns=at_ns, platform=word, turn_count=other, **more
        )
    if kind == "model":
        values = {"latency_ms": amount, "end_reason": word, "estimated_cost_usd": amount and 0.3}
        return make.model_call(number, start_ns=at_ns, ttft_ms=amount, **values)
    if kind == "tool":
        name = None if word is None else "x" * 200
        return make.tool_call(number, start_ns=at_ns, duration_ms=amount, tool_name=name)
    return make.error(number, ts_ns=at_ns, subsystem=word)


@both_engines
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(STEPS)
def test_cells_are_what_the_rows_say_whatever_comes_in_whatever_order(
    steps: list[tuple[Any, ...]],
) -> None:
    for table in EVERYTHING:
        table._default_manager.all().delete()
    sent: list[tuple[dict[str, Any], list[dict[str, object]]]] = []
    for step, *arguments in steps:
        if step == "push":
            install, group_id, items = arguments
            values = {"install_id": INSTALLS[install], "group_id": group_id, "batch_id": uuid4()}
            # Ids are their senders' choice: two installs may well use the same.
            if not any(old["install_id"] == INSTALLS[install] for old, _ in sent):
                values["batch_id"] = SHARED_BATCH
            sent.append((values, [record_of(item) for item in items]))
            make.push(*sent[-1][1], **values)
        elif step == "fold":
            fold_touched(limit=arguments[0])
        elif step == "refill":
            fill_hour(ns_to_datetime(HOURS_NS[arguments[0]]))
        elif sent:
            values, records = sent[arguments[0] % len(sent)]
            make.push(*records, **values)
        found = verify_cells(ns_to_datetime(HOURS_NS[0]), ns_to_datetime(HOURS_NS[3]))
        assert found.differences == []
    while fold_touched(limit=1):
        pass
    assert stored() == counted()
    assert not ReplacedRun.objects.exists()
    for number in range(4):
        fill_hour(ns_to_datetime(HOURS_NS[number]))
    assert stored() == counted()


EVERYTHING: tuple[type[Model], ...] = (
    *EVENT_MODELS,
    *CELL_MODELS,
    FirstSeen,
    TouchedHour,
    ReplacedRun,
    FillState,
    IngestBatch,
)
