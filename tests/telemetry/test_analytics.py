"""The analytics copy: every row once, in step with the console, and read by other engines alike."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from pyarrow import dataset as parquet_dataset

from fleet.lib.clock import now
from fleet.models import Install
from telemetry.exports import analytics
from telemetry.exports.analytics import CopyRefused, copy
from telemetry.insight import queries
from telemetry.insight.filters import Filters
from telemetry.insight.window import Window
from telemetry.models import FillState, Run, ToolCall
from telemetry.rollup.fill import fill_pending
from telemetry.store.erase import erase_install, resume_erasures, set_tombstone
from tests import builders as fleet
from tests.telemetry import builders as make

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.both_engines]
DAY_S = 86_400
LATER = timedelta(hours=1)


def rows_of(folder: Path, name: str) -> list[dict[str, Any]]:
    """What an independent reader finds."""
    if not list((folder / name).rglob("*.parquet")):
        return []
    read: list[dict[str, Any]] = (
        parquet_dataset.dataset(folder / name, format="parquet", partitioning="hive")
        .to_table()
        .to_pylist()
    )
    return read


def push(*records: dict[str, object]) -> None:
    if not Install.objects.exists():
        fleet.make_install(install_id=make.INSTALL)
    make.push(*records)
    fill_pending()


def a_day_ago(seq: int, days: int) -> dict[str, object]:
    return make.run(seq, start_ns=make.recent_ns(days * DAY_S + 60), run_id=f"run-{seq}")


def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every fill had been long ago when the copy was made."""
    monkeypatch.setattr(analytics, "SETTLE", timedelta(0))


def test_a_copy_has_every_row_of_every_day_with_its_columns(tmp_path: Path) -> None:
    push(a_day_ago(1, 0), a_day_ago(2, 3), make.tool_call(3), make.model_call(4))
    done = copy(tmp_path / "copy")
    runs = rows_of(tmp_path / "copy", "runs")
    assert {row["run_id"] for row in runs} == set(Run.objects.values_list("run_id", flat=True))
    assert len(rows_of(tmp_path / "copy", "tool_calls")) == ToolCall.objects.count() == 1
    assert {str(row["day"]) for row in runs} <= {one.day.isoformat() for one in done}
    assert all(row["start_at"].date().isoformat() == str(row["day"]) for row in runs)
    sums = [row for row in rows_of(tmp_path / "copy", "runs_by_day") if row["group_id"] == -1]
    assert sum(row["run_count"] for row in sums) == len(runs) == 2


def test_only_days_that_changed_are_copied_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled(monkeypatch)
    push(a_day_ago(1, 0), a_day_ago(2, 3))
    assert len(copy(tmp_path)) == 2
    assert copy(tmp_path) == []
    push(a_day_ago(3, 3))
    again = copy(tmp_path)
    assert [one.day for one in again] == [(now() - timedelta(days=3, seconds=60)).date()]
    assert len(rows_of(tmp_path, "runs")) == 3


def test_what_a_fill_may_have_hidden_is_copied_again(tmp_path: Path) -> None:
    push(a_day_ago(1, 0))
    assert len(copy(tmp_path)) == 1
    assert len(copy(tmp_path)) == 1, "filled less than ten minutes before it was copied"
    assert len(rows_of(tmp_path, "runs")) == 1


def test_a_death_between_files_and_books_leaves_a_copy_that_is_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled(monkeypatch)
    push(a_day_ago(1, 0))
    write = analytics.State.write
    monkeypatch.setattr(analytics.State, "write", lambda state: _die(write, state))
    with pytest.raises(KeyboardInterrupt):
        copy(tmp_path)
    monkeypatch.setattr(analytics.State, "write", write)
    assert len(copy(tmp_path)) == 1
    assert len(rows_of(tmp_path, "runs")) == 1
    assert [path.name for path in tmp_path.rglob(".*.part")] == []


def _die(write: Callable[[analytics.State], None], state: analytics.State) -> None:
    if state.days:
        raise KeyboardInterrupt
    write(state)


def test_an_erased_install_leaves_days_whose_rows_are_gone_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled(monkeypatch)
    push(a_day_ago(1, 0), a_day_ago(2, 3))
    copy(tmp_path)
    old = now() - timedelta(days=3, seconds=60)
    Run.objects.filter(run_id="run-2").delete()
    FillState.objects.filter(hour__date=old.date()).update(state=FillState.State.EXPIRED)
    assert len(rows_of(tmp_path, "runs")) == 2
    erase_install(make.INSTALL, actor="tester", reason="asked for")
    fill_pending()
    done = copy(tmp_path)
    assert rows_of(tmp_path, "runs") == []
    assert sum(one.erased_count for one in done) >= 1
    assert copy(tmp_path) == []


def test_an_erasure_that_is_under_way_is_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled(monkeypatch)
    push(a_day_ago(1, 0))
    set_tombstone(make.INSTALL, actor="tester", reason="asked for")
    copy(tmp_path)
    assert rows_of(tmp_path, "runs") == []
    Path(tmp_path / "_copy.json").write_text(
        (tmp_path / "_copy.json").read_text().replace('"at": "2', '"at": "1')
    )
    monkeypatch.setattr(analytics, "forget_erased", lambda *_args: iter(()))
    copy(tmp_path)  # the day again, by a copy that ends before its last step
    monkeypatch.undo()
    assert len(rows_of(tmp_path, "runs")) == 1
    Run.objects.all().delete()
    FillState.objects.update(state=FillState.State.EXPIRED)
    resume_erasures()
    copy(tmp_path)
    assert rows_of(tmp_path, "runs") == []


