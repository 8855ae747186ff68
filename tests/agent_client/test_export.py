"""What leaves: closed records, redacted, in constant memory, failing closed."""

from __future__ import annotations

import io
import json
import sqlite3
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent_client.contract import redact
from agent_client.contract.events import Event
from agent_client.contract.tables import BY_NAME
from agent_client.export import CONTENT_CLOSED, encode, export, next_batch
from agent_client.store import Store, StoreError
from tests.agent_client.builders import (
    START_NS,
    error_event,
    model_call,
    one_of_each,
    run_event,
    span_event,
    store_events,
    tool_call,
)

SECRET = "ghp_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"  # made up


def exported(home: Path, **options: Any) -> bytes:  # noqa: ANN401  # export's own options
    out = io.BytesIO()
    export(out, home=home, **options)
    return out.getvalue()


def event_at(event: Event, at_ns: int) -> Event:
    """The same event under another id and at another time."""
    changes: dict[str, Any] = {event.TABLE.key: "later", event.TABLE.time: at_ns}
    return replace(event, **changes)


def filled(home: Path) -> Path:
    store_events(home, *one_of_each())
    return home


@pytest.fixture
def without_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """google-re2 cannot be imported."""
    monkeypatch.setitem(sys.modules, "re2", None)
    monkeypatch.setattr(redact, "_engine", redact._Engine())


def test_ndjson_is_one_record_a_line_with_its_kind_and_the_contracts_columns(
    tmp_path: Path,
) -> None:
    records = [json.loads(line) for line in exported(filled(tmp_path)).splitlines()]
    assert [record["_kind"] for record in records] == list(BY_NAME)
    for record in records:
        assert list(record) == ["_kind", "seq", *BY_NAME[record["_kind"]].column_names()]


def test_json_is_one_object_with_the_same_records(tmp_path: Path) -> None:
    lines = [json.loads(line) for line in exported(filled(tmp_path)).splitlines()]
    assert json.loads(exported(tmp_path, fmt="json")) == {"records": lines}


def test_an_empty_home_exports_an_empty_file(tmp_path: Path) -> None:
    assert exported(tmp_path) == b""
    assert json.loads(exported(tmp_path, fmt="json")) == {"records": []}


def test_the_report_counts_records_by_table(tmp_path: Path) -> None:
    report = export(io.BytesIO(), home=filled(tmp_path))
    assert report == report.counts == dict.fromkeys(BY_NAME, 1)
    assert report.warnings == ()


def test_since_windows_every_table(tmp_path: Path) -> None:
    filled(tmp_path)
    new = START_NS + 100
    later = [event_at(event, new) for event in one_of_each()]
    store_events(tmp_path, *later)
    records = [json.loads(line) for line in exported(tmp_path, since_ns=new).splitlines()]
    assert [record["seq"] for record in records] == [*range(len(later) + 1, 2 * len(later) + 1)]


@pytest.mark.parametrize("fmt", ["ndjson", "json"])
def test_a_secret_in_a_structural_field_does_not_leave(tmp_path: Path, fmt: str) -> None:
    store_events(tmp_path, model_call(model=SECRET), tool_call(tool_name=f"run {SECRET}"))
    data = exported(tmp_path, fmt=fmt)
    assert SECRET.encode() not in data
    assert data.count(b"[REDACTED:") == 2


def test_a_secret_in_a_structural_field_is_not_pushed_either(tmp_path: Path) -> None:
    store_events(tmp_path, model_call(model=SECRET))
    with Store(tmp_path) as store:
        batch = next_batch(store, after_seq=0)
    assert batch is not None
    assert SECRET.encode() not in batch.body


def test_without_its_engine_the_export_shows_no_text(tmp_path: Path, without_engine: None) -> None:
    store_events(tmp_path, model_call(model=SECRET))
    data = exported(tmp_path)
    assert SECRET.encode() not in data
    assert json.loads(data)["model"] == redact.UNAVAILABLE


def test_without_its_engine_nothing_is_pushed(tmp_path: Path, without_engine: None) -> None:
    store_events(tmp_path, model_call(model=SECRET))
    with Store(tmp_path) as store, pytest.raises(StoreError):
        next_batch(store, after_seq=0)


@pytest.mark.parametrize(
    "event",
    [
        model_call(model=redact.UNAVAILABLE),
        span_event(attrs_json='{"a":' + "[" * 300 + "]" * 300 + "}"),
    ],
)
def test_the_mark_of_a_missing_engine_holds_nothing_up_while_it_is_there(
    tmp_path: Path, event: Event
) -> None:
    store_events(tmp_path, event, tool_call())
    with Store(tmp_path) as store:
        batch = next_batch(store, after_seq=0)
    assert batch is not None
    assert batch.row_count == 2


