"""Insight queries over 10 M runs and 30 M calls: `python -m benchmarks.insight`.

Builds 30 days of a fleet straight into the day partitions, at full size and at a fifth of it, has
the product make the cells (as `telemetry_rollup --all` does), and asks the overview of 30 days: all
its queries together, the two sizes alternated, with the CPU of process and database session, which
a busy machine does not lengthen. Reference, in the same run: what the same page would ask of the
raw rows. Percentiles are held against exact ones of the raw rows. The window before has the same
cells again. Needs PostgreSQL (FLEET_BENCH_DATABASE_URL or the local server) and about 15 GB;
both databases are dropped at the end. `--runs 1000000` is a tenth: it proves that it works.
Results go to benchmarks/results/insight.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg import sql

from benchmarks.facts import machine
from benchmarks.insight_rows import TABLES, WEEKEND, day_rows

SERVER: Final = os.environ.get(
    "FLEET_BENCH_DATABASE_URL", "postgresql://postgres@127.0.0.1:5432/postgres"
)
RESULTS: Final = Path(__file__).parent / "results" / "insight.json"
DAYS: Final = 30
CLIENTS: Final = 2
SMALLER: Final = 5
ROUNDS: Final = 3
REPEATS: Final = 15
_BEGUN: Final = time.perf_counter()


def say(text: str) -> None:
    """Progress, on stderr."""
    sys.stderr.write(f"{time.perf_counter() - _BEGUN:6.0f} s  {text}\n")
    sys.stderr.flush()


@contextmanager
def database(name: str, *, is_kept: bool) -> Iterator[str]:
    """A database of this benchmark's own; its URL."""
    with psycopg.connect(SERVER, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    try:
        yield f"{SERVER.rpartition('/')[0]}/{name}"
    finally:
        if not is_kept:
            with psycopg.connect(SERVER, autocommit=True) as connection:
                drop = sql.SQL("DROP DATABASE {} WITH (FORCE)")
                connection.execute(drop.format(sql.Identifier(name)))


def start_django() -> None:
    """The product on the database that the environment names."""
    import django

    django.setup()


def window_now() -> tuple[datetime, datetime]:
    """The window of the overview; fixed for all steps, so that an hour may pass meanwhile."""
    end = datetime.fromisoformat(os.environ["BENCH_WINDOW_END"])
    return end - timedelta(days=DAYS), end


def build(runs: int, installs: int) -> dict[str, object]:
    """Tables, rows and cells; what it took."""
    start_django()
    from django.core.management import call_command
    from django.db import connections

    from telemetry.store.partitions import Partition, create_partitions

    start, end = window_now()
    call_command("migrate", verbosity=0)
    days = [start.date() + timedelta(days=at) for at in range((end.date() - start.date()).days + 1)]
    create_partitions(Partition(day, table) for day in days for table in TABLES)
    begun = time.perf_counter()
    rows = insert_rows(days, runs, installs)
    insert_s = time.perf_counter() - begun
    say(f"  {rows:,} rows in {insert_s:.0f} s; the product makes the cells")
    begun, used = time.perf_counter(), cpu_s()
    make_cells(start, end)
    refill_s, refill_cpu_s = time.perf_counter() - begun, cpu_s() - used
    say(f"  cells in {refill_s:.0f} s; the window before gets the same")
    cells = repeat_cells()
    connections.close_all()
    return {
        "rows": rows,
        "insert_s": round(insert_s, 1),
        "refill_s": round(refill_s, 1),
        "refill_cpu_s": round(refill_cpu_s, 1),
        "refill_cpu_us_a_row": round(refill_cpu_s / rows * 1e6, 2),
        "cells": cells,
    }


def insert_rows(days: list[Any], runs: int, installs: int) -> int:
    """Every day's rows, CLIENTS connections side by side; how many."""
    url = os.environ["DATABASE_URL"]
    start, end = window_now()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE bench_install AS SELECT n, md5(n::text)::uuid AS id, 1 + n %% 8 AS "
            "group_id, n %% 3 AS platform, n %% 4 AS version FROM generate_series(0, %s - 1) n",
            [installs],
        )
        connection.execute("ANALYZE bench_install")
    weights = {day: WEEKEND if day.weekday() >= 5 else 1.0 for day in days}
    # The first and the last day are cut by the window; together they are about one.
    each = runs / (sum(weights.values()) - 1)
    jobs = [
        (table, day, round(each * weights[day] * share))
        for day in days
        for table, share in TABLES.items()
    ]

    def insert(job: tuple[str, Any, int]) -> int:
        table, day, count = job
        with psycopg.connect(url) as connection:
            connection.execute("SET synchronous_commit = off")
            statement = day_rows(table, day).encode()
            bounds = {"rows": count, "installs": installs, "start": start, "end": end, "day": day}
            return connection.execute(statement, bounds).rowcount

    total = 0
    with ThreadPoolExecutor(CLIENTS) as pool:
        for at, made in enumerate(pool.map(insert, jobs), start=1):
            total += made
            if at % (len(TABLES) * 5) == 0:
                say(f"  {at // len(TABLES)} of {len(days)} days, {total:,} rows")
    with psycopg.connect(url, autocommit=True) as connection:
        for table in TABLES:
            connection.execute(sql.SQL("VACUUM ANALYZE {}").format(sql.Identifier(table)))
    return total


