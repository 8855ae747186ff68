"""Windows, bounds and files: what the insights are made of, without a database."""

from __future__ import annotations

import csv
import io
from collections import Counter
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.exports.spreadsheet import inert
from telemetry.insight import read
from telemetry.insight.intervals import Rate, difference, wilson
from telemetry.insight.window import DAY, HOUR, Window
from telemetry.models import Unit
from telemetry.pages.tables import Cell, Column, Table, csv_text
from telemetry.rollup.histogram import bucket_of
from tests.telemetry.builders import hour_at

FIRST = hour_at(2020, 1, 1)
WINDOWS = st.builds(
    lambda start, hours: Window(FIRST + start * HOUR, FIRST + (start + hours) * HOUR),
    st.integers(0, 2000),
    st.integers(1, 1000),
)


def hours_of(window: Window) -> Counter[datetime]:
    """How often each hour is in the slices of a window."""
    counts: Counter[datetime] = Counter()
    for piece in window.slices():
        step = HOUR if piece.unit == Unit.HOUR else DAY
        at = piece.start
        while at < piece.end:
            for hour in range(step // HOUR):
                counts[at + hour * HOUR] += -1 if piece.is_taken_out else 1
            at += step
    return +counts


@given(WINDOWS)
def test_the_slices_of_a_window_hold_each_of_its_hours_once(window: Window) -> None:
    hours = (window.end - window.start) // HOUR
    assert hours_of(window) == {window.start + at * HOUR: 1 for at in range(hours)}


@given(WINDOWS)
def test_a_long_window_reads_few_hours(window: Window) -> None:
    if window.unit == "day":
        edges = [piece for piece in window.slices() if piece.unit == Unit.HOUR]
        assert all(piece.end - piece.start <= 12 * HOUR for piece in edges)
        assert len(edges) <= 2


def test_the_running_day_is_read_as_a_day() -> None:
    window = Window.last(days=30)
    if window.end.hour:
        (day,) = [piece for piece in window.slices() if piece.unit == Unit.DAY]
        assert day.end == window.end.replace(hour=0) + DAY


def test_long_windows_have_daily_buckets() -> None:
    window = Window(hour_at(2026, 3, 1, 5), hour_at(2026, 3, 31, 5))
    assert window.unit == "day"
    assert (len(window.buckets()), window.buckets()[0]) == (31, hour_at(2026, 3, 1))
    assert window.previous.end == window.start


@pytest.mark.parametrize("length", [timedelta(0), timedelta(minutes=90)])
def test_a_window_is_made_of_whole_hours(length: timedelta) -> None:
    start = hour_at(2026, 3, 1)
    with pytest.raises(ValueError, match="window"):
        Window(start, start + length)


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    # Newcombe, Stat. Med. 17 (1998), table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)],
)
def test_wilson_bounds_are_the_published_ones(
    count: int, total: int, low: float, high: float
) -> None:
    assert wilson(count, total) == pytest.approx((low, high), abs=5e-5)


def test_the_bounds_of_a_difference_are_the_published_ones() -> None:
    # The same author, Stat. Med. 17, table II, method 10: 56/70 less 48/80.
    assert difference(Rate(48, 80), Rate(56, 70)) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert difference(Rate(0, 0), Rate(1, 2)) is None


@given(st.integers(1, 10**9).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_a_share_lies_within_its_bounds(found: tuple[int, int]) -> None:
    rate = Rate(*found)
    assert rate.low is not None
    assert rate.high is not None
    assert rate.value is not None
    assert 0 <= rate.low <= rate.value <= rate.high <= 1


@pytest.mark.parametrize(
    "start", ["=", "+", "-", "@", "\t=", "\r", "\n=", " =", "\uff1d", "\u00a0@"]
)
def test_a_name_is_no_formula_in_a_file(start: str) -> None:
    assert inert(f"{start}cmd|' /C calc'!A0").startswith("'")


def test_a_pages_file_is_as_guarded_as_an_exports() -> None:
    """What stands behind a semicolon begins a cell where semicolons part them."""
    table = Table("t", "T", "", (Column("name", "Name"),), ((Cell("a;=cmd()", ""),),), "")
    assert csv_text(table).splitlines()[1] == "a;'=cmd()"


def test_a_file_has_numbers_as_numbers_and_unknown_as_nothing() -> None:
    table = Table(
        "t",
        "T",
        "",
        (Column("tool", "Tool"), Column("change", "Change"), Column("cost_usd", "Cost")),
        ((Cell('=HYPERLINK("x")', ""), Cell(-0.25, ""), Cell(None, "unknown")),),
        "",
    )
    head, row = csv.reader(io.StringIO(csv_text(table)))
    assert head == ["tool", "change", "cost_usd"]
    assert row == ['\'=HYPERLINK("x")', "-0.25", ""]


@pytest.mark.parametrize("value_ms", [0.0, 0.001, 0.0010001, 1.0, 1e12, 1e15])
def test_every_bucket_has_a_place_of_its_own(value_ms: float) -> None:
    index = bucket_of(value_ms)
    assert index is None or read._HIGHEST - read._INDEXES < index < read._HIGHEST
