"""Answers as OTLP/HTTP has them: the response of a signal, or a google.rpc.Status. Pure.

The type of an answer is that of its request. The few messages are written by hand: their protobuf
form is a handful of bytes, and the package that holds google.rpc is needed for nothing else.
Source: opentelemetry.io/docs/specs/otlp (OTLP/HTTP response), google/rpc/status.proto.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from agent_client.contract.wire import LINE_CODES

MEDIA_PROTOBUF: Final = "application/x-protobuf"
MEDIA_JSON: Final = "application/json"
_BAD_REQUEST: Final = "type.googleapis.com/google.rpc.BadRequest"
_INVALID_ARGUMENT: Final = 3
_GRPC_CODES: Final[Mapping[int, int]] = {
    400: _INVALID_ARGUMENT,
    401: 16,
    403: 7,
    404: 5,
    405: 12,
    409: 10,
    413: _INVALID_ARGUMENT,
    415: _INVALID_ARGUMENT,
    426: 9,
    429: 8,
    500: 13,
    503: 14,
}
"""google.rpc.Code by HTTP status; OTLP leaves the number to the server."""
_UNKNOWN: Final = 2


@dataclass(frozen=True, slots=True)
class Signal:
    """A signal's endpoint: its name in paths, and what its partial success counts."""

    name: str
    rejected_field: str
    items: str


TRACES: Final = Signal("traces", "rejectedSpans", "spans")
LOGS: Final = Signal("logs", "rejectedLogRecords", "log records")
METRICS: Final = Signal("metrics", "rejectedDataPoints", "data points")


def success(media: str, signal: Signal, rejected_count: int = 0, message: str = "") -> bytes:
    """The response of a signal; ``partial_success`` is only there when something was rejected."""
    if media == MEDIA_JSON:
        partial = {signal.rejected_field: str(rejected_count), "errorMessage": message}
        return _json({"partialSuccess": partial} if rejected_count else {})
    if not rejected_count:
        return b""
    return _message(1, _varint_field(1, rejected_count) + _message(2, message.encode()))


def status(media: str, http_status: int, message: str) -> bytes:
    """A google.rpc.Status; bad data gets the BadRequest detail that the standard asks for."""
    code = _GRPC_CODES.get(http_status, _UNKNOWN)
    is_bad_data = http_status == 400
    if media == MEDIA_PROTOBUF:
        found = _varint_field(1, code) + _message(2, message.encode())
        if is_bad_data:
            violation = _message(1, b"body") + _message(2, message.encode())
            any_of = _message(1, _BAD_REQUEST.encode()) + _message(2, _message(1, violation))
            found += _message(3, any_of)
        return found
    document: dict[str, object] = {"code": code, "message": message}
    if is_bad_data:
        violations = [{"field": "body", "description": message}]
        document["details"] = [{"@type": _BAD_REQUEST, "fieldViolations": violations}]
    return _json(document)


def rejection_text(counts: Mapping[str, int]) -> str:
    """Why spans were rejected, in words: counts by code, most frequent first."""
    listed = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    reasons = "; ".join(
        f"{count} {code} ({LINE_CODES.get(code, 'refused')})" for code, count in listed
    )
    return f"{reasons}. The operator finds them in the console's quarantine."


def _json(document: Mapping[str, object]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _message(field: int, data: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _varint_field(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