def repeat_cells() -> dict[str, int]:
    """The same cells 31 days earlier, so that there is a window before; how many of each kind.

    Of the hours only those at the window's edges: no question reads the others of a window before.
    """
    from telemetry.models import CELL_MODELS

    counts: dict[str, int] = {}
    start, end = window_now()
    edges = [start, start + timedelta(days=2), end - timedelta(days=2), end]
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:
        for model in CELL_MODELS:
            names = [spec.column for spec in model._meta.concrete_fields if not spec.primary_key]
            table = sql.Identifier(model._meta.db_table)
            earlier = [
                sql.SQL("at - interval '31 days'") if name == "at" else sql.Identifier(name)
                for name in names
            ]
            copied = sql.SQL(
                "INSERT INTO {} ({}) SELECT {} FROM {} WHERE unit = 'd' "
                "OR at BETWEEN %s AND %s OR at BETWEEN %s AND %s"
            ).format(
                table,
                sql.SQL(", ").join(map(sql.Identifier, names)),
                sql.SQL(", ").join(earlier),
                table,
            )
            connection.execute(copied, edges)
            count = sql.SQL("SELECT count(*) FROM {}").format(table)
            counts[model.__name__] = one(connection.execute(count).fetchone())
            connection.execute(sql.SQL("VACUUM ANALYZE {}").format(table))
    return counts


def make_cells(start: datetime, end: datetime) -> None:
    """What `telemetry_rollup --all` does, day by day, with progress."""
    from telemetry.rollup.fill import hours_between, refill_all

    hours = hours_between(start, end)
    done = 0
    for number, made in enumerate(refill_all(hours), start=1):
        done += len(made)
        if number % 5 == 0:
            say(f"  cells of {done} of {len(hours)} hours")


def one(row: tuple[Any, ...] | None) -> int:
    """The number in a row of one number."""
    return int(row[0]) if row else 0


def measure() -> dict[str, object]:
    """The overview's queries: the first of a process, then REPEATS more; each part alone."""
    start_django()
    from django.db import connection

    from telemetry.insight import boards, queries
    from telemetry.insight.window import Window

    window = Window(*window_now())
    board = timed(lambda: boards.refresh_boards(is_forced=True, at=window.end))
    connection.close()
    cold = timed(lambda: queries.overview(window))
    used = cpu_s()
    repeats = [timed(lambda: queries.overview(window)) for _ in range(REPEATS)]
    cpu_ms = (cpu_s() - used) / REPEATS * 1000
    scope = queries.scope_of(window)
    names = ("runs", "costs", "models", "tools", "errors", "installs", "heat", "first_seen")
    parts = {}
    for name in names:
        ask = getattr(queries, name)
        times = [timed(partial(ask, scope)) for _ in range(5)]
        parts[name] = round(statistics.median(times), 2)
    return {
        "boards_ms": board,
        "first_ms": cold,
        "repeats_ms": repeats,
        "cpu_ms": cpu_ms,
        "parts_ms": parts,
    }


