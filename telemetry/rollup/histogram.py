"""Log-scale histograms on OpenTelemetry's base-2 exponential grid, scale 4.

Bucket ``i`` holds values in ``(base**i, base**(i + 1)]`` with base = 2 ** (1/16): 16 buckets a
doubling, so the middle of a bucket is at most 2.2 % away from anything in it. Counts add up, so
histograms of hours, groups and installs merge exactly.
Source: OpenTelemetry metrics data model, ExponentialHistogram.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Self

SCALE: Final = 4
BUCKETS_PER_DOUBLING: Final = 2**SCALE
ZERO_THRESHOLD_MS: Final = 0.001
"""A microsecond: below it durations are noise, and the grid would go on for ever."""
MAX_MS: Final = 1e12
"""The contract's bound; with the threshold it holds a histogram under 800 buckets."""
ZERO_KEY: Final = "zero"
"""The zero bucket in the stored form."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts by bucket index; ``zero_count`` are values up to ZERO_THRESHOLD_MS."""

    counts: Mapping[int, int] = field(default_factory=dict)
    zero_count: int = 0

    @classmethod
    def of(cls, values_ms: Iterable[float]) -> Self:
        """The histogram of values."""
        counts = Counter(bucket_of(value) for value in values_ms)
        zero_count = counts.pop(None, 0)
        return cls(
            {index: count for index, count in counts.items() if index is not None}, zero_count
        )

    @classmethod
    def from_json(cls, data: Mapping[str, int]) -> Self:
        """A histogram from its stored form."""
        return cls(
            {int(index): count for index, count in data.items() if index != ZERO_KEY},
            data.get(ZERO_KEY, 0),
        )

    def to_json(self) -> dict[str, int]:
        """``{"<index>": count, "zero": count}``, empty buckets left out, sorted."""
        data = {str(index): count for index, count in sorted(self.counts.items()) if count}
        if self.zero_count:
            data[ZERO_KEY] = self.zero_count
        return data

    @property
    def count(self) -> int:
        """How many values it holds."""
        return self.zero_count + sum(self.counts.values())

    def merged(self, other: Histogram) -> Histogram:
        """Both together; order does not matter."""
        counts = Counter(self.counts)
        counts.update(other.counts)
        return Histogram(dict(counts), self.zero_count + other.zero_count)

    def quantile_ms(self, q: float) -> float | None:
        """The value at rank ceil(q·count), at most 2.2 % off; None when empty."""
        total = self.count
        if not total:
            return None
        rank = max(1, math.ceil(q * total))
        seen = self.zero_count
        if rank <= seen:
            return 0.0
        for index in sorted(self.counts):
            seen += self.counts[index]
            if rank <= seen:
                return middle_ms(index)
        raise AssertionError("a rank beyond the count")


def merge_json(parts: Iterable[Mapping[str, int]]) -> Histogram:
    """Many stored histograms as one."""
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    return Histogram.from_json(total)


def bucket_of(value_ms: float) -> int | None:
    """The bucket of a value; None for the zero bucket. ``stats`` has the same in SQL."""
    if value_ms <= ZERO_THRESHOLD_MS:
        return None
    return math.ceil(math.log(min(value_ms, MAX_MS)) * BUCKETS_PER_DOUBLING / math.log(2)) - 1


def middle_ms(index: int) -> float:
    """The value with the same relative distance to both bounds of a bucket."""
    low = 2 ** (index / BUCKETS_PER_DOUBLING)
    high = 2 ** ((index + 1) / BUCKETS_PER_DOUBLING)
    return 2 * low * high / (low + high)
