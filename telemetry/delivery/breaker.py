"""When to try again: back-off with full jitter, a circuit breaker, Retry-After. Pure.

After a failure nothing is tried before ``open_until``. From OPEN_AFTER failures in a row on the
breaker counts as open; when its time is over one small body is let through (half open), and its
answer closes or opens it again.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final, Literal

State = Literal["closed", "open", "half_open"]

OPEN_AFTER: Final = 5
BASE_S: Final = 1.0
CAP_S: Final = 300.0
"""Five minutes: what a collector's restart may cost in lag at most."""
FLOOR_S: Final = 0.05
"""Full jitter may say 0; even then the next round is not this very moment."""
MAX_RETRY_AFTER_S: Final = 3_600.0
"""What a receiver may ask for: a typing error there must not silence a relay for a year."""
_MAX_DOUBLINGS: Final = 20


@dataclass(frozen=True, slots=True)
class Pause:
    """What to write into ``failure_count`` and ``open_until``."""

    failure_count: int
    open_until: datetime | None


CLOSED: Final = Pause(0, None)


def state_of(failure_count: int, open_until: datetime | None, moment: datetime) -> State:
    """How the breaker stands."""
    if failure_count < OPEN_AFTER:
        return "closed"
    return "open" if open_until is not None and open_until > moment else "half_open"


def may_try(open_until: datetime | None, moment: datetime) -> bool:
    """Whether something may be sent now."""
    return open_until is None or open_until <= moment


def after_failure(
    failure_count: int,
    moment: datetime,
    *,
    retry_after_s: float | None = None,
    chance: Callable[[], float] = random.random,
) -> Pause:
    """The pause after one more failure. What the receiver asks for is obeyed, within its bound."""
    count = failure_count + 1
    most_s = min(CAP_S, BASE_S * 2.0 ** min(failure_count, _MAX_DOUBLINGS))
    # Full jitter: many consoles that lost one collector must not come back at once.
    wait_s = max(FLOOR_S, chance() * most_s)
    if retry_after_s is not None:
        wait_s = max(FLOOR_S, min(retry_after_s, MAX_RETRY_AFTER_S))
    return Pause(count, moment + timedelta(seconds=wait_s))


def retry_after_s(value: str, moment: datetime) -> float | None:
    """Retry-After in seconds from now: a number or an HTTP date (RFC 9110); None: nothing usable.

    Never negative, at most MAX_RETRY_AFTER_S.
    """
    text = value.strip()
    if not text:
        return None
    if text.isascii() and text.isdigit():
        return min(float(text[:10]), MAX_RETRY_AFTER_S)
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return min(max(0.0, (at - moment).total_seconds()), MAX_RETRY_AFTER_S)
