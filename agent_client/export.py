"""Rows on their way out: NDJSON or JSON, every string redacted, failing closed.

One line is ``{"_kind": <table>, "seq": n, <columns>}``; a file written here is
what ``push`` sends, byte for byte. Nothing but the contract's columns can leave.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final, Literal

from agent_client.contract.redact import UNAVAILABLE, redact_record
from agent_client.contract.tables import EVENT_TABLES
from agent_client.store import Row, Store, StoreError

MAX_BATCH_ROWS: Final = 5_000
MAX_BATCH_BYTES: Final = 6_000_000
"""Below the console's 8 MiB even if nothing compressed."""
UNAVAILABLE_BYTES: Final = UNAVAILABLE.encode("ascii")
REDACTOR_MISSING: Final = (
    "secrets cannot be removed on this machine, so nothing is sent; "
    "install google-re2 into the agent's environment and run 'hermes-telemetry doctor'"
)
CONTENT_CLOSED: Final = (
    "content was asked for, but the trajectories plane is off (telemetry.trajectories.enabled); "
    "only the structural records are exported"
)


@dataclass(frozen=True, slots=True)
class Batch:
    """Encoded rows in ``seq`` order: NDJSON bytes, uncompressed, and the range they cover."""

    body: bytes
    first_seq: int
    last_seq: int
    row_count: int
    counts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ExportReport:
    """Records written by table, and what the caller has to be told."""

    counts: dict[str, int]
    warnings: tuple[str, ...] = ()


def encode(row: Row) -> bytes:
    """One redacted record as JSON, without the line end."""
    record = redact_record(row.record())
    return json.dumps(record, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def next_batch(
    store: Store,
    *,
    after_seq: int,
    max_rows: int = MAX_BATCH_ROWS,
    max_bytes: int = MAX_BATCH_BYTES,
) -> Batch | None:
    """The next rows past a cursor as one batch; None when there are none.

    Errors: sqlite3.Error; StoreError when the redactor cannot run: rows sent without their ids
    could never be put right on the console, so they wait here.
    """
    lines: list[bytes] = []
    counts: dict[str, int] = {}
    size, last_seq, first_seq = 0, after_seq, 0
    for row in store.rows_after(after_seq, max_rows):
        line = encode(row)
        if UNAVAILABLE_BYTES in line:
            raise StoreError(REDACTOR_MISSING)
        if lines and size + len(line) + 1 > max_bytes:
            break
        lines.append(line)
        size += len(line) + 1
        first_seq = first_seq or row.seq
        last_seq = row.seq
        counts[row.table.name] = counts.get(row.table.name, 0) + 1
    if not lines:
        return None
    return Batch(b"\n".join(lines) + b"\n", first_seq, last_seq, len(lines), counts)


def export(
    out: BinaryIO,
    *,
    fmt: Literal["ndjson", "json"] = "ndjson",
    since_ns: int | None = None,
    include_content: bool = False,
    config: object = None,
    home: Path,
) -> ExportReport:
    """Stream the local plane to ``out`` in constant memory; never anything but redacted records.

    ``since_ns`` windows every table. Content travels only with the trajectories plane on.
    Errors: OSError from ``out``, StoreError.
    """
    del config  # the trajectories gate opens with the content export of the next step
    warnings = (CONTENT_CLOSED,) if include_content else ()
    counts: dict[str, int] = {}
    # Closed before the store: a reader that goes away leaves the generator in the middle.
    with Store(home) as store, closing(_lines(store, since_ns, counts)) as lines:
        if fmt == "json":
            out.write(b'{"records": [')
            joined = ((b",\n" if number else b"\n") + line for number, line in enumerate(lines))
            out.writelines(joined)
            out.write(b"\n]}\n")
        else:
            out.writelines(line + b"\n" for line in lines)
    return ExportReport(counts, warnings)


def _lines(store: Store, since_ns: int | None, counts: dict[str, int]) -> Generator[bytes]:
    # One read transaction: a table written to meanwhile does not tear the file.
    connection: sqlite3.Connection = store.connection
    connection.execute("BEGIN")
    try:
        for table in EVENT_TABLES:
            for row in store.rows_since(table, since_ns):
                counts[table.name] = counts.get(table.name, 0) + 1
                yield encode(row)
    finally:
        connection.execute("COMMIT")
