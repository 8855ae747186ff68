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
    """The OTLP destination, when it is switched on. No value of a header is shown."""
    name = "otlp"
    if not subject.is_on(f"{_PREFIX}.enabled"):
        return
    from agent_client.otlp.state import otlp_state

    state = otlp_state(subject.home, subject.settings)
    is_good = not state.problem
    if state.problem:
        yield Check(name, "fail", state.problem, f"See docs: {_PREFIX}.endpoint and .headers_env.")
    for header in state.headers:
        if not header.is_set:
            is_good = False
            hint = "Set it where the agent and this command run; for a timer, in its environment."
            yield Check(name, "fail", f"${header.variable} (for {header.name}): not set", hint)
    parts = urlsplit(str(subject.settings.get(f"{_PREFIX}.endpoint") or ""))
    host = parts.hostname
    if not host:
        return  # the problem above
    where = f"{parts.scheme}://{host}"
    if parts.scheme == "http" and host not in LOOPBACK:
        yield Check(name, "warn", f"{where} is not encrypted", "Use https.")
    if subject.offline:
        yield Check(name, "info", f"{where} (not asked: --offline)")
        return
    try:
        socket.getaddrinfo(host, parts.port or 443, type=socket.SOCK_STREAM)
    except OSError as error:
        yield Check(name, "fail", f"{host} has no address: {error.strerror}", "Check the name.")
        return
    if is_good:
        yield Check(name, "ok", where)
