"""Clocks of installs: measured robustly, shown only when they matter, and used for nothing else."""

from __future__ import annotations

from datetime import timedelta
from email.utils import format_datetime
from uuid import UUID, uuid4

import pytest
import time_machine
from django.contrib.auth.models import User
from django.test import Client

from agent_client.http import http_date
from agent_client.outbox import new_batch_id
from fleet.lib.clock import datetime_to_ns, now
from telemetry.ingest.headers import date_skew_ms
from telemetry.models import IngestBatch, Run
from telemetry.store.clocks import LAST_BATCHES, clock_skews, significant_skews
from tests import builders as fleet
from tests.telemetry import builders as make
from tests.telemetry.test_api_batch import enrolled, post

pytestmark = [pytest.mark.django_db, pytest.mark.both_engines]
HOUR_MS = 3_600_000
OTHER = UUID("01890000-0000-7000-8000-000000000002")


def pushed(*skews_ms: int, install_id: UUID = make.INSTALL) -> None:
    """Batches whose senders' clocks were so far ahead, or that waited so long."""
    for skew_ms in skews_ms:
        make.push(make.error(), clock_skew_ms=skew_ms, install_id=install_id)


def console() -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("operator"))
    return client


def test_one_push_that_waited_long_says_nothing_about_the_clock() -> None:
    pushed(-40, -9 * HOUR_MS, -200, -3 * HOUR_MS)
    assert clock_skews([make.INSTALL]) == {make.INSTALL: -40}
    assert significant_skews([make.INSTALL]) == {}


@pytest.mark.parametrize("skew_ms", [2 * HOUR_MS, -2 * HOUR_MS])
def test_a_clock_that_is_wrong_at_every_push_is_seen(skew_ms: int) -> None:
    pushed(*(skew_ms - waited for waited in (900, 40, 5_000)))
    assert significant_skews([make.INSTALL]) == {make.INSTALL: skew_ms - 40}


def test_a_clock_that_was_set_right_is_right_after_a_few_pushes() -> None:
    pushed(2 * HOUR_MS, *([-50] * (LAST_BATCHES - 1)))
    assert significant_skews([make.INSTALL])
    pushed(-50)
    assert not significant_skews([make.INSTALL])


def test_clocks_of_many_installs_are_asked_at_once() -> None:
    pushed(5 * HOUR_MS)
    pushed(-7, install_id=OTHER)
    unknown = uuid4()
    assert clock_skews([OTHER, unknown, make.INSTALL]) == {make.INSTALL: 5 * HOUR_MS, OTHER: -7}
    assert clock_skews([]) == {}


def test_the_date_of_the_push_counts_before_the_age_of_the_batch() -> None:
    """A batch that waited a day on the machine is sent by a clock that is right."""
    old_id = new_batch_id(datetime_to_ns(now() - timedelta(days=1)))
    credential = enrolled()
    answer = post(credential, Idempotency_Key=old_id, Date=http_date(datetime_to_ns(now())))
    assert answer.status_code == 200
    skew_ms = IngestBatch.objects.get().clock_skew_ms
    assert skew_ms is not None
    assert -5_000 <= skew_ms <= 0


def test_without_a_date_the_id_tells_the_time() -> None:
    ahead = new_batch_id(datetime_to_ns(now() + timedelta(hours=2)))
    make.push(make.run(), batch_id=UUID(ahead))
    skew_ms = IngestBatch.objects.get().clock_skew_ms
    assert skew_ms is not None
    assert abs(skew_ms - 2 * HOUR_MS) < 60_000


@pytest.mark.parametrize("text", ["", "yesterday", "Sat, 99 Nov 2026 00:00:00 GMT", "1764300000"])
def test_a_date_that_is_none_is_no_measure(text: str) -> None:
    assert date_skew_ms(text) is None


@time_machine.travel("2026-11-28T10:00:00Z", tick=False)
def test_a_date_is_read_in_any_zone() -> None:
    ahead = now() + timedelta(minutes=5)
    assert date_skew_ms(format_datetime(ahead)) == 300_000


def test_a_wrong_clock_moves_no_row() -> None:
    start_ns = make.recent_ns(3600)
    make.push(make.run(start_ns=start_ns), clock_skew_ms=5 * HOUR_MS)
    assert Run.objects.get().start_ns == start_ns


@pytest.mark.parametrize(
    ("skew_ms", "words"),
    [(2 * HOUR_MS, "clock 2\u202fh ahead"), (-240_000, "clock 4\u202fmin behind")],
)
def test_list_and_page_say_so_when_it_matters(skew_ms: int, words: str) -> None:
    fleet.make_install(install_id=make.INSTALL)
    pushed(skew_ms)
    client = console()
    assert words in client.get("/fleet/install/").content.decode()
    assert words in client.get(f"/fleet/install/{make.INSTALL}/change/").content.decode()


def test_list_and_page_are_silent_about_a_good_clock() -> None:
    fleet.make_install(install_id=make.INSTALL)
    pushed(-3_000)
    client = console()
    assert "clock " not in client.get("/fleet/install/").content.decode()
    assert "clock " not in client.get(f"/fleet/install/{make.INSTALL}/change/").content.decode()


@pytest.mark.parametrize(
    ("skew_ms", "row_ago_s", "words"),
    [
        (72 * HOUR_MS, -3 * 86_400, "is 3\u202fd ahead of this console"),
        (-200 * 24 * HOUR_MS, 200 * 86_400, "is 200\u202fd behind this console"),
        (-100, -3 * 86_400, "it was ahead when they were recorded"),
        (-100, 200 * 86_400, "older than what is kept"),
    ],
)
def test_rows_refused_for_their_time_point_to_the_clock(
    skew_ms: int, row_ago_s: int, words: str
) -> None:
    make.push(make.run(start_ns=make.recent_ns(row_ago_s)), clock_skew_ms=skew_ms)
    batch = IngestBatch.objects.get()
    text = console().get(f"/telemetry/ingestbatch/{batch.pk}/change/").content.decode()
    assert words in text.replace("&#x27;", "'")


def test_other_refusals_say_nothing_of_the_clock() -> None:
    make.push(b"{", clock_skew_ms=72 * HOUR_MS)
    batch = IngestBatch.objects.get()
    text = console().get(f"/telemetry/ingestbatch/{batch.pk}/change/").content.decode()
    assert "clock is" not in text
