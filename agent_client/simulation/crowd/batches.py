"""An install's rows as batches for the wire: by the real encoder, under ids that can be derived."""

from __future__ import annotations

import base64
import gzip
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from agent_client.contract.tables import BY_NAME
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
from agent_client.encoding import RowEncoder, Values
from agent_client.simulation.crowd.making import Made, without_superseded
from agent_client.simulation.crowd.members import Member

MAX_BATCH_ROWS: Final = 2_000
"""Rows of a batch at most: what the benchmarks push, and less than the real client's 5,000."""
GZIP_LEVEL: Final = 1
"""One process stands for ten thousand machines; the console sees the same content."""
ZSTD_LEVEL: Final = 1


@dataclass(frozen=True, slots=True)
class CrowdBatch:
    """A batch as it is sent, again and again. ``new_counts``: rows by table that no earlier had."""

    batch_id: str
    row_count: int
    counts: dict[str, int]
    new_counts: dict[str, int]
    headers: dict[str, str]
    body: bytes = field(repr=False)


def has_zstd() -> bool:
    """Whether batches can be compressed with zstd here."""
    try:
        import zstandard
    except ImportError:
        return False
    return bool(zstandard.__version__)


class Packer:
    """Packs rows of all installs: what an encoder has learnt of names serves every one."""

    def __init__(self, mark: str, *, is_zstd_there: bool) -> None:
        self._mark = mark
        self._is_zstd_there = is_zstd_there
        self._encoders = {name: RowEncoder(table) for name, table in BY_NAME.items()}

    def pack(self, member: Member, made: Sequence[Made]) -> CrowdBatch:
        """One batch; its id and bytes are a function of the rows, its last row's time included."""
        rows = without_superseded(list(made))
        by_table: dict[str, list[Values]] = {}
        for row in rows:
            by_table.setdefault(row.table.name, []).append(row.values)
        blocks = [self._encoders[name].block(found, "\n") for name, found in by_table.items()]
        plain = ("\n".join(blocks) + "\n").encode("ascii")
        encoding, body = self._compressed(member, plain)
        first, last = made[0].values[0], made[-1].values[0]
        at_ms = made[-1].at_ns // 1_000_000 + member.habits.skew_ms
        batch_id = derived_batch_id(f"{self._mark}/{member.install_id}/{first}-{last}", at_ms)
        # Copies too: a run's first may be in an earlier batch, or be replaced in this one.
        new = Counter(row.table.name for row in made if row.is_new)
        return CrowdBatch(
            batch_id,
            len(rows),
            {name: len(found) for name, found in by_table.items()},
            dict(new),
            _headers(member, batch_id, f"{first}-{last}", encoding, body),
            body,
        )

    def _compressed(self, member: Member, plain: bytes) -> tuple[str, bytes]:
        if member.is_zstd and self._is_zstd_there:
            import zstandard

            return "zstd", zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(plain)
        return "gzip", gzip.compress(plain, GZIP_LEVEL, mtime=0)


def _headers(
    member: Member, batch_id: str, sequence: str, encoding: str, body: bytes
) -> dict[str, str]:
    digest = base64.b64encode(hashlib.sha256(body).digest()).decode("ascii")
    return {
        "Content-Type": MEDIA_NDJSON,
        "Content-Encoding": encoding,
        HEADER_IDEMPOTENCY: batch_id,
        HEADER_PLANE: "local",
        HEADER_SCHEMA: str(SCHEMA_VERSION),
        HEADER_CONSENT: f'{{"consent_state":"{member.persona.consent}"}}',
        HEADER_LOSSES: "{}",
        HEADER_SEQUENCE: sequence,
        HEADER_DIGEST: f"sha-256=:{digest}:",
    }


def derived_batch_id(name: str, at_ms: int) -> str:
    """A UUIDv7 (RFC 9562, section 5.7) whose 74 random bits follow from a name."""
    chance = int.from_bytes(hashlib.sha256(name.encode()).digest()[:10], "big")
    value = (max(at_ms, 0) & (2**48 - 1)) << 80 | chance
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    text = f"{value:032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
