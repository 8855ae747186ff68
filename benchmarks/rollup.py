"""What upkeep of rollups costs: `python -m benchmarks.rollup`.

Rows of many installs over 24 hours are stored in batches of 2,000 as ingest stores them, and folded
into the cells: by turns each batch alone, and 25 batches together, which is what five seconds bring
at 10,000 rows a second. The figure is the CPU of the fold's own database session a row; the
console's is beside it. Then 100 batches together (40,000 rows a second), and batches that each span
the whole day, the worst there is. Last, another process
stores as fast as it is told while folds go on every five seconds: the age of what waits. Needs
PostgreSQL: FLEET_BENCH_DATABASE_URL or the local server. Results: benchmarks/results/rollup.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import psycopg

from benchmarks.facts import machine
from benchmarks.ingest import SERVER, database

BATCH_ROWS = 2000
BATCHES = 200
TOGETHER = 25
MANY_TOGETHER = 100
INSTALLS = 200
GROUPS = 5
DAY_S = 86_400
RESULTS = Path(__file__).parent / "results" / "rollup.json"
S = 1_000_000_000
MODELS = [
    ("openrouter", "claude-sonnet-5"),
    ("openrouter", "gemini-4"),
    ("anthropic", "claude-sonnet-5"),
    ("anthropic", "claude-haiku-5"),
    ("openai", "gpt-6"),
    ("openai", "gpt-6-mini"),
]
TOOLS = [f"tool_{number}" for number in range(20)]
ENDS = ["completed"] * 8 + ["failed", "interrupted"]
ERRORS = ["rate_limit", "auth", "timeout", "server", "network", "context_length"]


@dataclass(slots=True)
class Spent:
    """CPU of one way to fold, in seconds, and the rows it folded."""

    rows: int = 0
    folds: int = 0
    database_s: list[float] = field(default_factory=list)
    console_s: list[float] = field(default_factory=list)
    rows_each: list[int] = field(default_factory=list)

    def figures(self) -> dict[str, object]:
        """Microseconds a row."""

        def a_row(seconds: list[float]) -> list[float]:
            each = [one / rows * 1e6 for one, rows in zip(seconds, self.rows_each, strict=True)]
            return [round(value, 2) for value in (statistics.median(each), min(each), max(each))]

        return {
            "rows": self.rows,
            "folds": self.folds,
            "database_us_a_row": round(sum(self.database_s) / self.rows * 1e6, 2),
            "console_us_a_row": round(sum(self.console_s) / self.rows * 1e6, 2),
            "database_us_a_row_median_min_max": a_row(self.database_s),
        }


def records(rng: random.Random, at_s: float, span_s: float) -> dict[str, list[tuple[object, ...]]]:
    """BATCH_ROWS rows by table, as they are stored: runs with calls, and some errors."""
    from agent_client.contract.tables import BY_NAME

    found: dict[str, list[tuple[object, ...]]] = {}
    count = 0

    def add(kind: str, **values: object) -> None:
        nonlocal count
        count += 1
        row = tuple(values.get(name) for name in BY_NAME[kind].column_names())
        found.setdefault(kind, []).append((*row, count))

    while count < BATCH_ROWS:
        start_ns = int((at_s - rng.uniform(0, span_s)) * S)
        run, trace = f"{rng.getrandbits(128):032x}", f"{rng.getrandbits(128):032x}"
        place = {"run_id": run, "trace_id": trace, "start_ns": start_ns, "end_ns": start_ns + S}
        took_ns = int(rng.lognormvariate(11, 1.2) * 1e6)
        add(
            "tel_runs",
            **place | {"end_ns": start_ns + took_ns},
            entrypoint=rng.choice(["cli", "gateway", "cron"]),
            platform=rng.choice(["linux", "darwin"]),
            agent_version=rng.choice(["0.19.0", "0.19.1", "0.20.0"]),
            end_reason=rng.choice(ENDS),
            estimated_cost_usd=rng.uniform(0, 0.4),
            cost_status=rng.choice(["actual", "estimated"]),
            model_call_count=3,
            tool_call_count=3,
        )
        for _ in range(3):
            provider, model = rng.choice(MODELS)
            add(
                "tel_model_calls",
                **place,
                span_id=f"{rng.getrandbits(64):016x}",
                provider=provider,
                model=model,
                base_url=f"https://{provider}.example/v1",
                input_tokens=rng.randrange(9000),
                output_tokens=rng.randrange(900),
                latency_ms=rng.lognormvariate(7.5, 0.7),
                ttft_ms=rng.lognormvariate(6, 0.5),
                estimated_cost_usd=rng.uniform(0, 0.1),
                end_reason="stop",
            )
            add(
                "tel_tool_calls",
                **place,
                span_id=f"{rng.getrandbits(64):016x}",
                tool_name=rng.choice(TOOLS),
                duration_ms=rng.lognormvariate(4, 1.5),
                result_class=rng.choice(["ok"] * 9 + ["error"]),
            )
        if rng.random() < 0.2:
            span = f"{rng.getrandbits(64):016x}"
            error = rng.choice(ERRORS)
            add("tel_error_events", run_id=run, span_id=span, ts_ns=start_ns, error_class=error)
    return found


class Feed:
    """Stores batches one after the other, each of the next install."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.installs = [uuid.UUID(int=number + 1) for number in range(INSTALLS)]
        self.sent = 0

    def store(self, at_s: float, span_s: float) -> None:
        """One batch whose rows began in the ``span_s`` before ``at_s``."""
        from django.db import transaction

        from agent_client.contract.tables import BY_NAME
        from fleet.lib.clock import floor_hour, now, ns_to_datetime
        from telemetry.models import TouchedHour
        from telemetry.store.copy import Stamp, copy_rows

        number = self.sent % INSTALLS
        self.sent += 1
        install_id = self.installs[number]
        stamp = Stamp(install_id, uuid.uuid4(), now(), number % GROUPS)
        hours = set()
        with transaction.atomic():
            for kind, rows in records(self.rng, at_s, span_s).items():
                at = BY_NAME[kind].column_names().index(BY_NAME[kind].time)
                hours |= {floor_hour(ns_to_datetime(int(str(row[at])))) for row in rows}
                copy_rows(BY_NAME[kind], rows, stamp)  # type: ignore[arg-type]  # made above
            TouchedHour.objects.bulk_create(
                TouchedHour(
                    hour=hour,
                    touched_at=stamp.received_at,
                    install_id=install_id,
                    batch_id=stamp.batch_id,
                )
                for hour in sorted(hours)
            )


