"""How sure a share is: the Wilson score interval, and whether two shares differ. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

Z_95: Final = 1.959963984540054
"""Standard deviations that hold 95 % of a normal distribution."""


@dataclass(frozen=True, slots=True)
class Rate:
    """``count`` of ``total``, with the bounds between which the true share lies in 95 of 100."""

    count: int
    total: int

    @property
    def value(self) -> float | None:
        """The share; None when there was nothing."""
        return self.count / self.total if self.total else None

    @property
    def low(self) -> float | None:
        """The lower bound."""
        return wilson(self.count, self.total)[0] if self.total else None

    @property
    def high(self) -> float | None:
        """The upper bound."""
        return wilson(self.count, self.total)[1] if self.total else None


def wilson(count: int, total: int, z: float = Z_95) -> tuple[float, float]:
    """Lower and upper bound of a share of ``total`` > 0.

    It stays inside 0 to 1 and means something for few runs and for shares near either end, where
    the textbook interval does not. Source: Wilson, JASA 22 (1927).
    """
    share = count / total
    spread = z * z / total
    middle = share + spread / 2
    half = z * math.sqrt(share * (1 - share) / total + spread / (4 * total))
    low, high = (middle - half) / (1 + spread), (middle + half) / (1 + spread)
    # Exact at the ends: rounding must not say that none of none is impossible.
    return (0.0 if count == 0 else max(low, 0.0), 1.0 if count == total else min(high, 1.0))


def difference(first: Rate, second: Rate) -> tuple[float, float] | None:
    """The 95 % bounds of ``second`` less ``first``; None when either has nothing.

    It holds zero when the two may be the same. Source: Newcombe, Stat. Med. 17 (1998), method 10.
    """
    if not first.total or not second.total:
        return None
    one, two = first.count / first.total, second.count / second.total
    low_one, high_one = wilson(first.count, first.total)
    low_two, high_two = wilson(second.count, second.total)
    change = two - one
    return (
        change - math.hypot(two - low_two, high_one - one),
        change + math.hypot(high_two - two, one - low_one),
    )
