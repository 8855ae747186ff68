"""One batch many times at once, over HTTP, in several processes: one effect, one receipt."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from uuid import uuid4

import pytest
from pytest_django.plugin import DjangoDbBlocker

from telemetry.models import IngestBatch, InstallIntake, Run, TouchedHour
from tests.faults import raw, served
from tests.faults.books import faults_of, read_books
from tests.telemetry import builders as make

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.both_engines,
    pytest.mark.slow,
    pytest.mark.timeout(served.PATIENCE_S),
]
REPEATS = 50


@pytest.fixture(scope="module")
def console(
    django_db_setup: None,
    django_db_blocker: DjangoDbBlocker,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[served.Served]:
    with (
        django_db_blocker.unblock(),
        served.serve(tmp_path_factory.mktemp("repeats"), worker_count=3) as console,
    ):
        yield console


def at_once(ask: list[tuple[str, str, bytes, object]]) -> list[raw.Answer]:
    """Pushes that all begin at the same moment."""
    barrier = Barrier(len(ask))

    def push(one: tuple[str, str, bytes, object]) -> raw.Answer:
        barrier.wait(30)
        return raw.push(*one)

    with ThreadPoolExecutor(len(ask)) as pool:
        return list(pool.map(push, ask))


def test_fifty_repeats_at_once_have_one_effect_and_one_receipt(console: served.Served) -> None:
    token, batch_id = raw.credential_of(), uuid4()
    body = make.ndjson(make.run(), *(make.tool_call(seq) for seq in range(2, 300)), b"{")
    answers = at_once([(console.url, token, body, batch_id)] * REPEATS)
    assert [answer.status for answer in answers] == [200] * REPEATS
    assert len({answer.body for answer in answers}) == 1
    sent: dict[str, set[object]] = {
        "tel_runs": {"run-1"},
        "tel_tool_calls": {f"span-{seq}" for seq in range(2, 300)},
    }
    assert faults_of(read_books(), sent) == []
    assert (IngestBatch.objects.count(), InstallIntake.objects.get().batch_count) == (1, 1)
    assert TouchedHour.objects.values("hour").distinct().count() <= 2


def test_one_id_with_two_contents_at_once_takes_one_and_refuses_the_other(
    console: served.Served,
) -> None:
    token, batch_id = raw.credential_of(), uuid4()
    bodies = [make.ndjson(make.tool_call(seq)) for seq in (1, 2)]
    answers = at_once([(console.url, token, body, batch_id) for body in bodies * 8])
    taken = {answer.body for answer in answers if answer.status == 200}
    refused = [answer for answer in answers if answer.status != 200]
    assert {answer.code for answer in refused} == {"batch_mismatch"}
    assert (len(taken), len(refused)) == (1, 8)
    assert read_books().row_count == IngestBatch.objects.count() == 1


def test_overlapping_batches_at_once_store_each_row_once(console: served.Served) -> None:
    token = raw.credential_of()
    calls = [make.tool_call(seq) for seq in range(60)]
    parts = [calls[at : at + 30] for at in range(0, 31, 5)]
    bodies = [make.ndjson(*part) for part in (*parts, *(part[::-1] for part in parts))]
    answers = at_once([(console.url, token, body, uuid4()) for body in bodies])
    assert {answer.status for answer in answers} == {200}
    books = read_books()
    assert faults_of(books, {"tel_tool_calls": {f"span-{seq}" for seq in range(60)}}) == []
    assert books.duplicate == 30 * len(bodies) - 60


def test_runs_that_change_at_once_end_with_the_highest_seq(console: served.Served) -> None:
    token, start_ns = raw.credential_of(), make.recent_ns()
    ends = {seq: None if seq % 2 else "completed" for seq in range(1, 21)}
    bodies = [
        make.ndjson(make.run(seq, start_ns=start_ns, end_reason=end)) for seq, end in ends.items()
    ]
    answers = at_once([(console.url, token, body, uuid4()) for body in bodies])
    assert {answer.status for answer in answers} == {200}
    run = Run.objects.get()
    assert (run.seq, run.end_reason) == (20, "completed")
    books = read_books()
    assert books.inserted + books.merged + books.duplicate == 20
