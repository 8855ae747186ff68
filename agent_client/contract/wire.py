"""What crosses the wire: paths, headers, limits, codes and the receipt.

Source: RFC 9110 (ETag, Retry-After), RFC 7240 (Prefer), RFC 9457 (problem+json),
RFC 9562 (UUIDv7), the Idempotency-Key draft.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Final

# Paths, relative to the console's origin.
PATH_DISCOVERY: Final = "/.well-known/hermes-fleet"
PATH_ENROLL: Final = "/api/v1/enroll"
PATH_TELEMETRY: Final = "/api/v1/telemetry"
PATH_POLICY_ROOT: Final = "/api/v1/policy/root"
PATH_POLICY_ASSIGNMENT: Final = "/api/v1/policy/assignment"
PATH_POLICY_BUNDLE: Final = "/api/v1/policy/bundles/"
PATH_CHECKIN: Final = "/api/v1/checkin"
PATH_CREDENTIALS: Final = "/api/v1/installs/self/credentials"

MEDIA_NDJSON: Final = "application/x-ndjson"
MEDIA_PROBLEM: Final = "application/problem+json"
MEDIA_DSSE: Final = "application/vnd.dsse.envelope.v1+json"

HEADER_IDEMPOTENCY: Final = "Idempotency-Key"
HEADER_PLANE: Final = "Telemetry-Plane"
HEADER_SCHEMA: Final = "Telemetry-Schema"
HEADER_CONSENT: Final = "Telemetry-Consent"
HEADER_LOSSES: Final = "Telemetry-Losses"
HEADER_SEQUENCE: Final = "Telemetry-Sequence"
HEADER_DIGEST: Final = "Content-Digest"
"""RFC 9530, ``sha-256=:<base64>:`` over the body as sent; optional, verified when present."""

PLANES: Final = ("local", "aggregate", "trajectories")
SCHEMA_VERSION: Final = 1

MAX_BODY_BYTES: Final = 8 * 1024 * 1024
"""Compressed, on the wire; a push sizes its batches below it."""
MAX_DECODED_BYTES: Final = 64 * 1024 * 1024
"""Counted while streaming; real telemetry compresses up to 141 times, so no ratio limit."""
MAX_LINES: Final = 50_000
MAX_LINE_BYTES: Final = 1024 * 1024
MAX_DEPTH: Final = 64
MAX_FUTURE_S: Final = 24 * 3600
"""A clock further ahead is wrong, and its rows would sit in partitions nobody looks at."""
MAX_REJECTED_LISTED: Final = 100
"""Rejections listed in a receipt; the counts by code are always complete."""
MIN_SEQUENCE: Final = 0

# Scopes of an install's credential.
SCOPE_PUSH: Final = "push"
SCOPE_POLICY: Final = "policy:read"
SCOPE_REPORT: Final = "report:write"
SCOPES: Final = (SCOPE_PUSH, SCOPE_POLICY, SCOPE_REPORT)

PROBLEM_TYPE_BASE: Final = "urn:hermes-fleet:problem:"
"""``type`` of a problem document is this followed by one of PROBLEM_CODES."""

PROBLEM_CODES: Final[Mapping[str, tuple[int, str]]] = {
    "malformed": (400, "The request is not well-formed"),
    "malformed_body": (400, "The body cannot be decoded"),
    "batch_id_missing": (400, "Idempotency-Key is missing or not a UUID"),
    "digest_mismatch": (400, "The body does not match its Content-Digest"),
    "unknown_plane": (400, "Telemetry-Plane is not local, aggregate or trajectories"),
    "unsupported_schema": (400, "Telemetry-Schema is not served by this console"),
    "credential_missing": (401, "No credential was sent"),
    "credential_unknown": (401, "The credential is not known"),
    "credential_expired": (401, "The credential has expired"),
    "credential_revoked": (401, "The credential was revoked"),
    "token_unknown": (401, "The enrollment token is not known"),
    "token_expired": (401, "The enrollment token has expired"),
    "token_revoked": (401, "The enrollment token was revoked"),
    "forbidden": (403, "Not allowed"),
    "plane_closed": (403, "This plane is closed for this install"),
    "scope": (403, "The credential lacks the scope"),
    "install_erased": (403, "This install was erased on this console"),
    "token_exhausted": (403, "The enrollment token has been used up"),
    "cidr_denied": (403, "The enrollment token does not allow this address"),
    "not_found": (404, "No such resource"),
    "method_not_allowed": (405, "Method not allowed"),
    "install_exists": (409, "This install id belongs to another machine"),
    "batch_mismatch": (409, "This batch id was used for other content"),
    "sequence_fork": (409, "The check-in's sequence was already used"),
    "base_stale": (409, "The base revision is no longer the newest"),
    "body_too_large": (413, "The body is larger than the limit"),
    "decoded_too_large": (413, "The decompressed body is larger than the limit"),
    "too_many_lines": (413, "The batch has more lines than the limit"),
    "unsupported_media_type": (415, "The content type is not supported"),
    "unsupported_encoding": (415, "The content encoding is not supported"),
    "invalid": (422, "The request was understood and refused"),
    "client_too_old": (426, "The agent client is too old for this console"),
    "rate_limited": (429, "Too many requests"),
    "internal": (500, "The console failed"),
    "unavailable": (503, "The console cannot take this now"),
}
"""Every code an API answer can carry: status and title."""

LINE_CODES: Final[Mapping[str, str]] = {
    "malformed_line": "not a JSON object",
    "line_too_long": "longer than 1 MiB",
    "too_deep": "nested deeper than 64 levels",
    "unknown_kind": "_kind names no table of the contract",
    "missing_field": "a required field is missing or empty",
    "wrong_type": "a field has the wrong type",
    "too_long": "a text field is longer than its bound",
    "out_of_range": "a number is outside its bounds",
    "invalid_text": "a text holds NUL or a lone surrogate",
    "invalid_value": "a value is not one of its list, or no identifier",
    "unknown_field": "the record's type has no such field",
    "time_in_future": "more than 24 hours ahead of the console's clock",
    "time_too_old": "older than the console's retention",
}
"""Why one line was refused; the batch goes on."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """One refused line: its number (from 1), a code of LINE_CODES and the column, never a value."""

    line: int
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a batch; sent only when every accepted row is durable.

    Shape: ``accepted`` counts rows by table that are now stored by this batch
    (inserted or merged), ``duplicates`` rows that were there already or older.
    received = sum(accepted) + duplicates + sum(rejected_counts).
    ``spooled``: the console was overloaded and keeps the accepted rows in its spool. They are as
    durable as any and count as accepted; which of them are duplicates is only seen later, and the
    receipt stays what it is.
    """

    batch_id: str
    received: int
    accepted: dict[str, int] = field(default_factory=dict)
    duplicates: int = 0
    rejected: tuple[Rejection, ...] = ()
    rejected_counts: dict[str, int] = field(default_factory=dict)
    policy_etag: str = ""
    spooled: bool = False

    def to_dict(self) -> dict[str, object]:
        """The JSON object of the answer; ``spooled`` only when it is true."""
        data = asdict(self)
        if not self.spooled:
            del data["spooled"]
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Receipt:
        """A receipt from the console's JSON; unknown keys are ignored.

        Errors: ValueError when it is not a receipt.
        """
        accepted, counts = data.get("accepted"), data.get("rejected_counts", {})
        listed, received = data.get("rejected", []), data.get("received")
        duplicates = data.get("duplicates", 0)
        if (
            not isinstance(accepted, dict)
            or not isinstance(counts, dict)
            or not isinstance(listed, list | tuple)
            or not isinstance(received, int)
            or not isinstance(duplicates, int)
        ):
            raise ValueError("not a receipt")  # noqa: TRY004  # one error for one broken promise
        try:
            return cls(
                batch_id=str(data.get("batch_id", "")),
                received=received,
                accepted={str(name): int(count) for name, count in accepted.items()},
                duplicates=duplicates,
                rejected=tuple(
                    Rejection(int(item["line"]), str(item["code"]), str(item.get("detail", "")))
                    for item in listed
                ),
                rejected_counts={str(code): int(count) for code, count in counts.items()},
                policy_etag=str(data.get("policy_etag", "")),
                spooled=data.get("spooled") is True,
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError("not a receipt") from error


@dataclass(frozen=True, slots=True)
class Discovery:
    """``GET /.well-known/hermes-fleet``: what an agent needs before it enrolls."""

    fleet_id: str
    api_base: str
    server_time_ns: int
    poll_seconds: int
    min_client: str
    root_fingerprint: str
    max_body_bytes: int = MAX_BODY_BYTES
    max_decoded_bytes: int = MAX_DECODED_BYTES
    max_lines: int = MAX_LINES
    max_line_bytes: int = MAX_LINE_BYTES

    def to_dict(self) -> dict[str, object]:
        """The JSON object of the answer, limits nested under ``limits``."""
        data = asdict(self)
        names = [name for name in data if name.startswith("max_")]
        return {
            **{name: value for name, value in data.items() if name not in names},
            "limits": {name: data[name] for name in names},
        }
