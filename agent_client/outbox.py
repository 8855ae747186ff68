"""The batch that is on its way: written and synced before the first send, re-sent byte for byte.

One file a plane, ``telemetry/push/outbox`` and ``outbox-aggregate``: a JSON line (batch id, range,
headers, digest) and the compressed body. What is sent again is what was sent before, under the same
id, whatever has been recorded, upgraded or configured since; that is what lets the console
recognise it.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from agent_client.contract.wire import (
    HEADER_CONSENT,
    HEADER_DIGEST,
    HEADER_IDEMPOTENCY,
    HEADER_LOSSES,
    HEADER_PLANE,
    HEADER_SCHEMA,
    HEADER_SEQUENCE,
    MEDIA_NDJSON,
    SCHEMA_VERSION,
)
from agent_client.export import Batch
from agent_client.files import read_bytes, set_aside, sync_dir, telemetry_dir, write_atomic

OUTBOX_FILE: Final = "outbox"
GZIP_LEVEL: Final = 6
"""Level 6 is 0.2 s for a full batch and a quarter smaller than level 1; pushes are rare."""


@dataclass(frozen=True, slots=True)
class Outbox:
    """One encoded batch. ``losses`` are the drops it reports; ``headers`` go out as they are.

    ``heartbeat_id`` and ``since_ns`` only of the aggregate plane: the heartbeat in it, and the
    consent under which it was made.
    """

    batch_id: str
    fleet_id: str
    install_id: str
    first_seq: int
    last_seq: int
    row_count: int
    counts: dict[str, int]
    losses: dict[str, int]
    headers: dict[str, str]
    body: bytes = field(repr=False)
    heartbeat_id: str = ""
    since_ns: int = 0


def push_dir(home: Path) -> Path:
    """Where the outbox, its lock and what was set aside lie."""
    return telemetry_dir(home) / "push"


def outbox_path(home: Path, plane: str = "local") -> Path:
    """The file of a plane's batch on its way."""
    return push_dir(home) / (OUTBOX_FILE if plane == "local" else f"{OUTBOX_FILE}-{plane}")


def new_batch_id(now_ns: int) -> str:
    """A UUIDv7 (RFC 9562, section 5.7): 48 bits of milliseconds, 74 random bits."""
    value = ((now_ns // 1_000_000) & (2**48 - 1)) << 80 | secrets.randbits(80)
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    text = f"{value:032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def encode_outbox(
    batch: Batch,
    *,
    batch_id: str,
    fleet_id: str,
    install_id: str,
    consent: Mapping[str, object],
    losses: Mapping[str, int],
    plane: str = "local",
) -> Outbox:
    """The batch as it will be sent, again and again. Pure."""
    body = gzip.compress(batch.body, GZIP_LEVEL, mtime=0)
    digest = base64.b64encode(hashlib.sha256(body).digest()).decode("ascii")
    return Outbox(
        batch_id=batch_id,
        fleet_id=fleet_id,
        install_id=install_id,
        first_seq=batch.first_seq,
        last_seq=batch.last_seq,
        row_count=batch.row_count,
        counts=dict(batch.counts),
        losses=dict(losses),
        headers={
            "Content-Type": MEDIA_NDJSON,
            "Content-Encoding": "gzip",
            HEADER_IDEMPOTENCY: batch_id,
            HEADER_PLANE: plane,
            HEADER_SCHEMA: str(SCHEMA_VERSION),
            HEADER_CONSENT: _compact(consent),
            HEADER_LOSSES: _compact(losses),
            HEADER_SEQUENCE: f"{batch.first_seq}-{batch.last_seq}",
            HEADER_DIGEST: f"sha-256=:{digest}:",
        },
        body=body,
    )


def write_outbox(home: Path, outbox: Outbox) -> None:
    """Keep the batch; on return it survives a power cut. Errors: OSError."""
    head = asdict(outbox)
    del head["body"]
    head["sha256"] = _digest_of(head, outbox.body)
    data = json.dumps(head, separators=(",", ":")).encode("ascii") + b"\n" + outbox.body
    write_atomic(outbox_path(home, outbox.headers[HEADER_PLANE]), data)


def read_outbox(home: Path, plane: str = "local") -> Outbox | None:
    """A plane's batch on its way; None when there is none. A damaged file is set aside.

    Its rows are not lost: they are past the cursor still and go under a new id.
    """
    data = read_bytes(outbox_path(home, plane))
    if data is None:
        return None
    head_text, _, body = data.partition(b"\n")
    try:
        head = json.loads(head_text)
        is_whole = head.pop("sha256") == _digest_of(head, body)
        outbox = Outbox(**head, body=body)
    except (ValueError, TypeError, KeyError, AttributeError):
        is_whole, outbox = False, None
    if not is_whole:
        set_outbox_aside(home, "damaged", plane)
    return outbox if is_whole else None


def _digest_of(head: Mapping[str, object], body: bytes) -> str:
    """Of both: one wrong digit in ``last_seq`` would move the cursor past rows that never left."""
    text = json.dumps(head, separators=(",", ":")).encode("ascii")
    return hashlib.sha256(text + b"\n" + body).hexdigest()


def clear_outbox(home: Path, plane: str = "local") -> None:
    """Forget an acknowledged batch; nothing happens when there is none."""
    path = outbox_path(home, plane)
    path.unlink(missing_ok=True)
    if path.parent.exists():
        sync_dir(path.parent)


def set_outbox_aside(home: Path, reason: str, plane: str = "local") -> None:
    """Keep the outbox under another name as evidence."""
    path = outbox_path(home, plane)
    if path.exists():
        set_aside(path, reason)


def purge_outbox(home: Path, plane: str) -> int:
    """Delete all of a plane that waits here, evidence and half-written files too; how many.

    Errors: OSError.
    """
    name = outbox_path(home, plane).name
    patterns = (name, f"{name}.*", f".{name}.*")
    found = [path for pattern in patterns for path in push_dir(home).glob(pattern)]
    for path in found:
        path.unlink(missing_ok=True)
    if found:
        sync_dir(push_dir(home))
    return len(found)


def _compact(value: Mapping[str, object] | Mapping[str, int]) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=True)
