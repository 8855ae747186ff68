"""The push as OpenAPI has it: its headers and its receipt."""

from __future__ import annotations

from typing import Final

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter

from agent_client.contract import wire
from telemetry.ingest.decode import ENCODINGS


def _header(
    name: str, what: str, *, kind: OpenApiTypes = OpenApiTypes.STR, is_required: bool = False
) -> OpenApiParameter:
    return OpenApiParameter(
        name, kind, OpenApiParameter.HEADER, required=is_required, description=what
    )


PUSH_HEADERS: Final = [
    _header(
        wire.HEADER_IDEMPOTENCY,
        "The batch's id; the same id again gets the same receipt.",
        kind=OpenApiTypes.UUID,
        is_required=True,
    ),
    OpenApiParameter(
        wire.HEADER_PLANE,
        OpenApiTypes.STR,
        OpenApiParameter.HEADER,
        required=True,
        enum=list(wire.PLANES),
    ),
    OpenApiParameter(
        wire.HEADER_SCHEMA,
        OpenApiTypes.STR,
        OpenApiParameter.HEADER,
        required=True,
        enum=[str(wire.SCHEMA_VERSION)],
    ),
    OpenApiParameter(
        "Content-Encoding", OpenApiTypes.STR, OpenApiParameter.HEADER, enum=list(ENCODINGS)
    ),
    _header(wire.HEADER_CONSENT, "The posture that allowed the batch, a JSON object."),
    _header(wire.HEADER_LOSSES, "Drops by reason since the last receipt, a JSON object."),
    _header(wire.HEADER_SEQUENCE, "The first and last row counter: 1-250."),
    _header(wire.HEADER_DIGEST, "The SHA-256 of the body as sent (RFC 9530)."),
]
_COUNT: Final = {"type": "integer", "minimum": 0}
_COUNTS: Final = {"type": "object", "additionalProperties": _COUNT}
RECEIPT: Final[dict[str, object]] = {
    "type": "object",
    "description": "received = sum(accepted) + duplicates + sum(rejected_counts).",
    "required": [
        *("batch_id", "received", "accepted", "duplicates", "rejected", "rejected_counts"),
        "policy_etag",
    ],
    "properties": {
        "batch_id": {"type": "string", "format": "uuid"},
        "received": _COUNT,
        "accepted": _COUNTS,
        "duplicates": _COUNT,
        "rejected": {
            "type": "array",
            "maxItems": wire.MAX_REJECTED_LISTED,
            "items": {
                "type": "object",
                "required": ["line", "code", "detail"],
                "properties": {
                    "line": {"type": "integer", "minimum": 1},
                    "code": {"type": "string", "enum": sorted(wire.LINE_CODES)},
                    "detail": {"type": "string"},
                },
            },
        },
        "rejected_counts": _COUNTS,
        "policy_etag": {"type": "string"},
    },
}
