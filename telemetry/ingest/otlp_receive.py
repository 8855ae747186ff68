"""receive_spans(): one OTLP request becomes one batch of the ledger, with its receipt.

OTLP has no batch id. It is made from the install and the content, so that what an exporter sends
again after a lost answer is answered from the ledger; spans that come again in other company are
known by their rows' keys.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Final
from uuid import UUID

from telemetry.ingest.decode import Body
from telemetry.ingest.otlp_json import decode_json
from telemetry.ingest.otlp_mapping import map_spans
from telemetry.ingest.otlp_protobuf import decode_protobuf
from telemetry.ingest.otlp_spans import Decoded
from telemetry.ingest.receive import BatchHeader, Outcome, receive_judged
from telemetry.ingest.validate import TimeBounds, Verdicts

MEDIA_PROTOBUF: Final = "application/x-protobuf"
MEDIA_JSON: Final = "application/json"
DECODERS: Final[Mapping[str, Callable[[bytes], Decoded]]] = {
    MEDIA_PROTOBUF: decode_protobuf,
    MEDIA_JSON: decode_json,
}
"""How the spans of a body are read, by its type; each raises IngestError malformed_body and
too_many_lines."""
_BATCH_PREFIX: Final = b"hermes-otlp-batch-v1"


def batch_id_of(install_id: UUID, media: str, body: Body) -> UUID:
    """The id of a request's batch: UUIDv8 (RFC 9562) of install and decoded content."""
    parts = (_BATCH_PREFIX, install_id.bytes, media.encode(), body.content_sha256.encode())
    digest = bytearray(hashlib.sha256(b"\0".join(parts)).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x80
    digest[8] = digest[8] & 0x3F | 0x80
    return UUID(bytes=bytes(digest))


def receive_spans(header: BatchHeader, body: Body, decoded: Decoded) -> Outcome:
    """Take in the spans of one request, or answer a repeated one from the ledger.

    Errors: IngestError unavailable when the database is overloaded and the spool full.
    """
    return receive_judged(header, body, lambda bounds: _judge(decoded, bounds))


def _judge(decoded: Decoded, bounds: TimeBounds) -> Verdicts:
    """The rows of the spans, and the traces whose runs are put together when they are stored."""
    mapped = map_spans(decoded, bounds)
    stored_count = sum(map(len, mapped.rows.values())) + len(mapped.traces)
    return Verdicts(
        stored_count + len(mapped.refused), mapped.rows, mapped.refused, traces=mapped.traces
    )
