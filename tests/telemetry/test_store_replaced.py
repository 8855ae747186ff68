"""What a run was before a later copy replaced it, kept for the cells."""

from __future__ import annotations

import pytest
from django.db import transaction

from fleet.lib.clock import ns_to_datetime
from telemetry.models import ReplacedRun, Run
from telemetry.store.copy import CopyCounts, Stamp, copy_rows
from telemetry.store.partitions import PARENTS, Partition, ensure_partitions
from tests.telemetry import builders as make

pytestmark = [pytest.mark.both_engines, pytest.mark.django_db(transaction=True)]
RUNS = make.ALL_TABLES[0]


START_NS = make.recent_ns()


@pytest.fixture(autouse=True)
def _day() -> None:
    ensure_partitions({Partition(ns_to_datetime(START_NS).date(), parent) for parent in PARENTS})


def run(seq: int, **values: object) -> dict[str, object]:
    return make.run(seq, start_ns=START_NS, **values)


def stored(stamp: Stamp, *runs: dict[str, object]) -> CopyCounts:
    with transaction.atomic():
        return copy_rows(RUNS, [make.row(run) for run in runs], stamp)


def test_each_copy_that_is_replaced_is_kept_with_both_batches() -> None:
    install_id = make.stamp().install_id
    first, second, third = (make.stamp(install_id) for _ in range(3))
    stored(first, run(1, end_reason=None, end_ns=None))
    stored(second, run(2))
    stored(third, run(3, model_call_count=9))
    kept = ReplacedRun.objects.order_by("id").values_list(
        "end_reason", "batch_id", "replaced_by", "received_at"
    )
    assert list(kept) == [
        (None, first.batch_id, second.batch_id, first.received_at),
        ("completed", second.batch_id, third.batch_id, second.received_at),
    ]
    assert Run.objects.get().batch_id == third.batch_id


def test_an_older_copy_replaces_nothing() -> None:
    install_id = make.stamp().install_id
    stored(make.stamp(install_id), run(2))
    assert stored(make.stamp(install_id), run(1), run(2)).duplicate == 2
    assert not ReplacedRun.objects.exists()


def test_a_row_has_the_group_its_install_had_when_it_came_in() -> None:
    stamp = make.stamp()
    stored(Stamp(stamp.install_id, stamp.batch_id, stamp.received_at, 7), run(1))
    assert Run.objects.get().group_id == 7
