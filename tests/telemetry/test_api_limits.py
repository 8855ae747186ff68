"""Rows and bytes a minute of one install: refused with an honest wait, never for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from uuid import uuid4

import pytest
from django.test import Client, override_settings
from pytest_django import DjangoAssertNumQueries

from agent_client.contract import wire
from fleet.api import buckets
from fleet.api.buckets import WINDOW_S, LocalBuckets, Quota, Want, take
from fleet.api.errors import ApiProblem
from telemetry.api.limits import Holds, Meter, rows_in
from telemetry.models import IngestBatch
from tests import claims
from tests.builders import Answer, enroll_one
from tests.telemetry import builders as make

AWAY = "redis://127.0.0.1:1/0"
both_engines = pytest.mark.both_engines


def push(credential: str, data: bytes, batch_id: str = "") -> Answer:
    return Client().post(
        wire.PATH_TELEMETRY,
        data,
        content_type=wire.MEDIA_NDJSON,
        headers={
            "Authorization": f"Bearer {credential}",
            "Idempotency-Key": batch_id or str(uuid4()),
            "Telemetry-Plane": "local",
            "Telemetry-Schema": "1",
        },
    )


def code_of(answer: Answer) -> str:
    return str(answer.json()["code"])  # type: ignore[attr-defined]  # the test client adds it


def lines(count: int) -> bytes:
    return make.ndjson(*(make.tool_call(seq) for seq in range(1, count + 1)))


@pytest.fixture(params=["process", "redis"])
def who(request: pytest.FixtureRequest) -> Iterator[str]:
    """Somebody new, counted by this process or by Redis."""
    url = request.getfixturevalue("redis_url") if request.param == "redis" else ""
    with override_settings(REDIS_URL=url):
        yield str(uuid4())


@pytest.mark.redis
def test_what_fits_is_taken_and_what_does_not_says_when_it_will(who: str) -> None:
    quota = Quota("rows", 60)
    assert take(who, Want(quota, 50)).is_taken
    refused = take(who, Want(quota, 20))
    assert not refused.is_taken
    assert refused.wait_s == pytest.approx(10, abs=1)
    assert take(who, Want(quota, 10)).is_taken


@pytest.mark.redis
def test_more_than_a_whole_bucket_passes_when_it_is_empty_and_leaves_a_debt(who: str) -> None:
    quota = Quota("rows", 100)
    assert take(who, Want(quota, 1000)).is_taken
    refused = take(who, Want(quota, 1))
    assert refused.wait_s == pytest.approx(600 - 60 + 0.6, abs=1)
    assert take(who, Want(quota, 1000)).wait_s == pytest.approx(600, abs=1)


@pytest.mark.redis
def test_of_two_quotas_both_are_taken_or_neither(who: str) -> None:
    rows, size = Quota("rows", 100), Quota("bytes", 100)
    assert not take(who, Want(rows, 10), Want(size, 10), Want(Quota("x", 1), 1)).wait_s
    assert not take(who, Want(rows, 10), Want(size, 95)).is_taken
    assert take(who, Want(rows, 90)).is_taken


@pytest.mark.redis
def test_what_is_held_is_replaced_and_may_be_given_back(who: str) -> None:
    quota = Quota("rows", 100)
    take(who, Want(quota, 1))
    assert take(who, Want(quota, 500, held=1)).is_taken
    (backlog_s,) = take(who, Want(quota, 0, held=500), is_forced=True).backlogs_s
    assert backlog_s == pytest.approx(0, abs=0.5)


@pytest.mark.redis
def test_one_does_not_take_from_another(who: str) -> None:
    quota = Quota("rows", 10)
    take(who, Want(quota, 10))
    assert take(str(uuid4()), Want(quota, 10)).is_taken


@pytest.mark.redis
def test_a_quota_of_zero_is_no_limit(who: str) -> None:
    assert all(take(who, Want(Quota("rows", 0), 10**9)).is_taken for _ in range(3))


@pytest.mark.redis
def test_a_limit_that_is_lifted_forgives_what_is_owed(who: str) -> None:
    take(who, Want(Quota("rows", 1), 1000))
    assert take(who, Want(Quota("rows", 0), 5), Want(Quota("bytes", 9), 5)).is_taken


def test_a_process_keeps_the_fullest_buckets_only() -> None:
    held = LocalBuckets(most=10)
    for number in range(30):
        held.take([str(number)], [(float(number), 0.0)], is_forced=False)
    assert len(held._empty_at_s) <= 11
    assert held.take(["29"], [(WINDOW_S, 0.0)], is_forced=False).wait_s > 0


@override_settings(REDIS_URL=AWAY)
def test_with_redis_away_each_process_counts_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets._Shared, "rest_until_s", 0.0)
    who, quota = str(uuid4()), Quota("rows", 10)
    assert take(who, Want(quota, 10)).is_taken
    assert not take(who, Want(quota, 10)).is_taken
    assert buckets._Shared.rest_until_s > time.monotonic()
    assert buckets.backend() == "fallback"


@pytest.mark.redis
def test_a_flushed_redis_counts_anew(redis_url: str) -> None:
    import redis

    who, quota = str(uuid4()), Quota("rows", 10)
    with override_settings(REDIS_URL=redis_url):
        take(who, Want(quota, 10))
        claims.empty_redis_database(redis_url)
        with redis.Redis.from_url(redis_url) as client:
            client.script_flush()
        assert take(who, Want(quota, 10)).is_taken
        assert buckets.backend() == "redis"


def test_long_lines_count_by_their_size() -> None:
    assert rows_in(b"") == 0
    assert (rows_in(b"a\nb"), rows_in(b"a\nb\n")) == (2, 2)
    assert rows_in(b"x" * 20_480) == 10


@both_engines
@pytest.mark.django_db
@override_settings(FLEET_RATE_INSTALL_ROWS_PER_MIN=10)
def test_too_many_rows_are_429_with_the_wait_and_the_quotas_and_store_nothing() -> None:
    _install, credential = enroll_one()
    first, second = push(credential, lines(8)), push(credential, lines(4))
    assert '"rows";r=2;t=48' in first.headers["RateLimit"]
    assert (second.status_code, code_of(second)) == (429, "rate_limited")
    assert 11 <= int(second.headers["Retry-After"]) <= 13
    assert '"rows";q=10;w=60' in second.headers["RateLimit-Policy"]
    assert IngestBatch.objects.count() == 1


@both_engines
@pytest.mark.django_db
@override_settings(FLEET_RATE_INSTALL_ROWS_PER_MIN=10)
def test_a_batch_larger_than_the_whole_minute_passes_when_nothing_is_owed() -> None:
    _install, credential = enroll_one()
    assert push(credential, lines(30)).status_code == 200
    later = push(credential, lines(1))
    assert 125 <= int(later.headers["Retry-After"]) <= 127


@both_engines
@pytest.mark.django_db
@override_settings(FLEET_RATE_INSTALL_BYTES_PER_MIN=6000)
def test_too_many_bytes_are_refused_by_their_length_before_the_body_is_read() -> None:
    _install, credential = enroll_one()
    assert push(credential, b"x" * 5000).status_code == 200
    refused = push(credential, b"x" * 4000)
    assert (refused.status_code, code_of(refused)) == (429, "rate_limited")
    assert 29 <= int(refused.headers["Retry-After"]) <= 31


@both_engines
@pytest.mark.django_db
@override_settings(FLEET_RATE_INSTALL_ROWS_PER_MIN=10)
def test_a_repeated_batch_costs_no_rows_and_is_answered_when_none_are_left() -> None:
    _install, credential = enroll_one()
    batch_id, data = str(uuid4()), lines(9)
    first = push(credential, data, batch_id)
    repeats = [push(credential, data, batch_id) for _ in range(3)]
    assert {answer.content for answer in repeats} == {first.content}
    assert push(credential, lines(1)).status_code == 200


@both_engines
@pytest.mark.django_db
@override_settings(FLEET_RATE_INSTALL_ROWS_PER_MIN=10)
def test_who_was_told_to_wait_is_refused_without_a_query(
    django_assert_num_queries: DjangoAssertNumQueries,
) -> None:
    _install, credential = enroll_one()
    assert [push(credential, lines(8)).status_code for _ in range(2)] == [200, 429]
    with django_assert_num_queries(0):
        again = push(credential, lines(8))
    assert (again.status_code, again.headers["Retry-After"]) == (429, "5")


def test_holds_end_by_themselves_and_are_bounded() -> None:
    held = Holds(most=3)
    for number in range(5):
        held.add(f"Bearer {number}", 60)
    assert [held.left_s(f"Bearer {number}") > 0 for number in range(5)] == [True] * 3 + [False] * 2
    held.add("Bearer 0", -1)
    assert held.left_s("Bearer 0") == 0


@both_engines
@pytest.mark.django_db
@override_settings(FLEET_RATE_INSTALL_ROWS_PER_MIN=10)
def test_another_install_is_not_refused_for_it() -> None:
    (_one, noisy), (_two, quiet) = enroll_one(), enroll_one()
    assert [push(noisy, lines(10)).status_code for _ in range(3)] == [200, 429, 429]
    assert push(quiet, lines(10)).status_code == 200


@override_settings(FLEET_RATE_INSTALL_ROWS_PER_MIN=100, FLEET_RATE_INSTALL_BYTES_PER_MIN=0)
def test_a_heavy_install_has_one_push_at_a_time_in_a_process() -> None:
    install_id = uuid4()
    first, second = Meter(install_id), Meter(install_id)
    first.take_bytes(10)
    first.take_rows(70, wire_bytes=10)
    second.take_bytes(10)
    with first.turn(), pytest.raises(ApiProblem) as refused, second.turn():
        raise AssertionError
    assert refused.value.headers["Retry-After"] == "1"
    with second.turn():
        pass


@override_settings(FLEET_RATE_INSTALL_ROWS_PER_MIN=1000)
def test_a_light_install_may_push_in_parallel() -> None:
    install_id, inside = uuid4(), threading.Barrier(8, timeout=10)

    def one() -> None:
        meter = Meter(install_id)
        meter.take_bytes(10)
        with meter.turn():
            inside.wait()

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert not inside.broken


@override_settings(FLEET_RATE_INSTALL_ROWS_PER_MIN=0, FLEET_RATE_INSTALL_BYTES_PER_MIN=0)
def test_without_limits_no_header_speaks_of_them() -> None:
    meter = Meter(uuid4())
    meter.take_bytes(None)
    assert meter.take_rows(10**6, wire_bytes=10**6)
    assert meter.headers() == {}


@override_settings(FLEET_RATE_INSTALL_BYTES_PER_MIN=1000)
def test_a_body_of_unknown_length_is_charged_when_it_was_read() -> None:
    install_id = uuid4()
    meter = Meter(install_id)
    meter.take_bytes(None)
    meter.take_rows(1, wire_bytes=2000)
    with pytest.raises(ApiProblem) as refused:
        Meter(install_id).take_bytes(None)
    assert 55 <= int(refused.value.headers["Retry-After"]) <= 62


@override_settings(FLEET_RATE_INSTALL_BYTES_PER_MIN=wire.MAX_BODY_BYTES // 2)
def test_a_false_length_is_no_debt_beyond_a_body_s_limit() -> None:
    install_id = uuid4()
    Meter(install_id).take_bytes(10**12)
    with pytest.raises(ApiProblem) as refused:
        Meter(install_id).take_bytes(1)
    assert int(refused.value.headers["Retry-After"]) <= 61


def test_nothing_is_left_in_hand() -> None:
    from telemetry.api.limits import _RUNNING

    meter = Meter(uuid4())
    with meter.turn():
        assert sum(_RUNNING.values()) == 1
    assert not _RUNNING