def on_cpu_s(pid: int) -> float:
    """Seconds a process has run, to the nanosecond; Linux."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


@contextmanager
def counted(spent: Spent, rows: int) -> Iterator[None]:
    """Add what the block costs."""
    from django.db import connection

    backend = connection.connection.info.backend_pid
    database_s, console_s = on_cpu_s(backend), time.process_time()
    yield
    spent.database_s.append(on_cpu_s(backend) - database_s)
    spent.console_s.append(time.process_time() - console_s)
    spent.rows += rows
    spent.folds += 1
    spent.rows_each.append(rows)


def fold_all() -> None:
    """What the worker does each round, without its wait."""
    from fleet.lib.sql import session_lock
    from telemetry.rollup.fold import LOCK, fold_touched

    with session_lock(LOCK):
        while fold_touched():
            pass


def measure_folds(batches: int) -> dict[str, object]:
    """By turns alone and together, over a day; then many together; then batches of a whole day."""
    feed = Feed(1)
    begun_s = time.time() - DAY_S
    ways = {name: Spent() for name in ("alone", "together", "many_together", "together_spread")}
    step_s = DAY_S / batches * TOGETHER
    for first in range(0, batches, TOGETHER):
        way = ways["together" if first // TOGETHER % 2 else "alone"]
        # What comes in together began within the same minutes, not within the same hours.
        at_s = begun_s + first // TOGETHER * step_s
        for number in range(first, min(first + TOGETHER, batches)):
            feed.store(at_s + number, 600)
            if way is ways["alone"]:
                with counted(way, BATCH_ROWS):
                    fold_all()
        if way is not ways["alone"]:
            with counted(way, TOGETHER * BATCH_ROWS):
                fold_all()
    for _ in range(3):
        for _ in range(MANY_TOGETHER):
            feed.store(time.time(), 600)
        with counted(ways["many_together"], MANY_TOGETHER * BATCH_ROWS):
            fold_all()
    for _ in range(2):
        for _ in range(TOGETHER):
            feed.store(time.time(), DAY_S)
        with counted(ways["together_spread"], TOGETHER * BATCH_ROWS):
            fold_all()
    return {name: spent.figures() for name, spent in ways.items()}


def measure_lag(seconds: float, rows_a_s: int) -> dict[str, object]:
    """How old the oldest waiting touch gets while another process stores at this rate."""
    from telemetry.rollup.lag import lag_s

    command = [sys.executable, "-m", "benchmarks.rollup", "--feed", str(seconds), str(rows_a_s)]
    feeder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603 -- ourselves
    lags: list[float] = []
    folds: list[float] = []
    while feeder.poll() is None:
        time.sleep(5)
        lags.append(lag_s() or 0.0)
        begun = time.perf_counter()
        fold_all()
        folds.append(time.perf_counter() - begun)
        lags.append(lag_s() or 0.0)
    out, _ = feeder.communicate()
    return {
        "stored_rows_a_s": round(int(out) / seconds),
        "lag_s_max": round(max(lags), 1),
        "fold_s_max": round(max(folds), 2),
    }


def feed_for(seconds: float, rows_a_s: int) -> None:
    """Store batches of the last minutes at a rate; print how many rows they had."""
    feed = Feed(os.getpid())
    begun = time.monotonic()
    while (passed := time.monotonic() - begun) < seconds:
        feed.store(time.time(), 600)
        time.sleep(max(0.0, feed.sent * BATCH_ROWS / rows_a_s - passed))
    sys.stdout.write(str(feed.sent * BATCH_ROWS))


def prepare() -> None:
    """Tables, and days for all of it."""
    from datetime import timedelta

    from django.core.management import call_command

    from fleet.lib.clock import now
    from telemetry.store.partitions import PARENTS, Partition, ensure_partitions

    call_command("migrate", verbosity=0)
    call_command("telemetry_partitions", "apply", verbosity=0)
    days = [now().date() - timedelta(days=ago) for ago in range(4)]
    ensure_partitions({Partition(day, parent) for day in days for parent in PARENTS})


def proven() -> int:
    """Cells that were compared with their rows; an inexact one ends the benchmark."""
    from datetime import timedelta

    from fleet.lib.clock import now
    from telemetry.rollup.verify import verify_cells

    report = verify_cells(now() - timedelta(days=3), now() + timedelta(hours=1))
    if report.difference_count:
        raise SystemExit(f"{report.difference_count} cells differ: {report.differences[:3]}")
    return report.cell_count


def main() -> None:
    """Run, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=BATCHES)
    parser.add_argument("--feed", nargs=2, metavar=("SECONDS", "ROWS_A_S"), help=argparse.SUPPRESS)
    parser.add_argument("--lag-s", type=float, default=30)
    parser.add_argument("--rows-a-s", type=int, default=10_000)
    arguments = parser.parse_args()
    if arguments.feed:
        import django

        django.setup()
        feed_for(float(arguments.feed[0]), int(arguments.feed[1]))
        return
    name = f"fleet_bench_rollup_{os.getpid()}"
    with database(name) as url, tempfile.TemporaryDirectory() as home:
        os.environ |= {
            "DATABASE_URL": url,
            "FLEET_HOME": home,
            "DJANGO_SETTINGS_MODULE": "fleet.settings",
            "FLEET_LOG_LEVEL": "ERROR",
        }
        os.environ.pop("REDIS_URL", None)
        import django

        django.setup()
        prepare()
        figures: dict[str, object] = {
            "batch_rows": BATCH_ROWS,
            "installs": INSTALLS,
            "groups": GROUPS,
            **measure_folds(arguments.batches),
            "sustained": measure_lag(arguments.lag_s, arguments.rows_a_s),
            "cells_compared_with_their_rows": proven(),
        }
        from django.db import connections

        connections.close_all()
    figures["machine"] = {
        **machine(),
        "postgres": postgres_version(),
    }
    figures["server"] = urlsplit(SERVER).hostname
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(figures, indent=2) + "\n")
    sys.stdout.write(RESULTS.read_text())


def postgres_version() -> str:
    """The server's own word."""
    with psycopg.connect(SERVER) as connection:
        row = connection.execute("SHOW server_version").fetchone()
    return str(row[0]) if row else ""


if __name__ == "__main__":
    main()
