"""Counts what was taken in, for the console's metrics: batches, rows and bytes, of receipts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fleet.watch.figures import count_batch, count_repeat
from telemetry.ingest.decode import Body
from telemetry.ingest.receive import Outcome


def count_outcome(outcome: Outcome, body: Body, *, plane: str) -> None:
    """One batch that has its receipt; the rows of a repeat are not counted again."""
    if outcome.is_replay:
        count_repeat(plane)
        return
    receipt: Mapping[str, Any] = outcome.receipt  # Any: JSON, as the ledger keeps it
    count_batch(
        plane,
        accepted_count=sum(receipt.get("accepted", {}).values()),
        duplicate_count=int(receipt.get("duplicates", 0)),
        rejected_count=sum(receipt.get("rejected_counts", {}).values()),
        wire_bytes=body.wire_bytes,
        decoded_bytes=len(body.data),
        is_spooled=bool(receipt.get("spooled", False)),
    )
