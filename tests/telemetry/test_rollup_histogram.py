"""Histograms: quantiles within 2.5 %, merging like one."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.rollup.histogram import MAX_MS, Histogram, bucket_of, merge_json, middle_ms

VALUES = st.lists(st.floats(0.0011, 1e11), min_size=1, max_size=200)


@given(values=VALUES, q=st.floats(0, 1))
def test_a_quantile_is_at_most_two_and_a_half_percent_off(values: list[float], q: float) -> None:
    exact = sorted(values)[max(1, math.ceil(q * len(values))) - 1]
    found = Histogram.of(values).quantile_ms(q)
    assert found is not None
    assert abs(found - exact) <= 0.025 * exact


@given(st.lists(st.lists(st.floats(0, 1e13), max_size=30), max_size=5))
def test_parts_merge_to_the_whole(parts: list[list[float]]) -> None:
    whole = Histogram.of(value for part in parts for value in part)
    merged = merge_json(Histogram.of(part).to_json() for part in parts)
    assert merged.to_json() == whole.to_json()
    assert merged.count == sum(map(len, parts))


@given(VALUES, VALUES)
def test_merging_does_not_care_for_order(left: list[float], right: list[float]) -> None:
    one, two = Histogram.of(left), Histogram.of(right)
    assert one.merged(two).to_json() == two.merged(one).to_json()


@given(st.floats(0.0011, MAX_MS))
def test_a_value_lies_within_its_bucket(value: float) -> None:
    index = bucket_of(value)
    assert index is not None
    assert 2 ** (index / 16) * (1 - 1e-9) <= value <= 2 ** ((index + 1) / 16) * (1 + 1e-9)
    assert 2 ** (index / 16) < middle_ms(index) < 2 ** ((index + 1) / 16)


@pytest.mark.parametrize("value", [0.0, -5.0, 0.001])
def test_nothing_measurable_is_counted_as_zero(value: float) -> None:
    assert Histogram.of([value]).to_json() == {"zero": 1}
    assert Histogram.of([value]).quantile_ms(0.5) == 0.0


def test_an_empty_histogram_has_no_quantile() -> None:
    assert Histogram().quantile_ms(0.5) is None


def test_the_number_of_buckets_is_bounded() -> None:
    lowest, highest = bucket_of(0.0011), bucket_of(1e300)
    assert lowest is not None
    assert highest is not None
    assert highest - lowest < 800
