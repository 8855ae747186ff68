"""What kind of address it is: public, or why the console must not be led there. Pure.

An address inside another (IPv4-mapped, NAT64, 6to4) is judged as what a router makes of it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final

type Address = ipaddress.IPv4Address | ipaddress.IPv6Address
type Network = ipaddress.IPv4Network | ipaddress.IPv6Network

PUBLIC: Final = ""
METADATA: Final = "the cloud's metadata service"
PRIVATE: Final = "a private address"

_METADATA: Final = frozenset(
    ipaddress.ip_address(text)
    for text in (
        "169.254.169.254",  # AWS, Google, Azure, Oracle, DigitalOcean
        "169.254.170.2",  # AWS: credentials of a container
        "169.254.170.23",  # AWS: credentials of a pod
        "fd00:ec2::254",
        "fd00:ec2::23",
        "fd20:ce::254",  # Google
        "100.100.100.200",  # Alibaba
        "168.63.129.16",  # Azure: looks public, answers inside
        "192.0.0.192",  # Oracle, classic
    )
)
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_NAT64_LOCAL: Final = ipaddress.IPv6Network("64:ff9b:1::/48")
_COMPATIBLE: Final = ipaddress.IPv6Network("::/96")
_SHARED: Final = ipaddress.IPv4Network("100.64.0.0/10")
_PRIVATE: Final = tuple(
    ipaddress.ip_network(text)
    for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
)


def kind_of(address: Address) -> str:
    """PUBLIC, or in a few words what it is instead."""
    inner = inner_of(address)
    if inner is not None:
        return kind_of(inner)
    if address in _METADATA:
        return METADATA
    if address.is_unspecified:
        return "no address of a host"
    if address.is_loopback:
        return "this machine itself"
    if address.is_link_local:
        return "a link-local address"
    if address.is_multicast:
        return "a multicast address"
    if address.version == 4 and address in _SHARED:
        return "an address that a carrier shares out"
    if any(address.version == net.version and address in net for net in _PRIVATE):
        return PRIVATE
    is_site_local = isinstance(address, ipaddress.IPv6Address) and address.is_site_local
    if not address.is_global or address.is_reserved or is_site_local:
        return "a reserved address"
    return PUBLIC


def inner_of(address: Address) -> Address | None:
    """The IPv4 address that a translator on the way takes out of it."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    low = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    if address in _NAT64:
        return low
    if address in _NAT64_LOCAL:
        return ipaddress.IPv4Address(0)  # inside somebody's network, whatever it says
    if address in _COMPATIBLE and int(address) > 0xFFFF:
        return low
    return None


def is_listed(address: Address, networks: Iterable[Network]) -> bool:
    """Whether the operator named it. Metadata only by its very address, no range holds it."""
    judged = [address]
    inner = inner_of(address)
    if inner is not None:
        judged.append(inner)
    is_metadata = kind_of(address) == METADATA
    return any(
        one.version == network.version
        and one in network
        and (not is_metadata or network.prefixlen == network.max_prefixlen)
        for network in networks
        for one in judged
    )
