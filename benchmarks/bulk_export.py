"""The console's bulk export against the reference's way of it: `python -m benchmarks.bulk_export`.

Reference: every row fetched into a list of dictionaries, one `json.dumps` of the list, no
redaction. Beside it PostgreSQL's own way, `row_to_json` read by a server-side cursor. Ours is the
engine as a worker runs it, `order_job` and `run_job`: keyset pages, each text redacted, NDJSON,
JSON, CSV, Parquet and NDJSON in gzip to the console's store, fsync, digest, manifest and job rows
included. All three read the same table of model calls, alternated, each in a process of its own.

Growth: the peak of resident memory (VmHWM, reset before the export) past the resident memory of
the same process when all is loaded (Django, the project, the redaction rules, for Parquet pyarrow)
and an export of two seconds of rows is done. CPU is the process's own; PostgreSQL's work is in the
wall time only. `--rows` takes another size, `--rounds` another number of rounds; a round of a
million rows takes two minutes. Needs PostgreSQL: FLEET_BENCH_DATABASE_URL or the local server.
Results: benchmarks/results/bulk_export.json.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg

ROWS = 1_000_000
ROUNDS = 3
RESULTS = Path(__file__).parent / "results" / "bulk_export.json"
OURS = ("ndjson", "json", "csv", "parquet", "ndjson.gz")
WAYS = (*OURS, "seed", "sql")
START = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=10)
INSTALLS = 200
# A week of 200 installs, as an agent writes its calls: ids of two forms, a dozen models.
FILL = """
INSERT INTO telemetry_modelcall (install_id, start_at, span_id, run_id, provider, model, base_url,
  input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, reasoning_tokens, latency_ms,
  estimated_cost_usd, cost_status, cost_source, end_reason, retry_count, trace_id, parent_span_id,
  start_ns, end_ns, response_model, finish_reason, api_request_id, seq, batch_id, received_at,
  group_id)
SELECT
  ('01890000-0000-7000-8000-' || lpad(to_hex(n %% {installs}), 12, '0'))::uuid, at,
  substr(md5(n::text), 1, 16), md5((n / 6)::text),
  (ARRAY['openrouter', 'anthropic'])[(n %% 2 + 1)::int],
  'anthropic/claude-sonnet-' || n %% 12, 'openrouter.ai', n %% 4001, n %% 997, n %% 3001, n %% 13,
  n %% 499, n %% 90001 / 8.0, n %% 997 / 7919.0, 'estimated', 'prices', 'completed',
  (n %% 50 = 0)::int,
  md5((n / 6)::text), substr(md5((n / 6)::text), 1, 16),
  (extract(epoch FROM at) * 1000000)::bigint * 1000,
  (extract(epoch FROM at) * 1000000)::bigint * 1000 + n %% 7919 * 1000000,
  'claude-sonnet-' || n %% 12 || '-20260901', (ARRAY['stop', 'tool_calls'])[(n %% 4 / 3 + 1)::int],
  '20261122_' || lpad((n / 6 %% 240000)::text, 6, '0') || '_' || substr(md5((n / 6)::text), 1, 6)
    || ':task:' || substr(md5(n::text), 1, 8) || ':api:' || n %% 6,
  n, md5((n / 2000)::text)::uuid, at + interval '1 minute', 1
FROM (SELECT n, %(start)s::timestamptz + n * (interval '7 days' / %(rows)s) AS at
      FROM generate_series(0::bigint, %(rows)s - 1) AS n) AS numbered
"""


def fill(url: str, rows: int) -> None:
    """So many model calls in day partitions, as ingest would have stored them."""
    import django

    django.setup()
    from django.core.management import call_command

    from fleet.models import Install
    from telemetry.store.partitions import Partition, ensure_partitions

    call_command("migrate", verbosity=0)
    days = [(START + timedelta(days=n)).date() for n in range(8)]
    ensure_partitions({Partition(day, "telemetry_modelcall") for day in days})
    Install.objects.create(pk="01890000-0000-7000-8000-000000000001", machine_id="b" * 64)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(FILL.format(installs=INSTALLS), {"start": START, "rows": rows})
        connection.execute("VACUUM ANALYZE telemetry_modelcall")


def engine(
    fmt: str, start: datetime = START, length: timedelta = timedelta(days=8)
) -> tuple[int, int]:
    """An export as a worker runs it; rows and bytes written."""
    from telemetry.exports.orders import Order, order_job
    from telemetry.exports.run import run_job

    job = order_job(
        Order(
            datasets=("model_calls",),
            fmt=fmt.removesuffix(".gz"),
            is_gzipped=fmt.endswith(".gz"),
            start_at=start,
            end_at=start + length,
        ),
        actor="benchmark",
    )
    done = run_job(job.pk, budget_s=3600)
    if done.state != "done":
        raise SystemExit(f"{fmt}: {done.state} {done.last_error}")
    return done.done_count, done.done_bytes


def seed(out: Path) -> tuple[int, int]:
    """The reference's way."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM telemetry_modelcall")
        names = [column[0] for column in cursor.description]
        rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    data = json.dumps({"records": rows}, default=str).encode()
    (out / "seed.json").write_bytes(data)
    return len(rows), len(data)


