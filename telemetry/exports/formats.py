"""Rows to bytes: NDJSON, a JSON array, CSV, each plain or in gzip, and Parquet.

A writer takes pages and gives bytes, holds one page (Parquet: one row group) and makes the same
bytes of the same pages: a part that is written again after a death has the same digest.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, Final, Protocol

import msgspec

from telemetry.exports.columns import Column, Kind
from telemetry.exports.datasets import Dataset
from telemetry.exports.rows import MAX_INT, Page, Values
from telemetry.exports.spreadsheet import PARTERS, SUSPECT, inert
from telemetry.models import ExportFormat

ROW_GROUP_ROWS: Final = 15_000
"""About 8 MB of columns. Larger groups pack a little better and cost that much more memory."""
GZIP_LEVEL: Final = 5
"""Level 6 is half slower for one part in a hundred."""
CSV_END: Final = "\r\n"
_CSV_MARKS: Final = ('"', ",", "\r", "\n", "\x00")
SCHEMA_KEY: Final = b"hermes_fleet"


class Writer(Protocol):
    """Makes a file's bytes."""

    def start(self) -> bytes:
        """What stands before the first row."""

    def rows(self, page: Page) -> bytes:
        """A page's rows; may be held back until there are more."""

    def finish(self) -> bytes:
        """What was held back, and what stands after the last row."""


def extension_of(fmt: str, *, is_gzipped: bool) -> str:
    """How a file's name ends."""
    return f"{fmt}.gz" if is_gzipped and fmt != ExportFormat.PARQUET else fmt


def writer_of(fmt: str, dataset: Dataset, *, is_gzipped: bool) -> Writer:
    """The writer of one file. Errors: ValueError for a format that is none."""
    makers: dict[str, Callable[[Dataset], Writer]] = {
        ExportFormat.NDJSON.value: NdjsonWriter,
        ExportFormat.JSON.value: JsonWriter,
        ExportFormat.CSV.value: CsvWriter,
        ExportFormat.PARQUET.value: _parquet_writer,
    }
    if fmt not in makers:
        raise ValueError(f"no format {fmt}")
    writer = makers[fmt](dataset)
    return GzipWriter(writer) if is_gzipped and fmt != ExportFormat.PARQUET else writer


class NdjsonWriter:
    """One JSON object a line; every column is there, null where it is not known."""

    def __init__(self, dataset: Dataset) -> None:
        names = [column.name for column in dataset.columns]
        # A class a dataset: its field names are escaped once, and a row is one call.
        self._row = msgspec.defstruct("Row", [(name, Any) for name in names], gc=False)
        self._encoder = msgspec.json.Encoder()

    def start(self) -> bytes:
        """Nothing."""
        return b""

    def rows(self, page: Page) -> bytes:
        """A line a row."""
        return self._encoder.encode_lines(list(map(self._row, *page.columns)))

    def finish(self) -> bytes:
        """Nothing."""
        return b""


class JsonWriter:
    """One JSON array of the same objects, a line each."""

    def __init__(self, dataset: Dataset) -> None:
        self._lines = NdjsonWriter(dataset)
        self._is_first = True

    def start(self) -> bytes:
        """The bracket."""
        return b"["

    def rows(self, page: Page) -> bytes:
        """The rows, parted from those before. A line's end never stands inside a JSON text."""
        text = self._lines.rows(page)
        if not text:
            return b""
        before = b"\n" if self._is_first else b",\n"
        self._is_first = False
        return before + text[:-1].replace(b"\n", b",\n")

    def finish(self) -> bytes:
        """The other bracket."""
        return b"\n]\n"


class CsvWriter:
    """RFC 4180 in UTF-8 with a header; nothing in a cell is "not known", texts are made inert.

    Column by column, not by the standard library's writer: whether a cell needs quotes is asked of
    a column's text as a whole, which takes a tenth of the time.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._columns = dataset.columns

    def start(self) -> bytes:
        """The header."""
        return (",".join(column.name for column in self._columns) + CSV_END).encode()

    def rows(self, page: Page) -> bytes:
        """A record a row."""
        cells = map(_cells, self._columns, page.columns)
        lines = map(",".join, zip(*cells, strict=True))
        return "".join(f"{line}{CSV_END}" for line in lines).encode("utf-8", "replace")

    def finish(self) -> bytes:
        """Nothing."""
        return b""


def _cells(column: Column, values: Values) -> Sequence[str]:
    """A column's cells as they are written."""
    if column.kind == "time":
        return [iso(value) if value else "" for value in values]
    if column.kind == "flag":
        return ["" if value is None else "true" if value else "false" for value in values]
    if column.kind in {"int", "float"}:
        has_gap = None in values
        return ["" if v is None else str(v) for v in values] if has_gap else list(map(str, values))
    texts = [value or "" for value in values] if None in values else values
    whole = "".join(texts)
    is_plain = not any(mark in whole for mark in (*_CSV_MARKS, *PARTERS))
    if is_plain and SUSPECT.isdisjoint({text[:1] for text in texts}):
        return texts
    made = {text: _quoted(inert(text)) for text in set(texts)}
    return [made[text] for text in texts]


