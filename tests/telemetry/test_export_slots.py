"""Slots of schedules: each local time once, in order, whatever the clocks do; windows join."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.exports.slots import moment_of, slot_before, slots_after, slots_between, window_of

ZONES = (
    *("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "UTC"),
    *("Asia/Kathmandu", "America/Sao_Paulo", "Africa/Casablanca"),
)


@dataclass
class Rhythm:
    every: str = "day"
    at_minute: int = 30
    at_hour: int = 2
    weekday: int = 0
    day_of_month: int = 1
    time_zone: str = "Europe/Berlin"


rhythms = st.builds(
    Rhythm,
    every=st.sampled_from(["hour", "day", "week", "month"]),
    at_minute=st.integers(0, 59),
    at_hour=st.integers(0, 23),
    weekday=st.integers(0, 6),
    day_of_month=st.integers(1, 31),
    time_zone=st.sampled_from(ZONES),
)
FIRST = datetime(2011, 1, 1)  # noqa: DTZ001 -- of local times
LAST = datetime(2032, 1, 1)  # noqa: DTZ001 -- of local times
# 2011 has Apia's missing day; the years after it every kind of leap of these zones.
moments = st.datetimes(FIRST, LAST, timezones=st.just(UTC))


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def between(rhythm: Rhythm, after: str, until: str) -> list[str]:
    found = slots_between(rhythm, utc(after), utc(until))
    return [f"{slot:%m-%d %H:%M}" for slot in found]


def walls_of(rhythm: Rhythm, start: datetime, days: int) -> set[datetime]:
    """Every minute of some days whose local time is due: found by looking, not by reckoning."""
    zone = ZoneInfo(rhythm.time_zone)
    found = set()
    # Each offset of these zones is a multiple of 15 minutes.
    first = (rhythm.at_minute - start.minute) % 15
    for minute in range(first, days * 1440, 15):
        wall = (start + timedelta(minutes=minute)).astimezone(zone)
        if wall.minute != rhythm.at_minute:
            continue
        if rhythm.every != "hour" and wall.hour != rhythm.at_hour:
            continue
        if rhythm.every == "week" and wall.weekday() != rhythm.weekday:
            continue
        if rhythm.every == "month":
            last = (wall.replace(day=28) + timedelta(days=4)).replace(day=1) - timedelta(days=1)
            if wall.day != min(rhythm.day_of_month, last.day):
                continue
        found.add(wall.replace(tzinfo=None, fold=0))
    return found


@given(rhythms, moments)
def test_slots_are_in_order_after_the_moment_and_the_same_from_anywhere(
    rhythm: Rhythm, after: datetime
) -> None:
    first = list(itertools.islice(slots_after(rhythm, after), 5))
    assert first == sorted(set(first))
    assert first[0] > after
    for at, slot in enumerate(first[:-1]):
        assert next(slots_after(rhythm, slot)) == first[at + 1]
        assert next(slots_after(rhythm, slot - timedelta(microseconds=1))) == slot


@given(rhythms, moments)
def test_windows_join_without_a_gap_and_without_an_overlap(rhythm: Rhythm, after: datetime) -> None:
    slots = list(itertools.islice(slots_after(rhythm, after), 4))
    windows = [window_of(rhythm, slot) for slot in slots]
    for (_start, end), (start, _end) in itertools.pairwise(windows):
        assert end == start
    assert windows[0][0] == slot_before(rhythm, slots[0]) <= after


@given(rhythms, moments)
def test_every_due_local_time_that_exists_has_one_slot(rhythm: Rhythm, after: datetime) -> None:
    start = after.replace(second=0, microsecond=0)
    days = 40 if rhythm.every == "month" else 9
    zone = ZoneInfo(rhythm.time_zone)
    found = list(slots_between(rhythm, start - timedelta(seconds=1), start + timedelta(days=days)))
    walls = [slot.astimezone(zone).replace(tzinfo=None, fold=0) for slot in found]
    due = walls_of(rhythm, start, days)
    # A window that begins between the two passes of a local time has its second pass only.
    missing = {wall for wall in due - set(walls) if moment_of(wall, zone) >= start}
    assert missing == set()
    # What is more than that runs because its own local time was leapt over: at a leap's moment.
    for slot, wall in zip(found, walls, strict=True):
        if wall not in due and slot < start + timedelta(days=days):
            before = (slot - timedelta(seconds=1)).astimezone(zone)
            assert before.utcoffset() != slot.astimezone(zone).utcoffset()


@given(st.datetimes(FIRST, LAST), st.sampled_from(ZONES))
def test_a_local_time_is_the_first_moment_that_shows_it_or_a_later_one(
    wall: datetime, name: str
) -> None:
    zone = ZoneInfo(name)
    shown = moment_of(wall, zone).astimezone(zone)
    assert shown.replace(tzinfo=None, fold=0) >= wall
    assert shown.fold == 0


def test_a_time_that_does_not_exist_runs_at_the_next_that_does() -> None:
    # 2026-03-29: Berlin leaps from 02:00 to 03:00, which is 01:00 UTC.
    assert between(Rhythm(), "2026-03-27", "2026-03-31") == [
        *("03-27 01:30", "03-28 01:30", "03-29 01:00", "03-30 00:30"),
    ]


def test_a_time_that_happens_twice_runs_once_and_first() -> None:
    # 2026-10-25: Berlin goes back from 03:00 to 02:00, which is 01:00 UTC.
    assert between(Rhythm(), "2026-10-24T12:00", "2026-10-26T12:00") == [
        *("10-25 00:30", "10-26 01:30"),
    ]


def test_an_hourly_schedule_leaves_out_the_second_pass_and_joins_the_leap() -> None:
    hourly = Rhythm(every="hour", at_minute=15)
    assert between(hourly, "2026-10-24T23:00", "2026-10-25T03:00") == [
        *("10-24 23:15", "10-25 00:15", "10-25 02:15"),
    ]
    assert between(hourly, "2026-03-28T23:30", "2026-03-29T02:30") == [
        *("03-29 00:15", "03-29 01:00", "03-29 01:15", "03-29 02:15"),
    ]


def test_half_an_hour_s_leap_is_no_exception() -> None:
    # 2026-10-04: Lord Howe leaps from 02:00 to 02:30; 15:30 UTC the day before.
    lord_howe = Rhythm(at_minute=10, time_zone="Australia/Lord_Howe")
    assert between(lord_howe, "2026-10-02", "2026-10-05") == [
        *("10-02 15:40", "10-03 15:30", "10-04 15:10"),
    ]


def test_a_day_that_a_country_left_out_runs_when_the_next_begins() -> None:
    # Apia had no 2011-12-30: the 31st began at 10:00 UTC on the 30th.
    apia = Rhythm(time_zone="Pacific/Apia")
    assert between(apia, "2011-12-29T00:00", "2012-01-01T00:00") == [
        *("12-29 12:30", "12-30 10:00", "12-30 12:30", "12-31 12:30"),
    ]
    friday = Rhythm(every="week", weekday=4, time_zone="Pacific/Apia")
    assert between(friday, "2011-12-27", "2012-01-01") == ["12-30 10:00"]


def test_the_last_days_of_a_month_are_its_last_day_where_it_is_shorter() -> None:
    monthly = Rhythm(every="month", day_of_month=31, time_zone="UTC")
    assert between(monthly, "2028-01-31T03:00", "2028-05-01") == [
        *("02-29 02:30", "03-31 02:30", "04-30 02:30"),
    ]
    for day in (29, 30, 31):
        shorter = Rhythm(every="month", day_of_month=day, time_zone="UTC")
        assert between(shorter, "2027-02-01", "2027-03-01") == ["02-28 02:30"]


def test_a_slot_at_the_end_belongs_to_the_range_and_one_at_its_start_does_not() -> None:
    daily = Rhythm(time_zone="UTC")
    assert between(daily, "2026-05-01T02:30", "2026-05-03T02:30") == ["05-02 02:30", "05-03 02:30"]


@pytest.mark.parametrize("name", ["Nowhere/Here", "", "../../etc/passwd"])
def test_a_zone_that_is_none_is_said_at_once(name: str) -> None:
    with pytest.raises((KeyError, ValueError)):
        next(slots_after(Rhythm(time_zone=name), utc("2026-05-01")))
