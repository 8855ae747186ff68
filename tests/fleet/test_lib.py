"""fleet.lib: clock, tokens, addresses, SQL."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from django.db import connection
from django.test import RequestFactory, override_settings
from hypothesis import given
from hypothesis import strategies as st

from agent_client.contract.tokens import parse_token
from fleet.lib import clock, sql, tokens
from fleet.lib.addresses import UNKNOWN, client_address, is_in_network


@given(st.integers(min_value=0, max_value=250_000_000_000_000_000).map(lambda us: us * 1000))
def test_a_time_survives_the_way_there_and_back(time_ns: int) -> None:
    assert clock.datetime_to_ns(clock.ns_to_datetime(time_ns)) == time_ns


def test_a_naive_time_is_refused() -> None:
    with pytest.raises(TypeError):
        clock.datetime_to_ns(datetime(2026, 1, 1))  # noqa: DTZ001


def test_the_hour_is_floored_in_utc() -> None:
    india = timezone(timedelta(hours=5, minutes=30))
    moment = datetime(2026, 1, 1, 12, 10, tzinfo=india)
    assert clock.floor_hour(moment) == datetime(2026, 1, 1, 6, tzinfo=UTC)


def test_now_is_aware_and_in_utc() -> None:
    assert clock.now().tzinfo == UTC
    assert abs(clock.now_ns() - clock.datetime_to_ns(clock.now())) < 10**9


def test_a_minted_token_matches_what_is_stored_of_it_and_no_other_does() -> None:
    token, stored = tokens.mint("hfa")
    other, _stored = tokens.mint("hfa")
    assert parse_token(token.text()) == token
    assert tokens.matches(token, stored)
    assert not tokens.matches(other, stored)
    assert token.secret not in repr(stored)


def test_another_pepper_gives_another_digest() -> None:
    token, stored = tokens.mint("hfa")
    with override_settings(FLEET_TOKEN_PEPPERS={stored.pepper_id: "another" * 8}):
        assert not tokens.matches(token, stored)


@pytest.mark.parametrize(
    ("proxies", "peer", "forwarded", "address"),
    [
        ([], "9.9.9.9", "1.1.1.1", "9.9.9.9"),
        (["10.0.0.0/8"], "10.0.0.1", "6.6.6.6, 1.1.1.1", "1.1.1.1"),
        (["10.0.0.0/8"], "10.0.0.1", "1.1.1.1, 10.0.0.2", "1.1.1.1"),
        (["10.0.0.0/8"], "10.0.0.1", "", "10.0.0.1"),
        (["10.0.0.0/8"], "10.0.0.1", "rubbish", UNKNOWN),
        (["unix"], "", "1.1.1.1", "1.1.1.1"),
        ([], "", "1.1.1.1", UNKNOWN),
        ([], "::ffff:1.2.3.4", "", "1.2.3.4"),
        (["::1"], "::1", "2001:db8::1", "2001:db8::1"),
    ],
)
def test_only_our_proxies_are_believed(
    proxies: list[str], peer: str, forwarded: str, address: str
) -> None:
    request = RequestFactory().get("/", REMOTE_ADDR=peer, HTTP_X_FORWARDED_FOR=forwarded)
    with override_settings(FLEET_PROXIES=proxies):
        assert client_address(request) == address


def test_a_mapped_address_counts_as_ipv4() -> None:
    assert is_in_network("::ffff:10.1.1.1", "10.0.0.0/8")
    assert not is_in_network("2001:db8::1", "10.0.0.0/8")


def test_sql_is_read_beside_its_module(tmp_path: Path) -> None:
    (tmp_path / "sql").mkdir()
    (tmp_path / "sql" / "one.sql").write_text("SELECT 1")
    assert sql.read_sql(str(tmp_path / "m.py"), "one") == "SELECT 1"


@pytest.mark.django_db
@pytest.mark.both_engines
def test_a_statement_takes_named_parameters() -> None:
    with sql.execute("SELECT %(n)s + 1", {"n": 41}) as cursor:
        assert cursor.fetchone() == (42,)


@pytest.mark.django_db
@pytest.mark.both_engines
def test_a_session_lock_is_given_and_given_back() -> None:
    for _round in range(2):
        with sql.try_session_lock("a job") as got:
            assert got
    assert sql.is_postgres() == (connection.vendor == "postgresql")


def test_lock_numbers_fit_a_signed_64_bit_integer() -> None:
    numbers = [sql.lock_number(name) for name in ("", "a", "fleet.audit", "ü" * 50)]
    assert len(set(numbers)) == 4
    assert all(0 <= number < 2**63 for number in numbers)
