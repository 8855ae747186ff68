"""The OpenTelemetry collector: an address that resolves, and headers that have their values."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

from agent_client.doctor.check import Check, Subject

LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
_PREFIX: Final = "telemetry.export.otlp"


def check_collector(subject: Subject) -> Iterator[Check]:
    """The OTLP destination, when it is switched on. No value of a header is looked at."""
    if not subject.is_on(f"{_PREFIX}.enabled"):
        return
    name = "otlp"
    try:
        parts = urlsplit(str(subject.settings.get(f"{_PREFIX}.endpoint") or ""))
        host, port = parts.hostname, parts.port or 443
    except ValueError:
        yield Check(name, "fail", "its endpoint is not an address", "Mend the endpoint.")
        return
    if not host:
        hint = f"hermes config set {_PREFIX}.endpoint https://collector.example"
        yield Check(name, "fail", "it is enabled and has no endpoint", hint)
        return
    where = f"{parts.scheme}://{host}"
    unset = [
        f"${variable} (for {header})"
        for header, variable in _headers(subject)
        if not subject.settings.environ.get(variable)
    ]
    if unset:
        hint = "Set it where the agent and this command run; for a timer, in its environment file."
        yield Check(name, "fail", f"not set: {', '.join(unset)}", hint)
    if parts.scheme == "http" and host not in LOOPBACK:
        yield Check(name, "warn", f"{where} is not encrypted", "Use https.")
    if subject.offline:
        yield Check(name, "info", f"{where} (not asked: --offline)")
        return
    try:
        socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        yield Check(name, "fail", f"{host} has no address: {error.strerror}", "Check the name.")
        return
    if not unset:
        yield Check(name, "ok", where)


def _headers(subject: Subject) -> list[tuple[str, str]]:
    found = subject.settings.get(f"{_PREFIX}.headers_env")
    named = found if isinstance(found, dict) else {}
    return sorted((str(header), str(variable)) for header, variable in named.items())
