"""Leaky buckets for what is measured in amounts, shared by all processes when there is Redis.

A bucket holds one minute's quota and drains at that rate. What fits is taken at once. What is
larger than a whole bucket waits until the bucket is empty and then passes: nobody starves. A
bucket is one number, the moment at which it will be empty; a quota's amounts become seconds of it.

On Redis one script decides for all buckets of a request, by the server's clock. Without Redis, or
while it is away, each process counts for itself: the limit is then that much looser, and nothing
waits. A counter in the database would be a write for each request, on the very thing it protects.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import redis
import structlog
from django.conf import settings

logger = structlog.get_logger(__name__)
WINDOW_S: Final = 60
REST_S: Final = 5.0
"""After a failure Redis is left alone this long: each try may cost its whole timeout."""
TIMEOUT_S: Final = 1.0
MAX_BUCKETS: Final = 20_000
"""Of one process; about 3 MB. Beyond it the fullest stay, an emptied one is as good as new."""

type Cost = tuple[float, float]
"""Seconds that are wanted, and those held before that they replace."""

_SCRIPT: Final = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local window, forced = tonumber(ARGV[1]), ARGV[2] == '1'
local others, answer, wait = {}, {}, 0
for i, key in ipairs(KEYS) do
  local cost, held = tonumber(ARGV[2 * i + 1]), tonumber(ARGV[2 * i + 2])
  local backlog = math.max(0, tonumber(redis.call('GET', key) or '0') - now)
  others[i] = math.max(0, backlog - held)
  answer[i + 2] = backlog
  wait = math.max(wait, others[i] - math.max(0, window - cost))
end
local taken = forced or wait <= 0
for i, key in ipairs(KEYS) do
  if taken then
    answer[i + 2] = others[i] + tonumber(ARGV[2 * i + 1])
    redis.call('SET', key, string.format('%.6f', now + answer[i + 2]),
               'PX', math.ceil(answer[i + 2] * 1000) + 1000)
  end
  answer[i + 2] = string.format('%.6f', answer[i + 2])
end
answer[1], answer[2] = taken and 1 or 0, string.format('%.6f', wait)
return answer
"""


@dataclass(frozen=True, slots=True)
class Quota:
    """How much one of a kind may take a minute; 0: as much as it likes."""

    name: str
    per_minute: int

    def seconds(self, amount: float) -> float:
        """An amount as seconds of the quota."""
        return amount * WINDOW_S / self.per_minute if self.per_minute else 0.0


@dataclass(frozen=True, slots=True)
class Want:
    """An amount of a quota, in place of what the same request has taken of it before."""

    quota: Quota
    amount: float
    held: float = 0

    def costs(self) -> tuple[float, float]:
        """Amount and held amount as seconds of the quota."""
        return self.quota.seconds(self.amount), self.quota.seconds(self.held)


@dataclass(frozen=True, slots=True)
class Level:
    """What was decided. ``wait_s``: until the same would be taken, 0 when it was.

    ``backlogs_s``: how long each bucket, in the order asked, takes to be empty; above WINDOW_S it
    is in debt.
    """

    is_taken: bool
    wait_s: float
    backlogs_s: tuple[float, ...]


def take(who: str, *wanted: Want, is_forced: bool = False) -> Level:
    """Take what somebody wants, all or none of it; ``is_forced``: all, whatever the level is.

    Never raises.
    """
    limited = [want for want in wanted if want.quota.per_minute]
    if not limited:
        return Level(is_taken=True, wait_s=0.0, backlogs_s=(0.0,) * len(wanted))
    level = _take(who, limited, is_forced=is_forced)
    backlogs = iter(level.backlogs_s)
    return replace(
        level,
        # A debt from before the limit was lifted holds nobody up.
        backlogs_s=tuple(next(backlogs) if want.quota.per_minute else 0.0 for want in wanted),
    )


