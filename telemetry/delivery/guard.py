"""Where the console may send to: https, a host on the list, and every address behind it checked.

Whoever may enter a collector's address could otherwise have the console speak to what only it can
reach. A name is resolved once a connection, all of its addresses are judged, and the connection
goes to one of those (``http.Sender``): a name that answers differently a moment later gains
nothing. Redirects are not followed and proxies of the environment are not used.
"""

from __future__ import annotations

import ipaddress
import queue
import re
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, urlsplit

from django.conf import settings
from django.utils.translation import gettext as _

from telemetry.delivery.addresses import PRIVATE, PUBLIC, Address, Network, is_listed, kind_of

HTTP: Final[Mapping[str, int]] = {"https": 443, "http": 80}
"""Schemes of collectors and webhooks with their ports."""
PLAIN: Final = frozenset({"http", "tcp", "udp"})
"""Schemes that show headers and records to the network."""
MAX_URL_CHARS: Final = 300
RESOLVE_S: Final = 5.0
_NAME: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,62})(?:\.[a-z0-9_](?:[a-z0-9_-]{0,62}))*")
_NUMBER: Final = re.compile(r"\d+|0x[0-9a-f]*")
_ODD: Final = re.compile(r"[\x00-\x20\x7f\\]")
_SIGNAL_PATH: Final = re.compile(r"/v1/(traces|logs|metrics)/?$")

type Resolve = Callable[[str, int], Sequence[str]]


class EndpointRefused(Exception):
    """The address must not be used; the text says why and what to do about it."""