def test_asking_for_content_warns_and_exports_structure(tmp_path: Path) -> None:
    out = io.BytesIO()
    report = export(out, home=filled(tmp_path), include_content=True)
    assert report.warnings == (CONTENT_CLOSED,)
    assert out.getvalue() == exported(tmp_path)


def test_a_batch_covers_the_next_rows_past_the_cursor(tmp_path: Path) -> None:
    store_events(tmp_path, *[model_call(number) for number in range(5)])
    with Store(tmp_path) as store:
        batch = next_batch(store, after_seq=1, max_rows=3)
        rest = next_batch(store, after_seq=4, max_rows=3)
        assert next_batch(store, after_seq=5) is None
    assert batch is not None
    assert rest is not None
    assert (batch.first_seq, batch.last_seq, batch.row_count) == (2, 4, 3)
    assert batch.counts == {"tel_model_calls": 3}
    assert [json.loads(line)["seq"] for line in batch.body.splitlines()] == [2, 3, 4]
    assert (rest.first_seq, rest.last_seq) == (5, 5)


def test_a_batch_of_many_kinds_has_the_lines_of_its_rows_in_their_order(tmp_path: Path) -> None:
    kinds = (model_call, tool_call, run_event, error_event)
    store_events(tmp_path, *[kinds[number % 4](number) for number in range(600)])
    with Store(tmp_path) as store:
        batch = next_batch(store, after_seq=0)
        lines = [encode(row) for row in store.rows_after(0, 600)]
    assert batch is not None
    assert batch.body.splitlines() == lines
    assert sorted(exported(tmp_path).splitlines()) == sorted(lines)


def test_a_batch_stays_below_its_bytes_and_always_moves_on(tmp_path: Path) -> None:
    store_events(tmp_path, *[model_call(number) for number in range(5)])
    with Store(tmp_path) as store:
        whole = next_batch(store, after_seq=0)
        assert whole is not None
        half = next_batch(store, after_seq=0, max_bytes=len(whole.body) // 2)
        tiny = next_batch(store, after_seq=0, max_bytes=1)
    assert half is not None
    assert tiny is not None
    assert len(half.body) <= len(whole.body) // 2
    assert (half.row_count, tiny.row_count) == (2, 1)


def test_stored_text_that_is_no_utf8_is_exported_with_marks(tmp_path: Path) -> None:
    store_events(tmp_path, *[model_call(number) for number in range(3)])
    with Store(tmp_path) as store:
        store.connection.execute(
            "UPDATE tel_model_calls SET model = CAST(x'61ff62' AS TEXT) WHERE seq = 2"
        )
    models = [json.loads(line)["model"] for line in exported(tmp_path).splitlines()]
    assert models == ["model-a", "a\N{REPLACEMENT CHARACTER}b", "model-a"]


def test_a_fault_of_the_database_is_not_taken_for_bad_text(tmp_path: Path) -> None:
    store_events(tmp_path, *one_of_each())
    with Store(tmp_path) as store:
        store.connection.execute("ALTER TABLE tel_runs RENAME COLUMN platform TO other")
    with pytest.raises(sqlite3.OperationalError):
        exported(tmp_path)


class Sink(io.RawIOBase):
    """Counts what is written to it and keeps nothing."""

    lines = 0

    def write(self, data: Any) -> int:  # noqa: ANN401  # any buffer
        self.lines += bytes(data).count(b"\n")
        return len(data)


def test_twenty_thousand_rows_are_exported_in_constant_memory(tmp_path: Path) -> None:
    store_events(tmp_path, model_call())
    with Store(tmp_path) as store:
        store.connection.execute(
            "WITH RECURSIVE n(x) AS (SELECT 2 UNION ALL SELECT x + 1 FROM n WHERE x < 20000) "
            "INSERT INTO tel_model_calls (span_id, run_id, model, start_ns, seq) "
            "SELECT 'row-' || x, 'r', 'model-' || x, 1, x FROM n"
        )
    sink = Sink()
    tracemalloc.start()
    export(sink, home=tmp_path)  # type: ignore[arg-type]  # a BinaryIO in all that is used
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sink.lines == 20_000
    assert peak_bytes < 2_000_000  # held all at once they take over 20 MB
