"""Who may read the metrics: a bearer of the token, or an address of FLEET_METRICS_NETWORKS."""

from __future__ import annotations

import hmac
from typing import Final

from django.conf import settings
from django.http import HttpRequest

from fleet.lib.addresses import client_address, is_in_network, is_trusted_peer

FORWARDED: Final = (
    *("HTTP_X_FORWARDED_FOR", "HTTP_FORWARDED", "HTTP_X_FORWARDED_HOST", "HTTP_X_FORWARDED_PROTO"),
    *("HTTP_X_REAL_IP", "HTTP_VIA"),
)
"""A request with one of these came through a proxy, whose address says nothing of who asks."""


def may_read_metrics(request: HttpRequest) -> bool:
    """Whether this request is answered with metrics; one that is not is told 404."""
    return _has_token(request) or _is_near(request)


def _has_token(request: HttpRequest) -> bool:
    wanted = str(settings.FLEET_METRICS_TOKEN)
    scheme, _space, given = str(request.META.get("HTTP_AUTHORIZATION", "")).partition(" ")
    if not wanted or scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(given.strip().encode(), wanted.encode())


def _is_near(request: HttpRequest) -> bool:
    is_forwarded = any(name in request.META for name in FORWARDED)
    if is_forwarded and not (is_trusted_peer(request) and _is_said_for_whom(request)):
        return False
    address = client_address(request)
    return any(is_in_network(address, network) for network in settings.FLEET_METRICS_NETWORKS)


def _is_said_for_whom(request: HttpRequest) -> bool:
    """Without it the proxy's own address would pass for the caller's."""
    return bool(str(request.META.get("HTTP_X_FORWARDED_FOR", "")).replace(",", " ").strip())
