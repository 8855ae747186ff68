"""Who is calling: the peer's address, or what a proxy of ours says about it."""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import Final

from django.conf import settings
from django.http import HttpRequest

UNKNOWN: Final = "0.0.0.0"  # noqa: S104  # a value for "no address", nothing listens here
UNIX_PEER: Final = "unix"
"""How FLEET_PROXIES names a proxy that speaks through a Unix socket, which has no address."""


def client_address(request: HttpRequest) -> str:
    """The caller's IP address in its shortest form; UNKNOWN when there is none.

    X-Forwarded-For is read from the right and only as far as FLEET_PROXIES reach: what
    stands further left was written by somebody we do not know.
    """
    peer = str(request.META.get("REMOTE_ADDR", ""))
    trusted = _networks(tuple(settings.FLEET_PROXIES))
    if not _is_trusted(peer, trusted):
        return _normal(peer)
    hops = str(request.META.get("HTTP_X_FORWARDED_FOR", "")).split(",")
    for hop in reversed([hop.strip() for hop in hops if hop.strip()]):
        peer = hop
        if not _is_trusted(hop, trusted):
            break
    return _normal(peer)


def is_trusted_peer(request: HttpRequest) -> bool:
    """Whether the request comes straight from a proxy of ours, so that its word counts."""
    peer = str(request.META.get("REMOTE_ADDR", ""))
    return _is_trusted(peer, _networks(tuple(settings.FLEET_PROXIES)))


def is_in_network(address: str, cidr: str) -> bool:
    """Whether an address lies in a network; an IPv4 address mapped into IPv6 counts as IPv4.

    Errors: ValueError when either is malformed.
    """
    return ipaddress.ip_address(_normal(address)) in ipaddress.ip_network(cidr, strict=False)


def _normal(text: str) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return UNKNOWN
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


@lru_cache(maxsize=8)
def _networks(
    entries: tuple[str, ...],
) -> tuple[frozenset[str], tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]]:
    names = frozenset(entry for entry in entries if entry == UNIX_PEER)
    return names, tuple(
        ipaddress.ip_network(entry, strict=False) for entry in entries if entry != UNIX_PEER
    )


def _is_trusted(
    peer: str,
    trusted: tuple[frozenset[str], tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]],
) -> bool:
    names, networks = trusted
    normal = _normal(peer)
    if normal == UNKNOWN:
        return UNIX_PEER in names and not peer
    address = ipaddress.ip_address(normal)
    return any(address in network for network in networks)