def cpu_s() -> float:
    """CPU seconds of this process and of its database session; Linux, from /proc."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        (pid,) = cursor.fetchone()
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # the server is elsewhere
        return time.process_time()
    ticks = int(fields[11]) + int(fields[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def timed(work: Callable[[], object]) -> float:
    """Milliseconds of one call."""
    begun = time.perf_counter()
    work()
    return round((time.perf_counter() - begun) * 1000, 2)


_RUN_MS: Final = "(end_ns - start_ns) / 1e6"
_RANKS: Final = "percentile_disc(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY"
# ruff: noqa: S608 -- statements of this module
NAIVE: Final[dict[str, str]] = {
    "runs": "SELECT end_reason, count(*), sum(estimated_cost_usd), count(estimated_cost_usd) "
    "FROM telemetry_run WHERE {window} GROUP BY 1",
    "series": "SELECT date_trunc('day', start_at), count(*), count(*) FILTER (WHERE end_reason "
    "IN ('failed', 'timeout', 'max_iterations')) FROM telemetry_run WHERE {window} GROUP BY 1",
    "shares": "SELECT entrypoint, platform, agent_version, count(*) FROM telemetry_run "
    "WHERE {window} GROUP BY 1, 2, 3",
    "durations": f"SELECT 'run', '', {_RANKS} {_RUN_MS}) FROM telemetry_run WHERE {{window}}",
    "models": "SELECT provider, model, count(*), sum(input_tokens), sum(output_tokens), "
    "sum(cache_read_tokens), sum(estimated_cost_usd) FROM telemetry_modelcall WHERE {window} "
    "GROUP BY 1, 2",
    "latency": f"SELECT 'model', model, {_RANKS} latency_ms) FROM telemetry_modelcall "
    "WHERE {window} GROUP BY 2",
    "tools": "SELECT tool_name, count(*), count(*) FILTER (WHERE result_class <> 'ok') "
    "FROM telemetry_toolcall WHERE {window} GROUP BY 1",
    "tool durations": f"SELECT 'tool', tool_name, {_RANKS} duration_ms) FROM telemetry_toolcall "
    "WHERE {window} GROUP BY 2",
    "errors": "SELECT error_class, subsystem, count(*) FROM telemetry_errorevent "
    "WHERE {window} GROUP BY 1, 2",
    "active installs": "SELECT count(DISTINCT install_id) FROM telemetry_run WHERE {window}",
    "top installs": "SELECT install_id, count(*), sum(estimated_cost_usd) FROM telemetry_run "
    "WHERE {window} GROUP BY 1 ORDER BY 2 DESC LIMIT 10",
    "heat": "SELECT extract(isodow FROM start_at), extract(hour FROM start_at), count(*) "
    "FROM telemetry_run WHERE {window} GROUP BY 1, 2",
}
"""The overview from raw rows, one window only; the window before would double it."""


def compare() -> dict[str, object]:
    """The raw rows' way, once each, and how far our percentiles are from the exact ones."""
    start_django()
    from telemetry.insight import queries
    from telemetry.insight.answers import Percentiles
    from telemetry.insight.window import Window

    start, end = window_now()
    within = "start_at >= %(start)s AND start_at < %(end)s"
    naive_ms: dict[str, float] = {}
    exact: dict[tuple[str, str], list[float]] = {}
    totals: dict[str, int] = {}
    with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
        for name, text in NAIVE.items():
            begun = time.perf_counter()
            query = text.replace("{window}", within).encode()
            found = connection.execute(query, {"start": start, "end": end}).fetchall()
            naive_ms[name] = round((time.perf_counter() - begun) * 1000, 1)
            say(f"  raw rows, {name}: {naive_ms[name]:,.0f} ms")
            if name in {"durations", "latency", "tool durations"}:
                exact |= {(kind, value): list(map(float, ranks)) for kind, value, ranks in found}
            if name in {"runs", "models", "tools", "errors"}:
                at = {"runs": 1, "models": 2, "tools": 1, "errors": 2}[name]
                totals[name] = sum(row[at] for row in found)
            if name == "active installs":
                totals["active installs"] = found[0][0]
    window = Window(start, end)
    scope = queries.scope_of(window)
    asked = queries.runs(scope)
    assert asked.duration is not None  # noqa: S101 -- no filter is set
    ours: dict[tuple[str, str], Percentiles | None] = {("run", ""): asked.duration.value}
    models, tools = queries.models(scope, timed=100), queries.tools(scope, timed=100)
    ours |= {("model", line.model): line.latency for line in models.lines}
    ours |= {("tool", line.tool_name): line.duration for line in tools.lines}
    errors = [
        abs(value - true) / true
        for key, ranks in exact.items()
        if (found_ranks := ours[key]) is not None
        for value, true in zip(
            (found_ranks.p50_ms, found_ranks.p95_ms, found_ranks.p99_ms), ranks, strict=True
        )
        if value is not None
    ]
    counted = {
        "runs": asked.totals.value.run_count,
        "models": models.calls.value,
        "tools": tools.calls.value,
        "errors": queries.errors(scope).total.value,
        "active installs": queries.installs(scope).active.value,
    }
    return {
        "naive_ms": naive_ms,
        "naive_total_ms": round(sum(naive_ms.values())),
        "percentiles_compared": len(errors),
        "percentile_error_max": round(max(errors), 4),
        "percentile_error_median": round(statistics.median(errors), 4),
        "counts_are_exact": counted == totals,
        "counts": totals,
    }


