"""store_summaries(): the aggregate plane's records, each once; a later copy replaces an earlier.

No COPY and no partitions: a run makes one of them where it makes a hundred rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import batched
from typing import Final

from fleet.lib.clock import ns_to_datetime
from telemetry.models import AggregateRecord
from telemetry.store.copy import CopyCounts, Stamp

CHUNK: Final = 500
"""Ids of one query: SQLite takes a bounded number of parameters."""

type Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Summary:
    """One accepted record; ``data`` has every field of its kind."""

    kind: str
    record_id: str
    seq: int
    occurred_ns: int
    data: dict[str, object]

    @property
    def key(self) -> Key:
        """What identifies it within its install."""
        return self.kind, self.record_id


def store_summaries(
    summaries: Sequence[Summary], stamp: Stamp
) -> tuple[CopyCounts, dict[str, int]]:
    """Store the summaries of one batch; what became of them, and the accepted ones by kind.

    Must run inside the install's transaction: nobody else writes its records in between.
    """
    newest = _newest(summaries)
    held = _held(newest, stamp)
    fresh = [item for key, item in newest.items() if key not in held]
    later = [item for key, item in newest.items() if key in held and item.seq > held[key].seq]
    AggregateRecord.objects.bulk_create(
        [_filled(AggregateRecord(), item, stamp) for item in fresh], batch_size=CHUNK
    )
    AggregateRecord.objects.bulk_update(
        [_filled(held[item.key], item, stamp) for item in later],
        ["seq", "occurred_at", "data", "batch_id", "received_at"],
        batch_size=CHUNK,
    )
    accepted = Counter(item.kind for item in (*fresh, *later))
    unchanged = len(summaries) - len(fresh) - len(later)
    return CopyCounts(len(fresh), len(later), unchanged), dict(accepted)


def _newest(summaries: Iterable[Summary]) -> dict[Key, Summary]:
    """Of several copies in one batch the highest seq, then the first line."""
    best: dict[Key, Summary] = {}
    for item in summaries:
        known = best.get(item.key)
        if known is None or item.seq > known.seq:
            best[item.key] = item
    return best


def _held(wanted: Iterable[Key], stamp: Stamp) -> dict[Key, AggregateRecord]:
    held: dict[Key, AggregateRecord] = {}
    by_kind: dict[str, list[str]] = {}
    for kind, record_id in wanted:
        by_kind.setdefault(kind, []).append(record_id)
    for kind, record_ids in by_kind.items():
        for some in batched(record_ids, CHUNK):
            rows = AggregateRecord.objects.filter(
                install_id=stamp.install_id, kind=kind, record_id__in=some
            )
            held.update({(row.kind, row.record_id): row for row in rows.defer("data")})
    return held


def _filled(row: AggregateRecord, item: Summary, stamp: Stamp) -> AggregateRecord:
    row.install_id, row.batch_id = stamp.install_id, stamp.batch_id
    row.kind, row.record_id, row.seq = item.kind, item.record_id, item.seq
    row.occurred_at = ns_to_datetime(item.occurred_ns)
    row.received_at = stamp.received_at
    row.data = item.data
    return row