class EndpointUnknown(Exception):
    """The name could not be resolved just now."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address that may be tried; ``address`` is set when the host is an address itself."""

    scheme: str
    host: str
    port: int
    path: str
    address: Address | None = None

    @property
    def is_tls(self) -> bool:
        """Whether the way there is encrypted."""
        return self.scheme not in PLAIN

    @property
    def shown(self) -> str:
        """The address as it may be shown."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"


@dataclass(frozen=True, slots=True)
class Hosts:
    """FLEET_OTLP_HOSTS taken apart."""

    names: frozenset[str]
    suffixes: tuple[str, ...]
    networks: tuple[Network, ...]

    @property
    def is_empty(self) -> bool:
        """Whether nothing is listed: then any public address will do."""
        return not (self.names or self.suffixes or self.networks)

    def has(self, host: str) -> bool:
        """Whether a name is on the list."""
        return host in self.names or host.endswith(self.suffixes)


def listed_hosts() -> Hosts:
    """What the deployment allows, now."""
    names, suffixes, networks = set(), [], []
    for entry in settings.FLEET_OTLP_HOSTS:
        if entry.startswith("*."):
            suffixes.append(entry[1:].lower().rstrip("."))
            continue
        try:
            networks.append(ipaddress.ip_network(entry.strip("[]"), strict=False))
        except ValueError:
            names.add(entry.lower().rstrip("."))
    return Hosts(frozenset(names), tuple(suffixes), tuple(networks))


def check_endpoint(url: str, *, schemes: Mapping[str, int] = HTTP) -> Endpoint:
    """The endpoint of an address, as far as it can be judged without asking for a name.

    ``schemes``: what may be used, with its usual port. As with OTEL_EXPORTER_OTLP_ENDPOINT the path
    is a base; a signal's whole address is understood as well. Errors: EndpointRefused.
    """
    parts = _split(url, schemes)
    if parts.scheme in PLAIN and not settings.FLEET_OTLP_PLAIN_HTTP:
        raise EndpointRefused(
            _(
                "%(scheme)s would show headers and records to the network. Use %(safe)s, or set "
                "FLEET_OTLP_PLAIN_HTTP=true where the network is yours."
            )
            % {"scheme": parts.scheme, "safe": " / ".join(s for s in schemes if s not in PLAIN)}
        )
    host, address = _host_of(parts)
    try:
        port = parts.port
    except ValueError:
        port = 0
    port = schemes[parts.scheme] if port is None else port
    if not port:
        raise EndpointRefused(_("The port must be a number from 1 to 65535."))
    path = _SIGNAL_PATH.sub("", parts.path.rstrip("/")).rstrip("/")
    endpoint = Endpoint(parts.scheme, host, port, path, address)
    hosts = listed_hosts()
    if address is not None:
        _judge(endpoint, [address], hosts)
    elif not hosts.is_empty and not hosts.networks and not hosts.has(host):
        raise EndpointRefused(_not_listed(host))
    return endpoint


def addresses_of(endpoint: Endpoint, *, resolve: Resolve | None = None) -> list[Address]:
    """Every address of an endpoint, each one allowed; connect to these and to nothing else.

    At most RESOLVE_S seconds. Errors: EndpointRefused when a single one is not allowed,
    EndpointUnknown.
    """
    if endpoint.address is not None:
        found: list[Address] = [endpoint.address]
    else:
        texts = (resolve or _ask_resolver)(endpoint.host, endpoint.port)
        found = [ipaddress.ip_address(text.partition("%")[0]) for text in dict.fromkeys(texts)]
    if not found:
        raise EndpointUnknown(_("The name %(host)s has no address.") % {"host": endpoint.host})
    _judge(endpoint, found, listed_hosts())
    return found


def _split(url: str, schemes: Mapping[str, int]) -> SplitResult:
    text = url.strip()
    if not text or len(text) > MAX_URL_CHARS or _ODD.search(text):
        raise EndpointRefused(_("This is no address: write https://host:port"))
    try:
        parts = urlsplit(text)
    except ValueError as error:
        raise EndpointRefused(_("This is no address: write https://host:port")) from error
    if parts.scheme not in schemes or not parts.netloc:
        raise EndpointRefused(
            _("The address must begin with %(schemes)s")
            % {"schemes": " / ".join(f"{scheme}://" for scheme in schemes)}
        )
    if "@" in parts.netloc:
        raise EndpointRefused(
            _("No login in the address: it would be stored. Name a header's variable instead.")
        )
    if parts.query or parts.fragment or "?" in text or "#" in text:
        raise EndpointRefused(_("Leave out what follows ? or #: the address is a base."))
    return parts


def _host_of(parts: SplitResult) -> tuple[str, Address | None]:
    """The host as it goes into the Host header, and its address when it is one."""
    raw = parts.hostname or ""
    if parts.netloc.startswith("["):
        try:
            address = ipaddress.IPv6Address(raw)
        except ValueError as error:
            raise EndpointRefused(_("This is no IPv6 address.")) from error
        if address.scope_id:
            raise EndpointRefused(_("An address of one link only cannot be used."))
        return str(address), address
    try:
        # Compatibility forms first (full-width digits, other dots): what a resolver would see.
        host = raw.encode("idna").decode("ascii").lower()
    except UnicodeError as error:
        raise EndpointRefused(_("This is no name of a host.")) from error
    host = host.removesuffix(".")
    if not _NAME.fullmatch(host) or len(host) > 253:
        raise EndpointRefused(_("This is no name of a host."))
    if _NUMBER.fullmatch(host.rpartition(".")[2]):  # no top-level domain is a number
        try:
            return host, ipaddress.IPv4Address(host)
        except ValueError as error:
            raise EndpointRefused(
                _("Write the address as four decimal numbers without leading zeros.")
            ) from error
    return host, None


def _judge(endpoint: Endpoint, found: Sequence[Address], hosts: Hosts) -> None:
    """Every address has to pass: with one that does not, the name's owner chooses which is used."""
    is_name_listed = hosts.has(endpoint.host)
    for address in found:
        if is_listed(address, hosts.networks):
            continue
        if not (hosts.is_empty or is_name_listed):
            raise EndpointRefused(_not_listed(endpoint.host))
        kind = kind_of(address)
        if kind == PUBLIC:
            continue
        # Who wrote this very name into the deployment means the machine behind it.
        if kind == PRIVATE and endpoint.host in hosts.names:
            continue
        raise EndpointRefused(
            _(
                "%(host)s leads to %(address)s, %(kind)s. If that is meant, add this address or "
                "its network to FLEET_OTLP_HOSTS."
            )
            % {"host": endpoint.host, "address": address, "kind": kind}
        )


def _not_listed(host: str) -> str:
    return _("%(host)s is not on the list of allowed hosts. Add it to FLEET_OTLP_HOSTS.") % {
        "host": host
    }


def _ask_resolver(host: str, port: int) -> list[str]:
    """The system's answer within RESOLVE_S; a resolver that hangs keeps its own thread only."""
    answers: queue.SimpleQueue[list[str] | OSError] = queue.SimpleQueue()

    def ask() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            answers.put(error if isinstance(error, OSError) else OSError(str(error)))
        else:
            answers.put([str(entry[4][0]) for entry in found])

    threading.Thread(target=ask, name="resolve", daemon=True).start()
    try:
        answer = answers.get(timeout=RESOLVE_S)
    except queue.Empty:
        raise EndpointUnknown(
            _("The name %(host)s was not resolved within %(seconds)d s.")
            % {"host": host, "seconds": RESOLVE_S}
        ) from None
    if isinstance(answer, OSError):
        raise EndpointUnknown(
            _("The name %(host)s is not known (%(why)s).")
            % {"host": host, "why": answer.strerror or type(answer).__name__}
        )
    return answer
