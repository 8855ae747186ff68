"""What a push says about itself in its headers, checked in the documented order."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Final
from uuid import UUID

from agent_client.contract import wire
from agent_client.contract.tables import COUNT_MAX, TIME_MAX_NS
from fleet.lib.clock import now
from telemetry.ingest.decode import ENCODINGS, IngestError

MAX_HEADER_CHARS: Final = 4096
"""Consent and losses are a few hundred characters; the ledger keeps them with each batch."""
MAX_LOSS_REASONS: Final = 50
"""The agent's reasons are a closed list; a hostile one must not grow our rows without bound."""
OTHER_REASON: Final = "other"
_SHA_256: Final = re.compile(r"(?:^|,)\s*sha-256=:([A-Za-z0-9+/=]*):")
_SEQUENCE: Final = re.compile(r"([0-9]{1,19})-([0-9]{1,19})", re.ASCII)
_REASON: Final = re.compile(r"[a-z0-9_.:-]{1,60}", re.ASCII)
_WORD: Final = re.compile(r"[A-Za-z0-9_.:-]{1,20}", re.ASCII)
"""A value of the posture: shorter than any secret, so the ledger needs no scrubbing of it."""
_CONSENT_KEYS: Final = ("consent_state", "allow_aggregate", "trajectories", "policy_version")


@dataclass(frozen=True, slots=True)
class PushHeaders:
    """The headers of a push, typed. ``digest`` is what Content-Digest claims, b"" without one."""

    batch_id: UUID
    plane: str
    encoding: str
    schema_version: int
    digest: bytes = b""
    consent: Mapping[str, object] = field(default_factory=dict)
    losses: Mapping[str, int] = field(default_factory=dict)
    first_seq: int | None = None
    last_seq: int | None = None


def read_headers(headers: Mapping[str, str]) -> PushHeaders:
    """The headers of a push; ``headers`` looks names up without regard to case.

    Steps: content type, encoding, batch id, plane, schema, digest, then what is only recorded.
    Errors: IngestError unsupported_media_type, unsupported_encoding, batch_id_missing,
    unknown_plane, unsupported_schema, digest_mismatch, malformed.
    """
    media = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if media != wire.MEDIA_NDJSON:
        raise IngestError("unsupported_media_type", f"send {wire.MEDIA_NDJSON}")
    encoding = headers.get("Content-Encoding", "identity").strip().lower() or "identity"
    if encoding not in ENCODINGS:
        raise IngestError("unsupported_encoding", f"use one of {', '.join(ENCODINGS)}")
    batch_id = _batch_id(headers.get(wire.HEADER_IDEMPOTENCY, ""))
    plane = headers.get(wire.HEADER_PLANE, "")
    if plane not in wire.PLANES:
        raise IngestError("unknown_plane", f"use one of {', '.join(wire.PLANES)}")
    if headers.get(wire.HEADER_SCHEMA, "") != str(wire.SCHEMA_VERSION):
        raise IngestError("unsupported_schema", f"this console serves {wire.SCHEMA_VERSION}")
    first_seq, last_seq = _sequence(headers.get(wire.HEADER_SEQUENCE, ""))
    return PushHeaders(
        batch_id=batch_id,
        plane=plane,
        encoding=encoding,
        schema_version=wire.SCHEMA_VERSION,
        digest=_digest(headers.get(wire.HEADER_DIGEST, "")),
        consent=_consent(headers.get(wire.HEADER_CONSENT, "")),
        losses=_losses(headers.get(wire.HEADER_LOSSES, "")),
        first_seq=first_seq,
        last_seq=last_seq,
    )


def _batch_id(text: str) -> UUID:
    try:
        return UUID(text.strip().strip('"'))  # the header's draft writes it as a quoted string
    except ValueError:
        raise IngestError("batch_id_missing", "send the batch's UUID") from None


def _digest(text: str) -> bytes:
    """The claimed SHA-256 (RFC 9530); other algorithms are ignored, as the RFC allows."""
    match = _SHA_256.search(text)
    if match is None:
        if "sha-256=" in text:
            raise IngestError("digest_mismatch", "Content-Digest is not well-formed")
        return b""
    try:
        digest = base64.b64decode(match[1], validate=True)
    except binascii.Error:
        digest = b""
    if len(digest) != 32:
        raise IngestError("digest_mismatch", "Content-Digest is not well-formed")
    return digest


def _consent(text: str) -> dict[str, object]:
    """The posture that allowed the batch: known keys with plain values, nothing else."""
    data = _object(wire.HEADER_CONSENT, text)
    return {
        name: value
        for name in _CONSENT_KEYS
        if isinstance(value := data.get(name), bool | int)
        or (isinstance(value, str) and _WORD.fullmatch(value))
    }


def _losses(text: str) -> dict[str, int]:
    """Drops by reason; what is no count is left out, a reason we cannot name is ``other``."""
    data = _object(wire.HEADER_LOSSES, text)
    counts: dict[str, int] = {}
    for name, count in data.items():
        if isinstance(count, bool) or not isinstance(count, int) or not 0 < count <= COUNT_MAX:
            continue
        is_known = _REASON.fullmatch(name) and (name in counts or len(counts) < MAX_LOSS_REASONS)
        reason = name if is_known else OTHER_REASON
        counts[reason] = counts.get(reason, 0) + count
    return counts


def _object(name: str, text: str) -> dict[str, object]:
    if not text:
        return {}
    try:
        data = json.loads(text) if len(text) <= MAX_HEADER_CHARS else None
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise IngestError("malformed", f"{name} is not a JSON object")
    return data


def _sequence(text: str) -> tuple[int | None, int | None]:
    if not text:
        return None, None
    match = _SEQUENCE.fullmatch(text.strip())
    first, last = (int(match[1]), int(match[2])) if match else (1, 0)
    if first > last or last > TIME_MAX_NS:
        raise IngestError("malformed", f"{wire.HEADER_SEQUENCE} is not first-last")
    return first, last


def date_skew_ms(text: str) -> int | None:
    """The sender's clock minus ours, by its Date header (RFC 9110, 6.6.1); None without a good one.

    Whole seconds, and earlier by the time on the way: it can only look behind.
    """
    try:
        sent_at = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    if sent_at.tzinfo is None:
        return None
    return int((sent_at - now()).total_seconds() * 1000)