def sql(out: Path) -> tuple[int, int]:
    """The database's own JSON, read by a server-side cursor; no redaction."""
    count = size = 0
    with (
        psycopg.connect(os.environ["DATABASE_URL"]) as connection,
        connection.cursor("rows") as cursor,
        (out / "sql.ndjson").open("wb") as file,
    ):
        cursor.execute("SELECT row_to_json(t)::text FROM telemetry_modelcall AS t")
        while rows := cursor.fetchmany(5_000):
            data = "\n".join(row[0] for row in rows).encode() + b"\n"
            count, size = count + len(rows), size + len(data)
            file.write(data)
    return count, size


def memory_kb(name: str) -> int:
    """VmRSS or VmHWM of this process."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    raise LookupError(name)


def run_one(way: str, folder: Path) -> None:
    """One export in this process; its figures as JSON on stdout."""
    import logging

    import django

    django.setup()
    logging.disable(logging.WARNING)
    # What a process loads and compiles once: an export of a few rows goes through all of it.
    engine(way if way in OURS else "ndjson", START, timedelta(seconds=2))
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before_kb = memory_kb("VmRSS")
    cpu_s, start_s = time.process_time(), time.perf_counter()
    ways = {"seed": seed, "sql": sql}
    rows, size_bytes = ways[way](folder) if way in ways else engine(way)
    took_s, used_s = time.perf_counter() - start_s, time.process_time() - cpu_s
    grown_kb = memory_kb("VmHWM") - before_kb
    figures = {
        "rows": rows,
        "s": took_s,
        "cpu_s": used_s,
        "bytes": size_bytes,
        "base_mb": before_kb / 1024,
        "growth_mb": grown_kb / 1024,
    }
    sys.stdout.write(json.dumps(figures))


def measure(way: str, url: str) -> dict[str, float]:
    """The figures of one export in a process of its own, on a disk of its own folder."""
    with tempfile.TemporaryDirectory() as home:
        environ = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "fleet.settings",
            "DATABASE_URL": url,
            "FLEET_HOME": home,
        }
        command = [sys.executable, "-m", "benchmarks.bulk_export", "--one", way, home]
        figures: dict[str, float] = json.loads(subprocess.check_output(command, env=environ))  # noqa: S603  # ours
    return figures


def summary(way: str, rounds: list[dict[str, float]]) -> dict[str, object]:
    """Medians and ranges of a way's rounds."""
    rates = [figures["rows"] / figures["s"] for figures in rounds]
    return {
        "way": way,
        "rows": int(rounds[0]["rows"]),
        "rows_per_s": round(statistics.median(rates)),
        "rows_per_s_range": [round(min(rates)), round(max(rates))],
        "rows_per_cpu_s": round(statistics.median(f["rows"] / f["cpu_s"] for f in rounds)),
        "mb_written": round(rounds[0]["bytes"] / 1e6, 1),
        "base_mb": round(max(f["base_mb"] for f in rounds), 1),
        "growth_mb": round(max(f["growth_mb"] for f in rounds), 1),
    }


def main() -> None:
    """Run, print the table, write the results."""
    parser = argparse.ArgumentParser(description="Measure the console's bulk export.")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--one", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        run_one(args.one[0], Path(args.one[1]))
        return
    ways = args.ways.split(",")
    results = []
    from benchmarks.ingest import (  # not in the processes that are measured
        database,
        machine_and_database,
    )

    found: dict[str, list[dict[str, float]]] = {}
    for rows in (args.rows // 5, args.rows):
        with database(f"bench_export_{os.getpid()}") as url, tempfile.TemporaryDirectory() as home:
            command = [
                sys.executable,
                "-c",
                f"from benchmarks.bulk_export import fill; fill({url!r}, {rows})",
            ]
            environ = {"DJANGO_SETTINGS_MODULE": "fleet.settings", "DATABASE_URL": url}
            subprocess.check_call(command, env={**os.environ, **environ, "FLEET_HOME": home})  # noqa: S603  # ours
            found = {way: [] for way in ways}
            for _ in range(args.rounds):
                for way, rounds in found.items():
                    rounds.append(measure(way, url))
                    sys.stderr.write(f"{way}: {rows:,} rows in {rounds[-1]['s']:.1f} s\n")
        results += [summary(way, rounds) for way, rounds in found.items()]
    for line in results:
        sys.stdout.write(
            f"{line['way']:<10} {line['rows']:>9,} rows  {line['rows_per_s']:>8,} rows/s  "
            f"{line['rows_per_cpu_s']:>8,} rows/CPU s  {line['mb_written']:>7} MB  "
            f"+{line['growth_mb']} MB\n"
        )
    ratios = {
        way: round(
            statistics.median(
                theirs["s"] / mine["s"]
                for mine, theirs in zip(found[way], found["seed"], strict=True)
            ),
            2,
        )
        for way in ways
        if way in OURS and "seed" in found
    }
    sys.stdout.write(f"times as fast as the reference at {args.rows:,} rows: {ratios}\n")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(
        json.dumps({"machine": machine_and_database(), "rows": results, "ratios": ratios}, indent=2)
        + "\n"
    )


if __name__ == "__main__":
    main()
