"""Where OTLP goes and whether it may: the gate, the endpoint and its headers, decided from config.

Header values come from the environment by name and stay in here: no report, log or exception
holds one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import SplitResult

from agent_client.config import ClientConfig
from agent_client.contract.otlp_genai import PROFILES
from agent_client.contract.redact import redact_text
from agent_client.http import AddressError, parse_console_url, printable
from agent_client.policy.posture import resolve

INSECURE_VARIABLE: Final = "HERMES_TELEMETRY_INSECURE_HTTP"
PINNED_PREFIXES: Final = ("HERMES_OTLP_", "OTEL_")
"""What a fleet may name. With any name at all, whoever steers the console could have every secret
of the agent's environment, its model keys first, sent to an address of his choice."""
OUR_HEADERS: Final = frozenset(
    "connection content-encoding content-length content-type host transfer-encoding".split()
)
_SIGNAL_PATH: Final = re.compile(r"/v1/(traces|logs|metrics)/?$")
_LOGIN: Final = re.compile(r"//.*@", re.DOTALL)
"""Up to the last @: an address that is none, with a slash in its password, hides nothing else."""
_HEADER_VALUE: Final = re.compile(r"[\x20-\x7e\xa0-\xff]+")
_KEY: Final = "telemetry.export.otlp."


@dataclass(frozen=True, slots=True)
class Header:
    """A configured header, its variable's NAME, and why it is not sent ("" when it is)."""

    name: str
    variable: str
    fault: str = ""

    @property
    def is_set(self) -> bool:
        """Whether the header goes out."""
        return not self.fault


@dataclass(frozen=True, slots=True)
class Target:
    """An open gate: this may leave, to this place. ``identity`` names the destination's cursor."""

    base: SplitResult
    endpoint: str
    identity: str
    profile: str
    sends_logs: bool
    sends_metrics: bool
    errors_as_events: bool
    headers: tuple[Header, ...]
    values: Mapping[str, str] = field(repr=False)

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of the variables whose headers are not sent."""
        return tuple(header.variable for header in self.headers if header.fault)


@dataclass(frozen=True, slots=True)
class Closed:
    """A shut gate, or an endpoint that cannot be used; ``reason`` is for programs."""

    reason: str
    detail: str
    is_refusal: bool = True


def target_of(settings: ClientConfig) -> Target | Closed:
    """Where the local plane may go by OTLP, as the configuration stands now. No I/O."""
    if settings.unread:
        return Closed("plane_closed", settings.unread)
    for key, is_open in (
        ("telemetry.local", resolve(settings).local_enabled),
        (f"{_KEY}enabled", settings.get(f"{_KEY}enabled") is True),
    ):
        if not is_open:
            return Closed("plane_closed", f"{key} is off ({settings.source(key)})")
    configured = settings.get(f"{_KEY}endpoint")
    if not isinstance(configured, str) or not configured:
        return Closed("no_endpoint", f"{_KEY}endpoint is not set")
    try:
        base = parse_endpoint(configured, settings.environ)
    except AddressError as error:
        return Closed("address_refused", str(error), is_refusal=False)
    headers, values = read_headers(settings)
    profile = str(settings.get(f"{_KEY}semconv_profile"))
    return Target(
        base=base,
        endpoint=shown(base.geturl()),
        identity=hashlib.sha256(base.geturl().encode()).hexdigest()[:16],
        profile=profile if profile in PROFILES else PROFILES[0],
        sends_logs=settings.get(f"{_KEY}logs") is not False,
        sends_metrics=settings.get(f"{_KEY}metrics") is not False,
        errors_as_events=settings.get(f"{_KEY}errors_as_span_events") is True,
        headers=headers,
        values=values,
    )


def parse_endpoint(url: str, environ: Mapping[str, str]) -> SplitResult:
    """The base address, under which ``/v1/<signal>`` is appended. Errors: AddressError.

    As with OTEL_EXPORTER_OTLP_ENDPOINT; a signal's whole address is understood as well. Plain http
    is for loopback, elsewhere only with HERMES_TELEMETRY_INSECURE_HTTP=1 in the environment.
    """
    try:
        base = parse_console_url(url, allow_plain_http=environ.get(INSECURE_VARIABLE) == "1")
    except AddressError as error:
        if url.strip().lower().startswith("http:"):
            raise AddressError(
                "plain http would show headers and records to the network: use https, or "
                f"{INSECURE_VARIABLE}=1 where the network is yours"
            ) from error
        raise AddressError(str(error).replace("console", "collector")) from error
    path = _SIGNAL_PATH.sub("", base.path.rstrip("/")).rstrip("/")
    return base._replace(netloc=base.netloc.lower(), path=path)


def read_headers(settings: ClientConfig) -> tuple[tuple[Header, ...], dict[str, str]]:
    """The configured headers, and the values of those that can be sent."""
    key = f"{_KEY}headers_env"
    configured = settings.get(key)
    is_pinned = settings.source(key) == "managed"
    headers, values = [], {}
    for name, variable in configured.items() if isinstance(configured, Mapping) else ():
        value = settings.environ.get(str(variable), "").strip()
        fault = _header_fault(str(name), str(variable), value, is_pinned=is_pinned)
        headers.append(Header(str(name), str(variable), fault))
        if not fault:
            values[str(name)] = value
    return tuple(headers), values


def _header_fault(name: str, variable: str, value: str, *, is_pinned: bool) -> str:
    if name.lower() in OUR_HEADERS:
        return "is no header of yours"
    if is_pinned and not variable.startswith(PINNED_PREFIXES):
        return "a pinned name has to begin with " + " or ".join(PINNED_PREFIXES)
    if not value:
        return "NOT set"
    return "" if _HEADER_VALUE.fullmatch(value) else "holds characters no header may have"


def shown(url: str) -> str:
    """An address as it may be shown: one line, no secret in its path, no login in front of it."""
    return printable(redact_text(_LOGIN.sub("//[login]@", url)))
