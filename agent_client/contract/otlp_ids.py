"""Stable OTLP ids of recorded things: what is sent again carries the ids it carried before.

``H(n, …)`` is the first n bytes of SHA-256 over the parts joined by NUL behind a fixed prefix, so
that any other exporter of the same records can make the same ids.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final

PREFIX: Final = b"hermes-otlp-v1"
TRACE_BYTES: Final = 16
SPAN_BYTES: Final = 8
_TRACE_HEX: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)
_NO_TRACE: Final = "0" * 32


def hashed(size_bytes: int, *parts: str) -> bytes:
    """H(n, parts…); never all zeros, which OTLP reads as absent."""
    text = "\0".join(parts).encode("utf-8", "surrogatepass")
    found = hashlib.sha256(PREFIX + b"\0" + text).digest()[:size_bytes]
    return found if any(found) else found[:-1] + b"\x01"


def trace_id(install_id: str, run_id: str, recorded: object) -> bytes:
    """The recorded trace id where it is one (32 hex digits, not all zero), else the run's hash."""
    if is_trace_id(recorded):
        return bytes.fromhex(str(recorded))
    return hashed(TRACE_BYTES, "trace", install_id, run_id)


def is_trace_id(recorded: object) -> bool:
    """Whether a recorded trace id can be used as it is."""
    return (
        isinstance(recorded, str)
        and _TRACE_HEX.fullmatch(recorded) is not None
        and recorded != _NO_TRACE
    )


@lru_cache(maxsize=1024)
def run_span_id(install_id: str, run_id: str) -> bytes:
    """The span id of a run; each of its children asks for it."""
    return span_id("run", install_id, run_id)


def span_id_maker(kind: str, install_id: str) -> Callable[[str], bytes]:
    """``span_id`` of one kind and install for many recorded ids: what they share is joined once."""
    head = PREFIX + b"\0" + "\0".join((kind, install_id, "")).encode("utf-8", "surrogatepass")
    sha256 = hashlib.sha256

    def make(recorded: str) -> bytes:
        found = sha256(head + recorded.encode("utf-8", "surrogatepass")).digest()[:SPAN_BYTES]
        return found if any(found) else found[:-1] + b"\x01"

    return make


def span_id(kind: str, install_id: str, recorded: str) -> bytes:
    """The span id of a run (kind ``run``, by its run_id), a call or a span row (by its span_id)."""
    return hashed(SPAN_BYTES, kind, install_id, recorded)
