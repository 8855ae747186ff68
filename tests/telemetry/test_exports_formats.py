"""Formats: each read back by a reader that others wrote, hostile values included, in one memory."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from pyarrow import parquet

from telemetry.exports import formats
from telemetry.exports.datasets import DATASETS, Dataset
from telemetry.exports.formats import arrow_schema, extension_of, writer_of
from telemetry.exports.rows import Page, page_of
from telemetry.exports.spreadsheet import inert
from telemetry.models import ExportFormat

CALLS = DATASETS["model_calls"]
AT = datetime(2026, 11, 28, 9, 0, 0, 123456, tzinfo=UTC)
HOSTILE = (
    *("=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "\nx", "=cmd|' /C calc'!A0", " =1"),
    *('a"b', "a,b", "a\nb", "a\r\nb", "nul\x00byte", "ünïcödé 🎉", "\u2028", "\\", "'", "", "null"),
    *("</script>", "[REDACTED:x]", "\uff1dHYPERLINK(1)", "\u00a0=1"),
)


def row_of(dataset: Dataset, **values: object) -> tuple[Any, ...]:  # Any: what a column holds
    by_kind = {"time": AT, "int": 7, "float": 1.5, "flag": True}
    return tuple(
        values.get(column.name, by_kind.get(column.kind, "x")) for column in dataset.columns
    )


def written(
    fmt: str,
    rows: list[tuple[Any, ...]],
    *,
    size: int = 2,
    is_gzipped: bool = False,
    dataset: Dataset = CALLS,
) -> bytes:
    writer = writer_of(fmt, dataset, is_gzipped=is_gzipped)

    def pages() -> Iterator[Page]:
        for at in range(0, len(rows), size):
            yield page_of(dataset, rows[at : at + size])

    return b"".join(formats.pieces(writer, pages()))


def read(fmt: str, data: bytes) -> list[dict[str, Any]]:
    if fmt == "ndjson":
        return [json.loads(line) for line in data.split(b"\n") if line]
    if fmt == "json":
        return list(json.loads(data))
    if fmt == "csv":
        return list(csv.DictReader(io.StringIO(data.decode(), newline="")))
    return list(parquet.read_table(io.BytesIO(data)).to_pylist())


@pytest.mark.parametrize("fmt", ["ndjson", "json", "parquet"])
def test_hostile_texts_come_back_as_they_were(fmt: str) -> None:
    rows = [row_of(CALLS, model=text) for text in HOSTILE]
    assert [row["model"] for row in read(fmt, written(fmt, rows))] == list(HOSTILE)


def test_no_cell_of_a_csv_is_computed_by_a_spreadsheet() -> None:
    rows = [row_of(CALLS, model=text) for text in HOSTILE]
    cells = [row["model"] for row in read("csv", written("csv", rows))]
    assert cells == [inert(text) for text in HOSTILE]
    starts = {cell.lstrip(" \u00a0")[:1] for cell in cells}
    assert not starts & {"=", "+", "-", "@", "\t", "\r", "\n", "\uff1d"}
    assert [cell for cell in cells if "\x00" in cell] == []


@pytest.mark.parametrize("parter", [";", "\t", "\n", "\r\n", "; \u00a0"])
@pytest.mark.parametrize("start", ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "\uff1dA1"])
def test_no_cell_of_a_csv_is_computed_where_semicolons_part_them(parter: str, start: str) -> None:
    data = written("csv", [row_of(CALLS, model=f"gpt{parter}{start};")])
    cells = re.split(r"[;\t\r\n]", data.decode())
    assert [cell for cell in cells if cell.lstrip(" \u00a0").startswith(tuple("=+-@\uff1d"))] == []
    (row,) = read("csv", data)
    assert row["model"].replace("'", "") == f"gpt{parter}{start};".replace("'", "")


def test_numbers_of_a_csv_keep_their_sign() -> None:
    (row,) = read("csv", written("csv", [row_of(CALLS, input_tokens=-5, latency_ms=-0.5)]))
    assert (row["input_tokens"], row["latency_ms"]) == ("-5", "-0.5")


@pytest.mark.parametrize("fmt", ExportFormat.values)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_none_is_not_known(fmt: str, value: float) -> None:
    (first, second) = read(
        fmt, written(fmt, [row_of(CALLS, latency_ms=value), row_of(CALLS, latency_ms=2.5)])
    )
    assert first["latency_ms"] in {None, ""}
    assert float(second["latency_ms"]) == 2.5


@pytest.mark.parametrize("fmt", ExportFormat.values)
@pytest.mark.parametrize("value", [2**53 + 1, 2**63 - 1, -(2**63)])
def test_integers_of_64_bits_are_exact(fmt: str, value: int) -> None:
    (row,) = read(fmt, written(fmt, [row_of(CALLS, input_tokens=value)]))
    assert int(row["input_tokens"]) == value


@pytest.mark.parametrize("fmt", ExportFormat.values)
def test_what_is_not_known_is_not_known_there_either(fmt: str) -> None:
    nothing = tuple(None for _ in CALLS.columns)
    (row,) = read(fmt, written(fmt, [nothing]))
    assert set(row) == {column.name for column in CALLS.columns}
    assert set(row.values()) <= {None, ""}


def test_times_are_utc_to_the_microsecond() -> None:
    rows = [row_of(CALLS)]
    assert read("ndjson", written("ndjson", rows))[0]["start_at"] == "2026-11-28T09:00:00.123456Z"
    assert read("csv", written("csv", rows))[0]["start_at"] == "2026-11-28T09:00:00.123456Z"
    assert read("parquet", written("parquet", rows))[0]["start_at"] == AT


@pytest.mark.parametrize("dataset", DATASETS.values(), ids=list(DATASETS))
def test_parquet_is_typed_as_the_schema_says(dataset: Dataset) -> None:
    file = parquet.ParquetFile(
        io.BytesIO(written("parquet", [row_of(dataset)] * 3, dataset=dataset))
    )
    assert file.schema_arrow.equals(arrow_schema(dataset), check_metadata=True)
    assert file.metadata.num_rows == 3
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"


def test_row_groups_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "ROW_GROUP_ROWS", 10)
    data = written("parquet", [row_of(CALLS)] * 95, size=4)
    metadata = parquet.ParquetFile(io.BytesIO(data)).metadata
    sizes = [metadata.row_group(at).num_rows for at in range(metadata.num_row_groups)]
    assert sum(sizes) == 95
    assert max(sizes) <= 13


def test_a_json_file_without_rows_is_an_empty_array() -> None:
    assert json.loads(written("json", [])) == []


@pytest.mark.parametrize("fmt", ["ndjson", "json", "csv"])
def test_a_gzipped_file_is_the_same_text_and_the_same_bytes_each_time(fmt: str) -> None:
    rows = [row_of(CALLS, input_tokens=n) for n in range(50)]
    packed = written(fmt, rows, is_gzipped=True)
    assert gzip.decompress(packed) == written(fmt, rows)
    assert packed == written(fmt, rows, is_gzipped=True)
    assert packed[4:8] == bytes(4)  # no time in its head


def test_parquet_is_never_packed_a_second_time() -> None:
    rows = [row_of(CALLS)]
    assert written("parquet", rows, is_gzipped=True) == written("parquet", rows)
    assert extension_of("parquet", is_gzipped=True) == "parquet"
    assert extension_of("csv", is_gzipped=True) == "csv.gz"


def test_a_format_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="no format"):
        writer_of("xlsx", CALLS, is_gzipped=False)


def test_a_text_is_counted_once_for_each_row_it_is_replaced_in() -> None:
    secret = "ghp_" + "x7Kq9ZtB2mWv4Rn8Lp3Yc6Hd1Fs5Gj0Aw2Ee"
    rows = [row_of(CALLS, model=secret), row_of(CALLS, model=secret), row_of(CALLS, model="m")]
    page = page_of(CALLS, rows)
    assert page.redacted_count == 2
    models = page.columns[[column.name for column in CALLS.columns].index("model")]
    assert models[2] == "m"
    assert secret not in models
