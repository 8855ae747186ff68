"""The agent's writer against the reference's way, alternated: `python -m benchmarks.writer`.

Ours carries events from a spool's rings to log and database, up to 256 a transaction. The reference
commits each event: append its line to the log, insert its row, commit, on a connection of its own
with SQLite's defaults for WAL. A third way is the reference's with our ``synchronous = NORMAL``:
what batching alone is worth. Same events, same folder, same tables; emitting is not timed. Figures
are rows a second over several rounds, median and range, in wall time and in CPU time. Results go to
benchmarks/results/writer.json.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from agent_client import schema, store
from agent_client.contract.events import ErrorEvent, Event, RunEvent, ToolCallEvent
from agent_client.emitter import BATCH_EVENTS, Emitter
from agent_client.journal import Intake, Journal, oldest_chunks
from benchmarks.emit import make_event
from benchmarks.facts import machine

ROUNDS = 7
EVENTS = 8000
EVENTS_REFERENCE = 1000
"""A commit that waits for the disk takes milliseconds on some; the rate is what counts."""
BAR = 8.0
RESULTS = Path(__file__).parent / "results" / "writer.json"
RUN_ID = "7d0f6c1e8a4b4f6f9a3c2b1d0e9f8a7b"
START_NS = 1_790_000_000_000_000_000


def make_events() -> list[Event]:
    """Runs as sessions make them: of ten events four model calls, four tools, an error, a run."""
    events: list[Event] = []
    for number in range(EVENTS):
        run_id, kind = f"{RUN_ID}{number // 40}", number % 10
        if kind < 4:
            events.append(make_event(number))
        elif kind < 8:
            events.append(
                ToolCallEvent(
                    f"{number:032x}",
                    run_id,
                    "terminal",
                    duration_ms=12.5,
                    result_class="ok",
                    start_ns=START_NS + number,
                    end_ns=START_NS + number + 12_500_000,
                    tool_call_id=f"call_{number:024x}",
                )
            )
        elif kind == 8:
            events.append(
                ErrorEvent(
                    f"{number:032x}", run_id, START_NS + number, "rate_limit", "provider", "retried"
                )
            )
        else:
            events.append(
                RunEvent(
                    run_id,
                    run_id,
                    "20261122_094211_c57e6c",
                    entrypoint="cli",
                    platform="cli",
                    start_ns=START_NS,
                    end_ns=START_NS + number,
                    end_reason="completed",
                    model_call_count=number % 40,
                )
            )
    return events


def ours(home: Path, events: list[Event]) -> tuple[float, float]:
    """Seconds of wall and CPU from full rings to log and database."""
    emitter = Emitter(home)
    emitter._start = lambda: None  # type: ignore[method-assign]  # noqa: SLF001  # we are the writer
    for event in events:
        emitter.emit(event)
    journal = Journal(home)
    rings = emitter._rings()  # noqa: SLF001
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    while chunks := [c for c in oldest_chunks(rings, BATCH_EVENTS) if c.frames]:
        journal.write([Intake(chunk) for chunk in chunks])
        for ring in rings:
            for chunk in chunks:
                if chunk.ring_id == ring.ring_id:
                    ring.release(chunk)
    took = time.perf_counter() - wall_s, time.process_time() - cpu_s
    journal.close()
    return took


def reference(home: Path, events: list[Event], synchronous: str) -> tuple[float, float]:
    """Seconds of wall and CPU of a commit an event."""
    folder = store.make_folder(home)
    connection = store.connect(folder / store.DATABASE)
    schema.migrate(connection)
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    inserts = {}
    for table in {type(event): event.TABLE for event in events}.values():
        names = table.column_names()
        marks = ", ".join("?" * len(names))
        inserts[table.event] = (
            f"INSERT OR REPLACE INTO {table.name} ({', '.join(names)}) VALUES ({marks})"  # noqa: S608  # names from contract.tables
        )
    records = [event.to_dict() for event in events]
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    with (folder / store.LOG).open("a", encoding="utf-8") as log:
        for record in records:
            log.write(json.dumps(record) + "\n")
            log.flush()
            values = [value for name, value in record.items() if name != "event"]
            connection.execute("BEGIN")
            connection.execute(inserts[str(record["event"])], values)
            connection.execute("COMMIT")
    took = time.perf_counter() - wall_s, time.process_time() - cpu_s
    connection.close()
    return took


def distinct(events: list[Event]) -> int:
    """Rows these events make: a run's later event is its earlier one's row."""
    return len({(type(event), event.to_dict()[event.TABLE.key]) for event in events})


def rows_of(home: Path) -> int:
    """Rows stored: every way must have done the same work."""
    with store.Store(home) as opened:
        return sum(opened.counts().values())


def main() -> None:
    """Run, print, write the results."""
    events = make_events()
    few = events[:EVENTS_REFERENCE]
    ways: dict[str, Callable[[Path], tuple[float, float]]] = {
        "ours": lambda home: ours(home, events),
        "reference": lambda home: reference(home, few, "FULL"),
        "reference, NORMAL": lambda home: reference(home, few, "NORMAL"),
    }
    took: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    root = Path(tempfile.mkdtemp(dir=os.environ.get("BENCH_DIR")))
    for _ in range(ROUNDS):
        for way, run in ways.items():
            home = root / way
            given = events if way == "ours" else few
            wall_s, cpu_s = run(home)
            took[way].append((wall_s / len(given), cpu_s / len(given)))
            stored = rows_of(home)
            assert stored == distinct(given), stored  # noqa: S101  # else it compares nothing
            shutil.rmtree(home)
    shutil.rmtree(root)
    report(took)


def report(took: dict[str, list[tuple[float, float]]]) -> None:
    """Print rates and ratios; write them with the facts of the machine."""
    rows = []
    for way, pairs in took.items():
        row: dict[str, object] = {"way": way}
        shown = f"{way:<20}"
        for place, name in enumerate(("wall", "cpu")):
            rates = [1 / pair[place] for pair in pairs]
            ratios = [
                other[place] / mine[place] for mine, other in zip(took["ours"], pairs, strict=True)
            ]
            row[f"rows_per_{name}_s"] = round(statistics.median(rates))
            row[f"range_{name}"] = [round(min(rates)), round(max(rates))]
            row[f"ours_to_it_{name}"] = round(statistics.median(ratios), 2)
            shown += (
                f"{name} {statistics.median(rates):>8.0f} rows/s "
                f"({min(rates):.0f}-{max(rates):.0f}), ours {statistics.median(ratios):.1f}x   "
            )
        rows.append(row)
        sys.stdout.write(shown.rstrip() + "\n")
    facts = {
        **machine(),
        "events": EVENTS,
        "rounds": ROUNDS,
        "bar": BAR,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"machine": facts, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
