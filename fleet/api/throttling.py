"""Requests a minute, by address before authentication and by install after it.

Fixed windows in the cache: shared by all processes when it is Redis. When the cache is
down, requests pass: it is a guard rail, and telemetry must not wait for it.
"""

from __future__ import annotations

import time

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
    if _count(f"rate:{kind}:{who}:{window}") > most_per_window:
        raise ApiProblem("rate_limited", retry_after_s=WINDOW_S - into_s)


def _count(key: str) -> int:
    if time.monotonic() < _Rest.until_s:
        return 0
    try:
        if cache.add(key, 1, timeout=2 * WINDOW_S):
            return 1
        return int(cache.incr(key))
    except ValueError:  # it lapsed between the two
        return 1
    except RedisError as error:
        _Rest.until_s = time.monotonic() + CACHE_REST_S
        logger.warning("rate_limit_cache_down", kind=type(error).__name__)
        return 0