STEPS: Final[dict[str, Callable[..., dict[str, object]]]] = {
    "build": build,
    "measure": measure,
    "compare": compare,
}


def step(name: str, url: str, home: str, *values: int) -> dict[str, Any]:
    """One step in a process of its own, on one of the databases."""
    environment = os.environ | {
        "DATABASE_URL": url,
        "FLEET_HOME": home,
        "DJANGO_SETTINGS_MODULE": "fleet.settings",
        "FLEET_LOG_LEVEL": "ERROR",
    }
    environment.pop("REDIS_URL", None)
    command = [sys.executable, "-m", "benchmarks.insight", "--step", name, *map(str, values)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)  # noqa: S603 -- our own command
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def run(options: argparse.Namespace) -> dict[str, object]:
    """Build both sizes, alternate them, compare with the raw rows; the figures."""
    sizes = {"small": options.runs // SMALLER, "full": options.runs}
    figures: dict[str, Any] = {"runs": options.runs, "installs": options.installs, "days": DAYS}
    with ExitStack() as stack:
        home = stack.enter_context(tempfile.TemporaryDirectory())
        urls = {
            size: stack.enter_context(
                database(f"fleet_bench_insight_{size}_{os.getpid()}", is_kept=options.keep)
            )
            for size in sizes
        }

        def built(size: str) -> dict[str, Any]:
            say(f"{size}: {sizes[size]:,} runs and {3 * sizes[size]:,} calls")
            return step("build", urls[size], home, sizes[size], options.installs)

        with ThreadPoolExecutor(len(sizes)) as pool:  # the cells are made by one process a database
            figures |= dict(zip(sizes, pool.map(built, sizes), strict=True))
        rounds: dict[str, list[dict[str, Any]]] = {size: [] for size in sizes}
        for number in range(ROUNDS):
            for size in sizes:
                rounds[size].append(step("measure", urls[size], home))
                median = statistics.median(rounds[size][-1]["repeats_ms"])
                say(f"round {number + 1}, {size}: {median:.1f} ms")
        for size in sizes:
            figures[size] |= summed_up(rounds[size])
        say("raw rows of the full size")
        figures["raw"] = step("compare", urls["full"], home)
        say("dropping the databases")
    medians = {size: figures[size]["overview_p50_ms"] for size in sizes}
    figures["growth"] = round(medians["full"] / medians["small"], 3)
    figures["naive_by_ours"] = round(figures["raw"]["naive_total_ms"] / medians["full"], 1)
    return figures


def summed_up(rounds: list[dict[str, Any]]) -> dict[str, object]:
    """Medians over all rounds of one size."""
    repeats = [value for found in rounds for value in found["repeats_ms"]]
    return {
        "overview_p50_ms": round(statistics.median(repeats), 1),
        "overview_range_ms": [round(min(repeats), 1), round(max(repeats), 1)],
        "overview_cpu_ms": round(statistics.median(found["cpu_ms"] for found in rounds), 1),
        "overview_first_ms": round(statistics.median(found["first_ms"] for found in rounds), 1),
        "boards_ms": round(statistics.median(found["boards_ms"] for found in rounds), 1),
        "parts_ms": {
            name: round(statistics.median(found["parts_ms"][name] for found in rounds), 2)
            for name in rounds[0]["parts_ms"]
        },
    }


def main() -> None:
    """Run, print, and write the results; ``--step`` is for the processes that this starts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=10_000_000)
    parser.add_argument("--installs", type=int, default=5_000)
    parser.add_argument("--keep", action="store_true", help="do not drop the databases")
    parser.add_argument("--step", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        name, *values = options.step
        sys.stdout.write(json.dumps(STEPS[name](*map(int, values))) + "\n")
        return
    end = datetime.now().astimezone().replace(minute=0, second=0, microsecond=0)
    os.environ["BENCH_WINDOW_END"] = (end.astimezone() + timedelta(hours=1)).isoformat()
    figures = run(options)
    figures["took_s"] = round(time.perf_counter() - _BEGUN)
    figures["machine"] = machine()
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(figures, indent=2) + "\n")
    sys.stdout.write(RESULTS.read_text())


if __name__ == "__main__":
    main()
