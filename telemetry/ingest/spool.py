"""The spool: judged and scrubbed batches in one row each, until the drainer stores them.

What is put in is what would have been stored: rows, summaries and quarantined lines after the
scrubber, as MessagePack under zstd. The body as it came is never at rest. The ledger row, with the
receipt that was given, is written in the same transaction, so a repeat is answered from the ledger
whether the batch is stored yet or not.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
import zstandard
from django.conf import settings
from django.db.models import Count, Max, Min, Q, Sum

from fleet.lib.clock import now
from telemetry.ingest.decode import IngestError
from telemetry.ingest.otlp_traces import TraceFacts
from telemetry.ingest.scrub import scrub_raw
from telemetry.ingest.validate import Refused
from telemetry.models import IngestBatch, SpooledBatch
from telemetry.store.summaries import Summary

ZSTD_LEVEL: Final = 1
_DESCRIBED: Final = b'{"otlp_span"'
"""How a foreign span that was refused is described: see ``otlp_mapping``."""
_CONTENT: Final = re.compile(rb'"_kind"[ \t]*:[ \t]*"(?:session|message)"')
"""A record of the trajectories plane, under whatever plane it was sent: nothing of it is kept."""
RATE_WINDOW: Final = timedelta(minutes=1)
RETRY_UNKNOWN_S: Final = 60
"""When nothing was drained lately there is nothing to reckon with."""
RETRY_MAX_S: Final = 600


class QuarantinedText(msgspec.Struct, frozen=True, array_like=True):
    """A refused line as it may be kept."""

    line: int
    code: str
    detail: str
    text: str
    is_replayable: bool


class Payload(msgspec.Struct, frozen=True):
    """What of a batch is yet to be stored; all of it scrubbed."""

    rows: dict[str, list[tuple[Any, ...]]]  # Any: a row's values, see store.copy.Row
    summaries: list[Summary]
    quarantined: list[QuarantinedText]
    traces: dict[str, TraceFacts] = msgspec.field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SpoolState:
    """What waits. ``oldest_at`` is the arrival of the oldest that is not set aside."""

    batch_count: int
    row_count: int
    payload_bytes: int
    set_aside_count: int
    oldest_at: datetime | None
    newest_at: datetime | None

    @property
    def waiting_count(self) -> int:
        """Batches that the drainer will take."""
        return self.batch_count - self.set_aside_count


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(Payload)


def pack(payload: Payload) -> bytes:
    """The bytes of a payload."""
    return zstandard.compress(_ENCODER.encode(payload), ZSTD_LEVEL)


def unpack(data: bytes) -> Payload:
    """The payload of its bytes. Errors: ZstdError, msgspec.MsgspecError."""
    return _DECODER.decode(zstandard.decompress(data))


def quarantined_text(refused: Refused) -> QuarantinedText:
    """A refused line, scrubbed. It can be replayed when nothing of it was cut or changed."""
    raw = b"" if _CONTENT.search(refused.raw) else refused.raw
    text = scrub_raw(raw)
    # Of content nothing is kept, of a foreign span a description: neither can be judged again.
    is_line = raw.startswith(b"{") and not raw.startswith(_DESCRIBED)
    is_whole = text.encode("utf-8", errors="surrogatepass") == raw
    return QuarantinedText(
        refused.line, refused.code, refused.detail, text, is_replayable=is_line and is_whole
    )


def put(batch: IngestBatch, payload: Payload, group_id: int) -> None:
    """Keep what is to be stored of a ledger row's batch, in the caller's transaction.

    Errors: IngestError unavailable when the spool is full, with the time it takes to make room.
    """
    data = pack(payload)
    state = spool_state()
    over_rows = state.row_count + batch.spooled_count - settings.FLEET_SPOOL_MAX_ROWS
    over_bytes = state.payload_bytes + len(data) - settings.FLEET_SPOOL_MAX_BYTES
    if over_rows > 0 or over_bytes > 0:
        share = max(over_rows / max(1, state.row_count), over_bytes / max(1, state.payload_bytes))
        raise IngestError(
            "unavailable",
            "the database is overloaded and the spool is full",
            retry_after_s=_room_in_s(min(1.0, share) * state.row_count),
        )
    SpooledBatch.objects.create(
        install_id=batch.install_id,
        batch_id=batch.batch_id,
        group_id=group_id,
        payload=data,
        payload_bytes=len(data),
        row_count=batch.spooled_count,
        received_at=batch.received_at,
        not_before=batch.received_at,
    )


def spool_state() -> SpoolState:
    """What waits now; one query that reads no payload."""
    waiting = Q(set_aside_at=None)
    found = SpooledBatch.objects.aggregate(
        batches=Count("id"),
        rows=Sum("row_count"),
        size=Sum("payload_bytes"),
        aside=Count("id", filter=~waiting),
        oldest=Min("received_at", filter=waiting),
        newest=Max("received_at", filter=waiting),
    )
    return SpoolState(
        found["batches"],
        found["rows"] or 0,
        found["size"] or 0,
        found["aside"],
        found["oldest"],
        found["newest"],
    )


def _room_in_s(row_count: float) -> int:
    """Seconds until the drainer, as fast as it was in the last minute, has stored so many rows."""
    drained = IngestBatch.objects.filter(drained_at__gte=now() - RATE_WINDOW).aggregate(
        rows=Sum("received_count")
    )["rows"]
    if not drained:
        return RETRY_UNKNOWN_S
    rows_per_s = int(drained) / RATE_WINDOW.total_seconds()
    return min(RETRY_MAX_S, max(1, math.ceil(row_count / rows_per_s)))
