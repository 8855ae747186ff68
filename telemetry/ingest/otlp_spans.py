"""OTLP spans as plain values: what both decoders give and the mapping takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from telemetry.ingest.validate import Refused

MAX_SPAN_BYTES: Final = 1024 * 1024
"""As long as a line of the wire may be: attributes with whole conversations fit, bombs do not."""
MAX_ATTRIBUTES: Final = 1024
"""SDKs stop at 128 by default; a span with more than this says nothing that we keep."""
MAX_EVENTS: Final = 128
FLAG_REMOTE: Final = 0x300
"""The parent is known to live in another process (has_is_remote and is_remote)."""

type Attribute = str | int | float | bool
"""An attribute's value; of a list of texts the first one, of anything else nothing is taken."""


@dataclass(frozen=True, slots=True)
class SpanEvent:
    """A moment inside a span, with those of its attributes that we know."""

    name: str
    time_ns: int
    attributes: Mapping[str, Attribute]


class OtlpSpan(msgspec.Struct, gc=False):
    """One span: ids as lower-case hex, "" for no parent; ``number`` from 1 in its request.

    ``attributes`` are those of its resource that describe the sender and its own, both only as
    far as the mapping knows them: content never gets this far. A struct in C, which the garbage
    collector need not look through: thousands are made.
    Units: nanoseconds since the epoch; ``end_ns`` 0 when none was sent.
    """

    number: int
    trace_id: str
    span_id: str
    parent_id: str
    flags: int
    name: str
    kind: int
    start_ns: int
    end_ns: int
    is_error: bool
    attributes: dict[str, Attribute]
    resource: Mapping[str, Attribute]
    events: tuple[SpanEvent, ...] = ()

    @property
    def has_remote_parent(self) -> bool:
        """Whether its parent is known to be another process's."""
        return self.flags & FLAG_REMOTE == FLAG_REMOTE

    @property
    def ended_ns(self) -> int | None:
        """When it ended; never before it began, for a clock may have been set in between."""
        return max(self.start_ns, self.end_ns) if self.end_ns else None


@dataclass(slots=True)
class Decoded:
    """What a request holds: its spans, and those that could not even be read."""

    received: int = 0
    spans: list[OtlpSpan] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
