"""The order that relays follow: each committed batch once, none below a number that was seen."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.test import override_settings
from django.test.utils import CaptureQueriesContext

from fleet.lib.clock import now
from telemetry.ingest.drain import drain
from telemetry.models import FeedEntry, IngestBatch, RelayCursor, RelayDestination
from telemetry.relay.feed import feed, first_entry_since, newest_entry, prune_feed
from telemetry.store.feed import number_batches
from tests.telemetry import builders as make

pytestmark = [pytest.mark.django_db, pytest.mark.both_engines]
committed = pytest.mark.django_db(transaction=True)


def push(seq: int = 1) -> None:
    make.push(make.model_call(seq, span_id=f"s-{seq}"))


def test_batches_get_their_numbers_in_order_and_once() -> None:
    for seq in range(1, 6):
        push(seq)
    assert feed() == 5
    assert feed() == 0
    entries = list(FeedEntry.objects.order_by("pk"))
    batches = list(IngestBatch.objects.order_by("pk"))
    assert [entry.batch_id for entry in entries] == [batch.batch_id for batch in batches]
    assert [entry.received_at for entry in entries] == [batch.received_at for batch in batches]
    assert [entry.row_count for entry in entries] == [1] * 5


def test_a_backlog_takes_several_rounds() -> None:
    for seq in range(1, 6):
        push(seq)
    assert [number_batches(2) for _ in range(4)] == [2, 2, 1, 0]
    assert FeedEntry.objects.count() == 5


def test_a_batch_is_numbered_when_it_leaves_the_spool() -> None:
    with override_settings(FLEET_VALVE="open"):
        push()
    assert feed() == 1
    assert not FeedEntry.objects.exists()
    drain()
    assert feed() == 1
    batch = IngestBatch.objects.get()
    assert FeedEntry.objects.get().received_at == batch.drained_at


@pytest.mark.postgres
@committed
def test_a_round_is_one_round_trip_and_one_when_nothing_waits() -> None:
    push()
    for count in (1, 0):
        with CaptureQueriesContext(
            connection,
        ) as asked:
            assert number_batches(100) == count
        mine = [query for query in asked if "telemetry_" in query["sql"]]
        assert len(mine) == 1


@pytest.mark.postgres
@committed
def test_a_batch_that_is_being_stored_is_left_for_later_and_waited_for_by_nobody() -> None:
    push(1)
    push(2)
    first = IngestBatch.objects.order_by("pk")[0]
    is_held, may_go = threading.Event(), threading.Event()

    def hold() -> None:
        with transaction.atomic():
            IngestBatch.objects.select_for_update().get(pk=first.pk)
            is_held.set()
            may_go.wait(10)
        connection.close()

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert is_held.wait(10)
        assert feed() == 1
    finally:
        may_go.set()
        thread.join()
    assert feed() == 1


@committed
def test_many_who_number_at_once_number_each_batch_once() -> None:
    for seq in range(1, 31):
        push(seq)
    counts: list[int] = []
    barrier = threading.Barrier(6)

    def number() -> None:
        barrier.wait(10)
        try:
            counts.extend(number_batches(4) for _ in range(10))
        finally:
            connection.close()

    threads = [threading.Thread(target=number) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    feed()
    assert FeedEntry.objects.count() == 30
    assert FeedEntry.objects.values("batch_id").distinct().count() == 30


@committed
def test_a_reader_never_sees_a_number_before_a_lower_one() -> None:
    seen: list[int] = []
    is_over = threading.Event()

    def follow() -> None:
        last = 0
        try:
            while True:
                ended = is_over.is_set()
                found = FeedEntry.objects.filter(pk__gt=last).order_by("pk")
                keys = list(found.values_list("pk", flat=True))
                seen.extend(keys)
                last = keys[-1] if keys else last
                if ended:
                    return
        finally:
            connection.close()

    def number() -> None:
        try:
            while not is_over.is_set():
                number_batches(3)
        finally:
            connection.close()

    threads = [threading.Thread(target=run) for run in (follow, number, number)]
    for thread in threads:
        thread.start()
    for seq in range(1, 31):
        push(seq)
    is_over.set()
    for thread in threads:
        thread.join()
    feed()
    numbered = list(FeedEntry.objects.order_by("pk").values_list("pk", flat=True))
    assert seen == numbered[: len(seen)]
    assert len(numbered) == 30


def test_the_place_of_a_time_is_the_first_entry_since() -> None:
    for seq in range(1, 4):
        push(seq)
    feed()
    keys = list(FeedEntry.objects.order_by("pk").values_list("pk", flat=True))
    FeedEntry.objects.filter(pk=keys[0]).update(received_at=now() - timedelta(days=2))
    assert first_entry_since(now() - timedelta(days=3)) == keys[0]
    assert first_entry_since(now() - timedelta(days=1)) == keys[1]
    assert first_entry_since(now() + timedelta(days=1)) == newest_entry() + 1


def test_old_entries_go_when_every_enabled_relay_has_passed_them() -> None:
    for seq in range(1, 4):
        push(seq)
    feed()
    keys = list(FeedEntry.objects.order_by("pk").values_list("pk", flat=True))
    assert prune_feed() == 0
    FeedEntry.objects.update(received_at=now() - timedelta(days=400))
    slow, off = (
        RelayDestination.objects.create(name=name, endpoint="https://x.example", since_at=now())
        for name in "ab"
    )
    RelayCursor.objects.create(destination=slow, signal="traces", position=keys[1])
    RelayCursor.objects.create(destination=off, signal="traces", position=0)
    RelayDestination.objects.filter(pk=off.pk).update(is_enabled=False)
    assert prune_feed() == 2
    assert list(FeedEntry.objects.values_list("pk", flat=True)) == keys[2:]