def _take(who: str, wanted: Sequence[Want], *, is_forced: bool) -> Level:
    keys = [f"{want.quota.name}:{who}" for want in wanted]
    costs = [want.costs() for want in wanted]
    if settings.REDIS_URL and time.monotonic() >= _Shared.rest_until_s:
        try:
            return _take_shared(keys, costs, is_forced=is_forced)
        except redis.RedisError as error:
            _Shared.rest_until_s = time.monotonic() + REST_S
            logger.warning("rate_limit_redis_down", kind=type(error).__name__)
    return _LOCAL.take(keys, costs, is_forced=is_forced)


def whole_seconds(wait_s: float) -> int:
    """A wait as Retry-After has it: rounded up, at least 1."""
    return max(1, math.ceil(wait_s))


def backend() -> Literal["redis", "process", "fallback"]:
    """Who counts, found out by asking; ``fallback``: Redis is configured and away."""
    if not settings.REDIS_URL:
        return "process"
    try:
        _take_shared(["probe:health"], [(0.0, 0.0)], is_forced=False)
    except redis.RedisError:
        return "fallback"
    return "redis"


class _Shared:
    """The connection of this process, and until when it is left alone (monotonic clock)."""

    rest_until_s = 0.0
    url = ""
    script: Any = None  # redis-py's Script is generic over sync and async clients
    lock = threading.Lock()


def _take_shared(keys: Sequence[str], costs: Sequence[Cost], *, is_forced: bool) -> Level:
    """The script's decision. It is sent again by itself after Redis was flushed.

    Errors: RedisError.
    """
    url = str(settings.REDIS_URL)
    with _Shared.lock:
        if _Shared.url != url:
            if _Shared.script is not None:
                _Shared.script.registered_client.close()
            client = redis.Redis.from_url(
                url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S
            )
            _Shared.url, _Shared.script = url, client.register_script(_SCRIPT)
        script = _Shared.script
    taken, wait, *backlogs = script(
        keys=[f"hermes-fleet:bucket:{key}" for key in keys],
        args=[WINDOW_S, int(is_forced), *itertools.chain.from_iterable(costs)],
    )
    return Level(
        is_taken=bool(taken),
        wait_s=0.0 if taken else float(wait),
        backlogs_s=tuple(map(float, backlogs)),
    )


class LocalBuckets:
    """The same decision within one process."""

    def __init__(self, *, most: int = MAX_BUCKETS) -> None:
        self._empty_at_s: dict[str, float] = {}
        self._most = most
        self._lock = threading.Lock()

    def take(self, keys: Sequence[str], costs: Sequence[Cost], *, is_forced: bool) -> Level:
        """See ``take``."""
        now_s = time.monotonic()
        with self._lock:
            backlogs = [max(0.0, self._empty_at_s.get(key, 0.0) - now_s) for key in keys]
            others = [
                max(0.0, backlog - held)
                for backlog, (_cost, held) in zip(backlogs, costs, strict=True)
            ]
            wait_s = max(
                other - max(0.0, WINDOW_S - cost)
                for other, (cost, _held) in zip(others, costs, strict=True)
            )
            is_taken = is_forced or wait_s <= 0
            if is_taken:
                backlogs = [
                    other + cost for other, (cost, _held) in zip(others, costs, strict=True)
                ]
                for key, backlog in zip(keys, backlogs, strict=True):
                    self._empty_at_s[key] = now_s + backlog
            if len(self._empty_at_s) > self._most:
                self._forget(now_s)
        return Level(is_taken, 0.0 if is_taken else wait_s, tuple(backlogs))

    def _forget(self, now_s: float) -> None:
        """Drop the emptied ones, then the emptiest half of the rest."""
        kept = sorted(
            ((at_s, key) for key, at_s in self._empty_at_s.items() if at_s > now_s), reverse=True
        )
        self._empty_at_s = {key: at_s for at_s, key in kept[: self._most // 2]}


_LOCAL: Final = LocalBuckets()