def test_content_and_summaries_are_never_copied() -> None:
    names = {one.name for one in analytics.copied_datasets()}
    assert {"runs", "model_calls", "tool_calls", "errors", "runs_by_hour"} - names <= {"errors"}
    assert not {name for name in names if "content" in name or "summar" in name or "audit" in name}


def test_a_folder_of_others_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(CopyRefused, match="empty"):
        copy(tmp_path)
    with pytest.raises(CommandError, match="empty"):
        call_command("analytics_copy", str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_the_command_says_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    push(a_day_ago(1, 0))
    call_command("analytics_copy", str(tmp_path))
    shown = capsys.readouterr()
    assert "1 days written" in shown.out
    assert "rows," in shown.err
    assert json.loads((tmp_path / "_copy.json").read_text())["days"]


# ------------------------------------------------------------------------------- another engine

VIEWS = {
    "telemetry_runscell": "runs",
    "telemetry_costscell": "costs",
    "telemetry_modelcallscell": "models",
    "telemetry_toolcallscell": "tools",
    "telemetry_errorscell": "errors",
    "telemetry_histogramcell": "durations",
    "telemetry_installcell": "installs",
}


@contextmanager
def clickhouse(folder: Path) -> Iterator[Any]:
    """ClickHouse's engine over the copy: the console's tables as views on Parquet."""
    from chdb import session

    # Closed also when a test fails: a process has one engine, and the next test wants it empty.
    with closing(session.Session()) as engine:  # type: ignore[no-untyped-call]  # it has no types
        lay_views(engine, folder)
        yield engine


def lay_views(engine: Any, folder: Path) -> None:  # noqa: ANN401 -- the engine carries no types
    """A view for each table of sums that has files."""
    engine.query("CREATE DATABASE fleet")
    for table, name in VIEWS.items():
        parts = []
        for unit, word in (("h", "hour"), ("d", "day")):
            files = f"file('{folder}/{name}_by_{word}/*/*.parquet', Parquet)"
            columns = "*, counts_json AS counts" if name == "durations" else "*"
            if list((folder / f"{name}_by_{word}").rglob("*.parquet")):
                parts.append(f"SELECT '{unit}' AS unit, {columns} FROM {files}")
        if parts:
            engine.query(f"CREATE VIEW fleet.{table} AS {' UNION ALL '.join(parts)}")


def written_out(query: str, values: Sequence[object] | None) -> str:
    """A statement with its values in it, as ClickHouse reads them."""

    def literal(value: object) -> str:
        if isinstance(value, str) and value[:2] == "20" and value[4] == "-":
            value = datetime.fromisoformat(value).replace(tzinfo=UTC)
        if isinstance(value, datetime):
            return f"toDateTime64('{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}', 6, 'UTC')"
        if isinstance(value, str):
            return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
        return str(value)

    return query.replace('FROM "telemetry_', 'FROM fleet."telemetry_') % tuple(
        literal(value) for value in values or ()
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "filters", [Filters(), Filters(entrypoint="cli"), Filters(provider="openrouter", model="m-1")]
)
def test_the_insights_own_sql_answers_alike_on_clickhouse(tmp_path: Path, filters: Filters) -> None:
    for days in range(4):
        at = make.recent_ns(days * DAY_S + 60)
        push(
            a_day_ago(10 * days + 1, days),
            make.run(10 * days + 2, start_ns=at, run_id=f"f-{days}", end_reason="failed"),
            make.model_call(10 * days + 3, start_ns=at),
            make.tool_call(10 * days + 4, start_ns=at, result_class="error"),
            make.error(10 * days + 5, ts_ns=at),
        )
    copy(tmp_path)
    asked: list[tuple[str, Any, list[tuple[Any, ...]]]] = []

    def watch(run: Callable[..., Any], query: str, values: Any, *rest: Any) -> Any:  # noqa: ANN401 -- Django's hook
        done = run(query, values, *rest)
        if "telemetry_" in query and 'cell"' in query and "GROUP BY" in query:
            with connection.cursor() as cursor:
                cursor.cursor.execute(query, values)
                asked.append((query, values, cursor.cursor.fetchall()))
        return done

    with connection.execute_wrapper(watch):
        for window in (Window.last(days=1), Window.last(days=7), Window.last(days=30)):
            queries.overview(window, filters)
    assert len(asked) > 20
    with clickhouse(tmp_path) as engine:
        for query, values, expected in asked:
            text = engine.query(written_out(query, values), "JSONCompactEachRow").data()
            found = [json.loads(line) for line in text.splitlines()]
            assert Counter(map(comparable, found)) == Counter(map(comparable, expected)), query


def comparable(row: Sequence[object]) -> tuple[str, ...]:
    """A row whatever an engine makes of times, ids and 64-bit numbers."""
    return tuple(_text(value) for value in row)


def _text(value: object) -> str:
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
    text = str(0 if value is None else value)
    if re.fullmatch("[0-9a-f]{32}", text):  # an id as SQLite keeps it
        text = str(UUID(text))
    return text.split(".", maxsplit=1)[0] if text[:2] == "20" and "-" in text else text