def _quoted(text: str) -> str:
    if any(mark in text for mark in _CSV_MARKS):
        return '"' + text.replace('"', '""') + '"'
    return text


def iso(moment: datetime) -> str:
    """A time as every text format has it: RFC 3339, UTC."""
    return moment.isoformat().replace("+00:00", "Z")


class GzipWriter:
    """Another writer's bytes in gzip, with no time and no name in its head."""

    def __init__(self, inner: Writer) -> None:
        self._inner = inner
        self._packer = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)

    def start(self) -> bytes:
        """What the inner one starts with."""
        return self._packer.compress(self._inner.start())

    def rows(self, page: Page) -> bytes:
        """A page's rows, as far as they are packed."""
        return self._packer.compress(self._inner.rows(page))

    def finish(self) -> bytes:
        """The rest."""
        return self._packer.compress(self._inner.finish()) + self._packer.flush()


def _parquet_writer(dataset: Dataset) -> Writer:
    return ParquetWriter(dataset)


class ParquetWriter:
    """Parquet with typed columns, zstd, and row groups of ROW_GROUP_ROWS."""

    def __init__(self, dataset: Dataset) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        self._arrow = pa
        self._columns = dataset.columns
        self._schema = arrow_schema(dataset)
        self._out = _Sink()
        # Without the system's allocator Arrow keeps what it has freed, by the dozen of megabytes.
        self._pool = pa.system_memory_pool()
        self._writer = parquet.ParquetWriter(
            self._out,
            self._schema,
            compression="zstd",
            compression_level=1,
            use_dictionary=[column.name for column in self._columns if column.kind == "text"],
            memory_pool=self._pool,
        )
        self._held: list[Any] = []  # Any: pyarrow carries no types
        self._held_count = 0

    def start(self) -> bytes:
        """The magic bytes."""
        return self._out.taken()

    def rows(self, page: Page) -> bytes:
        """A row group when enough rows came together; else nothing yet."""
        arrays = [
            self._arrow.array(_arrow_values(column, values), field.type, memory_pool=self._pool)
            for column, values, field in zip(self._columns, page.columns, self._schema, strict=True)
        ]
        self._held.append(self._arrow.record_batch(arrays, schema=self._schema))
        self._held_count += page.row_count
        if self._held_count >= ROW_GROUP_ROWS:
            self._write_group()
        return self._out.taken()

    def finish(self) -> bytes:
        """The last row group and the footer."""
        self._write_group()
        self._writer.close()
        return self._out.taken()

    def _write_group(self) -> None:
        if self._held:
            table = self._arrow.Table.from_batches(self._held, self._schema)
            self._held, self._held_count = [], 0
            self._writer.write_table(table, row_group_size=2 * ROW_GROUP_ROWS)


class _Sink(io.RawIOBase):
    """A file that gives away what was written."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[bytes] = []
        self._size_bytes = 0

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: Any) -> int:  # noqa: ANN401 -- whatever has bytes
        """Take a piece."""
        piece = bytes(data)
        self._parts.append(piece)
        self._size_bytes += len(piece)
        return len(piece)

    def tell(self) -> int:
        """How many bytes came so far."""
        return self._size_bytes

    def taken(self) -> bytes:
        """What was written since the last call."""
        data = b"".join(self._parts)
        self._parts = []
        return data


_ARROW: Final[dict[Kind, str]] = {
    "uuid": "string",
    "id": "string",
    "text": "string",
    "json": "string",
    "digest": "string",
    "int": "int64",
    "float": "float64",
    "flag": "bool_",
}


def arrow_schema(dataset: Dataset) -> Any:  # noqa: ANN401 -- pyarrow carries no types
    """The Parquet schema; units stand in the fields' metadata."""
    import pyarrow as pa

    fields = [
        pa.field(
            column.name,
            pa.timestamp("us", tz="UTC")
            if column.kind == "time"
            else getattr(pa, _ARROW[column.kind])(),
            metadata={"kind": column.kind, "unit": column.unit},
        )
        for column in dataset.columns
    ]
    return pa.schema(fields, metadata={SCHEMA_KEY: dataset.name})


def _arrow_values(column: Column, values: Values) -> Values:
    """What fits 64 bits; SQLite's columns hold whatever was once put into them."""
    if column.kind != "int":
        return values
    return [_int64(value) for value in values] if _has_huge(values) else values


def _has_huge(values: Sequence[Any]) -> bool:
    known = [value for value in values if value is not None]
    return bool(known) and (max(known) > MAX_INT or min(known) < -MAX_INT - 1)


def _int64(value: int | None) -> int | None:
    return value if value is None or -MAX_INT - 1 <= value <= MAX_INT else None


def pieces(writer: Writer, pages: Iterator[Page]) -> Iterator[bytes]:
    """A whole file's bytes, piece by piece."""
    yield writer.start()
    for page in pages:
        yield writer.rows(page)
    yield writer.finish()
