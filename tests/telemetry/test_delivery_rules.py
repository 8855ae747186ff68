"""Header values, the breaker and leases: what is kept, shown, waited for and held."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from django.db import connection
from hypothesis import given
from hypothesis import strategies as st

from fleet.lib.clock import now
from telemetry.delivery import breaker
from telemetry.delivery.headers import check_headers, header_values, scrubbed
from telemetry.delivery.lease import held, take
from telemetry.models import RelayCursor, RelayDestination

AT = datetime(2026, 11, 28, 12, tzinfo=UTC)


def cursor() -> RelayCursor:
    destination = RelayDestination.objects.create(
        name="a", endpoint="https://c.example.com", since_at=AT
    )
    return RelayCursor.objects.create(destination=destination, signal="traces")


def test_values_come_from_the_environment_and_from_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("from-a-file\n")
    monkeypatch.setenv("FLEET_OTLP_HDR_KEY", " Bearer abc ")
    monkeypatch.setenv("FLEET_OTLP_HDR_OTHER_FILE", str(secret))
    wanted = {"Authorization": "FLEET_OTLP_HDR_KEY", "x-other": "FLEET_OTLP_HDR_OTHER"}
    assert header_values(wanted) == (
        {"Authorization": "Bearer abc", "x-other": "from-a-file"},
        [],
    )


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"authorization": "FLEET_SECRET_KEY"}, "begins with FLEET_OTLP_HDR_"),
        ({"authorization": "Bearer abcdef123456"}, "begins with FLEET_OTLP_HDR_"),
        ({"authorization": "FLEET_OTLP_HDR_MISSING"}, "is not set"),
        ({"host": "FLEET_OTLP_HDR_KEY"}, "set by the console"),
        ({"Content-Length": "FLEET_OTLP_HDR_KEY"}, "set by the console"),
        ({"a b": "FLEET_OTLP_HDR_KEY"}, "no name of a header"),
        ({"a\r\nb": "FLEET_OTLP_HDR_KEY"}, "no name of a header"),
        ({"X-A": "FLEET_OTLP_HDR_KEY", "x-a": "FLEET_OTLP_HDR_KEY"}, "twice"),
        ({"x": "FLEET_OTLP_HDR_LINES"}, "characters that no header may have"),
        ({f"x{at}": "FLEET_OTLP_HDR_KEY" for at in range(21)}, "At most"),
        (["x"], "pairs"),
    ],
)
def test_what_is_wrong_with_headers_is_said_without_a_value(
    headers: object, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEET_OTLP_HDR_KEY", "hush-hush-hush")
    monkeypatch.setenv("FLEET_OTLP_HDR_LINES", "hush\r\nX-Evil: 1")
    values, faults = header_values(headers)
    assert len(faults) == 1
    assert words in faults[0]
    assert "hush" not in faults[0]
    assert "abcdef123456" not in faults[0]
    assert "hush" not in str(values) or headers == ["x"]


def test_an_empty_choice_of_headers_has_no_fault() -> None:
    assert check_headers({}) == []


def test_an_echoed_value_is_cut_out_of_a_receivers_words() -> None:
    values = {"Authorization": "Bearer zzTOPsecretzz"}
    said = "no\r\nsuch key zzTOPsecretzz (Bearer zzTOPsecretzz)\x00\u202e" + "x" * 500
    shown = scrubbed(said, values)
    assert "zzTOP" not in shown
    assert shown.startswith("no such key [header] ([header])")
    assert len(shown) == 300


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_a_pause_is_never_longer_than_its_bound_and_never_nothing(
    failure_count: int, chance: float
) -> None:
    pause = breaker.after_failure(failure_count, AT, chance=lambda: chance)
    assert pause.failure_count == failure_count + 1
    assert pause.open_until is not None
    assert timedelta(0) < pause.open_until - AT <= timedelta(seconds=breaker.CAP_S)


def test_pauses_double_up_to_their_bound() -> None:
    waits = [
        (breaker.after_failure(count, AT, chance=lambda: 1.0).open_until or AT) - AT
        for count in range(12)
    ]
    assert [wait.total_seconds() for wait in waits[:9]] == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    assert waits[9].total_seconds() == waits[11].total_seconds() == breaker.CAP_S


def test_what_the_receiver_asks_for_is_obeyed_within_bounds() -> None:
    for asked_s, waited_s in ((7.0, 7.0), (0.0, breaker.FLOOR_S), (10.0**9, 3_600.0)):
        pause = breaker.after_failure(0, AT, retry_after_s=asked_s, chance=lambda: 0.0)
        assert pause.open_until == AT + timedelta(seconds=waited_s)


def test_the_breaker_opens_and_lets_one_try_through() -> None:
    later = AT + timedelta(seconds=10)
    assert breaker.state_of(4, later, AT) == "closed"
    assert breaker.state_of(5, later, AT) == "open"
    assert breaker.state_of(5, AT, later) == "half_open"
    assert not breaker.may_try(later, AT)
    assert breaker.may_try(AT, AT)
    assert breaker.may_try(None, AT)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        ("0", 0.0),
        ("99999999999999999999", 3_600.0),
        (format_datetime(AT + timedelta(seconds=30), usegmt=True), 30.0),
        (format_datetime(AT - timedelta(days=1), usegmt=True), 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 3_600.0),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("٣", None),
        ("", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str, seconds: float | None) -> None:
    assert breaker.retry_after_s(value, AT) == seconds


@pytest.mark.both_engines
@pytest.mark.django_db
def test_a_lease_is_had_once_and_again_when_it_has_run_out() -> None:
    row = cursor()
    with held(RelayCursor, row.pk, for_s=60) as first:
        assert first is not None
        assert take(RelayCursor, row.pk, for_s=60) is None
        assert first.renew()
        RelayCursor.objects.filter(pk=row.pk).update(lease_until=now() - timedelta(seconds=1))
        second = take(RelayCursor, row.pk, for_s=60)
        assert second is not None
        assert not first.update(position=7)
        assert not first.renew()
    row.refresh_from_db()
    assert (row.position, row.lease_owner) == (0, second.owner)
    second.release()
    assert take(RelayCursor, row.pk, for_s=60) is not None


@pytest.mark.both_engines
@pytest.mark.django_db(transaction=True)
def test_of_eight_who_want_a_lease_at_once_one_has_it() -> None:
    row = cursor()
    barrier, had = threading.Barrier(8), []

    def want() -> None:
        barrier.wait(10)
        try:
            had.append(take(RelayCursor, row.pk, for_s=60))
        finally:
            connection.close()

    threads = [threading.Thread(target=want) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([lease for lease in had if lease is not None]) == 1
    assert len(had) == 8
