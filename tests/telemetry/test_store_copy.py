"""copy_rows(): each row once, runs merged by seq, on both engines."""

from __future__ import annotations

import pytest
from django.db import IntegrityError, transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from telemetry.models import EVENT_MODELS, ModelCall, Run, ToolCall
from telemetry.models.events import MODEL_OF
from telemetry.store.copy import CopyCounts, Stamp, copy_rows
from telemetry.store.partitions import PARENTS, Partition, ensure_partitions
from tests.telemetry import builders as make

pytestmark = [pytest.mark.django_db, pytest.mark.both_engines]
NOW_NS = make.recent_ns()


@pytest.fixture(autouse=True)
def _today() -> None:
    from fleet.lib.clock import ns_to_datetime

    ensure_partitions({Partition(ns_to_datetime(NOW_NS).date(), parent) for parent in PARENTS})


def store(*records: dict[str, object], stamp: Stamp | None = None) -> CopyCounts:
    table = make.table_of(records[0])
    with transaction.atomic():
        return copy_rows(table, [make.row(item) for item in records], stamp or make.stamp())


def test_no_rows_cost_no_query(django_assert_num_queries: object) -> None:
    with django_assert_num_queries(0):  # type: ignore[operator]
        assert copy_rows(make.ALL_TABLES[0], [], make.stamp()) == CopyCounts()


@pytest.mark.parametrize("model", EVENT_MODELS)
def test_every_column_comes_back_as_it_went_in(model: type[Run]) -> None:
    table = model.CONTRACT
    data = make.record(table.name, 7, start_ns=NOW_NS, ts_ns=NOW_NS)
    samples = {"id": "i", "name": "n", "json": "{}", "count": 3, "ms": 1.5, "usd": 0.25}
    for column in table.columns:
        if data[column.name] is None:
            data[column.name] = {**samples, "time": NOW_NS, "flag": True}[column.kind]
    data = {name: data[name] for name in ("_kind", "seq", *table.column_names())}
    assert store(data).inserted == 1
    stored = dict(MODEL_OF[table.name].objects.values().get())
    assert {name: stored[name] for name in data if name != "_kind"} == {
        name: value for name, value in data.items() if name != "_kind"
    }


def test_start_is_cut_to_microseconds_exactly() -> None:
    store(make.run(1, start_ns=NOW_NS // 1000 * 1000 + 999))
    stored = Run.objects.get()
    assert stored.start_at.microsecond == NOW_NS // 1000 % 1_000_000


def test_a_child_is_stored_once_and_its_repeat_counted() -> None:
    first = make.tool_call(1, start_ns=NOW_NS)
    second = make.tool_call(2, start_ns=NOW_NS)
    assert store(first) == CopyCounts(inserted=1)
    changed = first | {"seq": 9, "tool_name": "other"}
    assert store(changed, second, second) == CopyCounts(inserted=1, duplicate=2)
    names = ToolCall.objects.values_list("tool_name", flat=True)
    assert set(names) == {"terminal"}


def test_a_later_copy_of_a_run_replaces_the_earlier_one() -> None:
    store(make.run(1, start_ns=NOW_NS, end_ns=None, end_reason=None))
    assert store(make.run(2, start_ns=NOW_NS)) == CopyCounts(merged=1)
    assert Run.objects.get().end_reason == "completed"


def test_an_older_copy_never_reopens_a_closed_run() -> None:
    store(make.run(5, start_ns=NOW_NS))
    reopened = make.run(4, start_ns=NOW_NS, end_ns=None, end_reason=None)
    assert store(reopened) == CopyCounts(duplicate=1)
    assert Run.objects.get().end_reason == "completed"


def test_of_two_copies_with_one_seq_the_first_stands() -> None:
    first = make.run(1, start_ns=NOW_NS, platform="first")
    counts = store(first, first | {"platform": "second"})
    assert (counts.inserted, counts.duplicate) == (1, 1)
    assert Run.objects.get().platform == "first"


def test_copies_of_a_run_in_one_batch_become_one_row() -> None:
    copies = [make.run(seq, start_ns=NOW_NS, turn_count=seq) for seq in (2, 3, 1)]
    assert store(*copies) == CopyCounts(inserted=1, duplicate=2)
    assert Run.objects.get().turn_count == 3


def test_ids_of_different_installs_do_not_meet() -> None:
    from uuid import uuid4

    call = make.model_call(1, start_ns=NOW_NS)
    store(call)
    assert store(call, stamp=make.stamp(uuid4())).inserted == 1
    assert ModelCall.objects.count() == 2


@pytest.mark.postgres
def test_a_day_without_partition_is_an_error_and_not_a_silent_loss() -> None:
    with pytest.raises(IntegrityError):
        store(make.run(1, start_ns=10**18))


RUNS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 9)), min_size=1, max_size=8
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(batches=st.lists(RUNS, min_size=1, max_size=4))
def test_the_store_is_a_dictionary_with_the_highest_seq(
    batches: list[list[tuple[int, int, int]]],
) -> None:
    Run.objects.all().delete()
    model: dict[str, tuple[int, int]] = {}
    for batch in batches:
        known = dict(model)
        for number, seq, turns in batch:
            held = model.get(f"run-{number}")
            if held is None or seq > held[0]:
                model[f"run-{number}"] = (seq, turns)
        counts = store(
            *(
                make.run(seq, run_id=f"run-{number}", start_ns=NOW_NS, turn_count=turns)
                for number, seq, turns in batch
            )
        )
        inserted = len(model.keys() - known.keys())
        merged = sum(
            model[name] != value for name, value in known.items() if value[0] != model[name][0]
        )
        assert (counts.inserted, counts.merged) == (inserted, merged)
        assert counts.duplicate == len(batch) - inserted - merged
    stored = Run.objects.values_list("run_id", "seq", "turn_count")
    assert {name: (seq, turns) for name, seq, turns in stored} == model
