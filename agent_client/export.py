"""Rows and sessions on their way out: NDJSON or JSON, every string redacted, failing closed.

One line is ``{"_kind": <table>, "seq": n, <columns>}``; a table's lines in a file
written here are what ``push`` sends, byte for byte. Nothing but the contract's
columns can leave. The host's sessions follow, with content only behind the
trajectories gate; ``content`` pushes them behind a gate of its own.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final, Literal

from agent_client.adopt import adopt_from_host
from agent_client.config import ClientConfig, load
from agent_client.contract.redact import UNAVAILABLE, redact_text
from agent_client.contract.tables import EVENT_TABLES, Table
from agent_client.encoding import RowEncoder, Values, encode
from agent_client.hostdb import tolerant_text
from agent_client.policy.posture import Posture, resolve
from agent_client.sessions import KIND, Scope, SessionReader
from agent_client.store import Row, Store, StoreError, database_path

__all__ = ["Batch", "ExportReport", "encode", "export", "is_redactor_missing", "next_batch"]

MAX_BATCH_ROWS: Final = 5_000
MAX_BATCH_BYTES: Final = 6_000_000
"""Below the console's 8 MiB even if nothing compressed."""
BLOCK_ROWS: Final = 250
"""Rows encoded at once: more is no faster, and is what the export holds in memory."""
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


class ExportReport(dict[str, int]):
    """Records written, by kind; ``warnings``: what the caller has to be told."""

    def __init__(self, counts: Mapping[str, int], warnings: Sequence[str] = ()) -> None:
        super().__init__(counts)
        self.warnings = tuple(warnings)

    @property
    def counts(self) -> dict[str, int]:
        """The counts alone."""
        return dict(self)


def is_redactor_missing() -> bool:
    """Whether nothing can be redacted here; a record may hold the mark of it for its own reasons.

    A value that nests too deeply has it, and so has a name that is spelled like it: neither may
    hold up what lies behind it.
    """
    return redact_text("") == UNAVAILABLE


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
    lines: list[str] = []
    counts: dict[str, int] = {}
    size, last_seq, first_seq = 0, after_seq, 0
    for row, line in _encoded(store.rows_after(after_seq, max_rows)):
        if UNAVAILABLE in line and is_redactor_missing():
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
    body = ("\n".join(lines) + "\n").encode("ascii")
    return Batch(body, first_seq, last_seq, len(lines), counts)


def _encoded(rows: Sequence[Row]) -> Iterator[tuple[Row, str]]:
    """Rows with their lines, in the order given."""
    encoders = {table.name: RowEncoder(table) for table in EVENT_TABLES}
    for start in range(0, len(rows), BLOCK_ROWS):
        block = rows[start : start + BLOCK_ROWS]
        by_table: dict[str, list[Values]] = {}
        for row in block:
            by_table.setdefault(row.table.name, []).append((row.seq, *row.values))
        lines = {name: iter(encoders[name].lines(values)) for name, values in by_table.items()}
        yield from ((row, next(lines[row.table.name])) for row in block)


def export(
    out: BinaryIO,
    *,
    fmt: Literal["ndjson", "json"] = "ndjson",
    since_ns: int | None = None,
    include_content: bool = False,
    config: ClientConfig | Mapping[str, object] | None = None,
    home: Path,
    on_progress: Callable[[int], None] | None = None,
) -> ExportReport:
    """Stream the local plane and the host's sessions to ``out`` in constant memory, redacted.

    ``since_ns`` windows every table, and sessions by their start. Content travels only with the
    trajectories plane on in ``config`` (None: the home's own, managed scope included).
    ``on_progress`` is told the number of records so far. Errors: OSError from ``out``, StoreError.
    """
    settings = load(home) if config is None else config
    posture = resolve(settings)
    is_unread = isinstance(settings, ClientConfig) and settings.unread != ""
    with_content = include_content and posture.trajectories_enabled and not is_unread
    adopt_from_host(home)
    writer = _Writer(out, is_json=fmt == "json", on_progress=on_progress)
    if database_path(home).exists():  # else nothing was recorded, and a reader makes no file
        with Store(home) as store:
            _write_tables(writer, store, since_ns)
    reader = SessionReader(home, _scope(posture, since_ns, with_content=with_content))
    for pieces in reader.records():
        writer.stream(KIND, pieces)
    writer.finish()
    closed = (CONTENT_CLOSED,) if include_content and not with_content else ()
    return ExportReport(writer.counts, closed + reader.warnings)


def _scope(posture: Posture, since_ns: int | None, *, with_content: bool) -> Scope:
    return Scope(since_ns, with_content, posture.content_redaction == "pii")


def _write_tables(writer: _Writer, store: Store, since_ns: int | None) -> None:
    # One read transaction: a table written to meanwhile does not tear the file.
    connection: sqlite3.Connection = store.connection
    connection.execute("BEGIN")
    try:
        for table in EVENT_TABLES:
            encoder = RowEncoder(table)
            for rows in _pages(connection, table, since_ns):
                writer.block(table.name, encoder.block(rows, writer.between), len(rows))
    finally:
        connection.execute("COMMIT")


def _pages(
    connection: sqlite3.Connection, table: Table, since_ns: int | None
) -> Iterator[list[Values]]:
    """A table's rows from ``since_ns`` on in ``seq`` order, ``seq`` first."""
    window = "" if since_ns is None else f" AND {table.time} >= :since"
    sql = (
        f"SELECT seq, {', '.join(table.column_names())} FROM {table.name} "
        f"WHERE seq > :last{window} ORDER BY seq LIMIT {BLOCK_ROWS}"
    )
    values: dict[str, object] = {"last": 0, "since": since_ns}
    while page := _read(connection, sql, values):
        yield page
        values["last"] = page[-1][0]


def _read(connection: sqlite3.Connection, sql: str, values: dict[str, object]) -> list[Values]:
    try:
        return connection.execute(sql, values).fetchall()
    except sqlite3.OperationalError as error:
        if "decode" not in str(error):
            raise
    # Another program's rows may hold text that is no UTF-8; reading all like this takes longer.
    usual = connection.text_factory
    connection.text_factory = tolerant_text
    try:
        return connection.execute(sql, values).fetchall()
    finally:
        connection.text_factory = usual


class _Writer:
    """Records to a stream, as lines or as one JSON object, counted by kind."""

    def __init__(
        self, out: BinaryIO, *, is_json: bool, on_progress: Callable[[int], None] | None
    ) -> None:
        self.counts: dict[str, int] = {}
        self._out = out
        self._on_progress = on_progress
        self.between, self._after, self._end = (
            (",\n", "", "\n]}\n") if is_json else ("\n", "\n", "")
        )
        self._lead = "\n" if is_json else ""
        if is_json:
            self._write('{"records": [')

    def block(self, kind: str, text: str, count: int) -> None:
        """Write whole records of one kind, with what stands between them."""
        self._write(self._lead + text + self._after)
        self._count(kind, count)

    def stream(self, kind: str, pieces: Iterable[str]) -> None:
        """Write one record from its pieces."""
        self._write(self._lead)
        for piece in pieces:
            self._write(piece)
        self._write(self._after)
        self._count(kind, 1)

    def finish(self) -> None:
        """Close what was opened."""
        self._write(self._end)

    def _count(self, kind: str, count: int) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + count
        if self._end:
            self._lead = self.between
        if self._on_progress is not None:
            self._on_progress(sum(self.counts.values()))

    def _write(self, text: str) -> None:
        if text:
            self._out.write(text.encode("ascii"))
