"""Requests a minute, by address before authentication and by install after it.

Fixed windows in the cache: shared by all processes when it is Redis. When the cache is
down, requests pass: it is a guard rail, and telemetry must not wait for it.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Final

import structlog
from django.conf import settings
from django.core.cache import cache
from django.http import HttpRequest
from redis.exceptions import RedisError

from fleet.api.errors import ApiProblem
from fleet.lib.addresses import client_address

logger = structlog.get_logger(__name__)
WINDOW_S = 60
CACHE_REST_S = 5.0
"""After a failure the cache is left alone this long: each try may cost its whole timeout."""


@dataclass(slots=True)
class _Tally:
    """Of one counted thing: ours, how much of it the cache knows, and the cache's count then."""

    mine: int = 0
    told: int = 0
    shared: int = 0


class LocalCounts:
    """The same windows for requests that are answered without asking anybody; safe in threads.

    What a process counts reaches the cache once it is a twentieth of the limit, a second late: up
    to then it decides nothing, and a trip to the cache costs more than such a request.
    """

    def __init__(self) -> None:
        self._lock: Final = threading.Lock()
        self._window = 0
        self._tallies: dict[tuple[str, str], _Tally] = {}

    def admit(self, address: str, install_id: str) -> bool:
        """Count one request. False: a limit is reached, and nothing was counted here.

        The cache then knows all of ours, so that ``check_address`` and ``check_install`` say no.
        """
        limits = (
            ("address", address, settings.FLEET_RATE_ADDRESS_PER_MIN),
            ("install", install_id, settings.FLEET_RATE_INSTALL_PER_MIN),
        )
        with self._lock:
            self._turn_window()
            tallies = [self._tallies.setdefault((kind, who), _Tally()) for kind, who, _ in limits]
            is_full = any(
                tally.shared + tally.mine - tally.told >= most
                for tally, (_kind, _who, most) in zip(tallies, limits, strict=True)
            )
            if not is_full:
                for tally in tallies:
                    tally.mine += 1
                return True
        self.tell(is_all=True)
        return False

    def tell(self, *, is_all: bool = False) -> None:
        """Hand on to the cache what matters, or all of it."""
        least = {
            "address": settings.FLEET_RATE_ADDRESS_PER_MIN // 20,
            "install": settings.FLEET_RATE_INSTALL_PER_MIN // 20,
        }
        with self._lock:
            self._turn_window()
            window, found = self._window, list(self._tallies.items())
        for (kind, who), tally in found:
            with self._lock:
                news = tally.mine - tally.told
                if not news or (news < least[kind] and not is_all):
                    continue
                tally.told += news
            shared = _count(_key(kind, who, window), news)
            with self._lock:
                tally.shared = max(tally.shared, shared)

    def _turn_window(self) -> None:
        window = int(time.time()) // WINDOW_S
        if window != self._window:
            self._window = window
            self._tallies = {}


class _Rest:
    """Until when the cache is left alone, on this process's monotonic clock."""

    until_s = 0.0


def check_address(request: HttpRequest) -> None:
    """Count a request of its address. Errors: ApiProblem rate_limited."""
    _check("address", client_address(request), settings.FLEET_RATE_ADDRESS_PER_MIN)


def check_enroll(request: HttpRequest) -> None:
    """Count an enrollment attempt of its address. Errors: ApiProblem rate_limited."""
    _check("enroll", client_address(request), settings.FLEET_RATE_ENROLL_PER_MIN)


def check_install(install_id: str) -> None:
    """Count a request of an install. Errors: ApiProblem rate_limited."""
    _check("install", install_id, settings.FLEET_RATE_INSTALL_PER_MIN)


def _check(kind: str, who: str, most_per_window: int) -> None:
    window, into_s = divmod(int(time.time()), WINDOW_S)
    if _count(_key(kind, who, window)) > most_per_window:
        raise ApiProblem("rate_limited", retry_after_s=WINDOW_S - into_s)


def _key(kind: str, who: str, window: int) -> str:
    return f"rate:{kind}:{who}:{window}"


def _count(key: str, amount: int = 1) -> int:
    if time.monotonic() < _Rest.until_s:
        return 0
    try:
        if cache.add(key, amount, timeout=2 * WINDOW_S):
            return amount
        return int(cache.incr(key, amount))
    except ValueError:  # it lapsed between the two
        return amount
    except RedisError as error:
        _Rest.until_s = time.monotonic() + CACHE_REST_S
        logger.warning("rate_limit_cache_down", kind=type(error).__name__)
        return 0
