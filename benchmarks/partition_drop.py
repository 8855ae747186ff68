"""A day dropped against DELETE and VACUUM: `python -m benchmarks.partition_drop`.

Ours: a partition of 2,000,000 tool calls goes as retention lets it go (``drop_partitions``).
Reference: 200,000 rows of a partition like it are deleted and vacuumed. Rows are made by PostgreSQL
itself. Needs PostgreSQL: FLEET_BENCH_DATABASE_URL or the local server. Results go to
benchmarks/results/partition_drop.json; wall time, because what is dropped costs hardly any CPU.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from datetime import date, timedelta
from pathlib import Path

import psycopg

from benchmarks.ingest import database, machine_and_database, spread

ROUNDS = int(os.environ.get("FLEET_BENCH_ROUNDS", "3"))
ROWS = 2_000_000
DELETED_ROWS = 200_000
TABLE = "telemetry_toolcall"
RESULTS = Path(__file__).parent / "results" / "partition_drop.json"
FILL = f"""
INSERT INTO {TABLE} (install_id, start_at, span_id, run_id, tool_name, duration_ms, result_class,
  start_ns, seq, batch_id, received_at, group_id)
SELECT md5(mod(n, 500)::text)::uuid, %(day)s::timestamptz + n * interval '40 ms', md5(n::text),
  md5((n / 3)::text), 'terminal', 12.5, 'ok', 0, n, md5((n / 2000)::text)::uuid, now(), 0
FROM generate_series(1, %(rows)s) n
"""  # noqa: S608 -- our own table


def filled(url: str, day: date, rows: int) -> None:
    """A day with so many rows, at rest: what comes next pays for nothing but itself."""
    from telemetry.store.partitions import Partition, ensure_partitions

    ensure_partitions({Partition(day, TABLE)})
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(FILL.encode(), {"day": f"{day} 00:00:00+00", "rows": rows})
        connection.execute(f"VACUUM ANALYZE {Partition(day, TABLE).name}".encode())
        connection.execute("CHECKPOINT")


def dropped_s(url: str, day: date) -> tuple[float, int]:
    """Seconds to drop a day of ROWS rows, and the bytes that came free."""
    from telemetry.store.partitions import Partition, drop_partitions

    partition = Partition(day, TABLE)
    filled(url, day, ROWS)
    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT pg_total_relation_size(%s)", [partition.name]).fetchone()
    begun = time.perf_counter()
    count = drop_partitions([partition])
    took_s = time.perf_counter() - begun
    if count != 1:
        raise SystemExit("the partition was not dropped")
    return took_s, int(found[0]) if found else 0


def deleted_s(url: str, day: date) -> float:
    """Seconds to delete DELETED_ROWS rows of a day of twice as many, and to vacuum it."""
    from telemetry.store.partitions import Partition, drop_partitions

    partition = Partition(day, TABLE)
    filled(url, day, 2 * DELETED_ROWS)
    with psycopg.connect(url, autocommit=True) as connection:
        begun = time.perf_counter()
        cursor = connection.execute(
            f"DELETE FROM {partition.name} WHERE seq <= %s".encode(),  # noqa: S608 -- our own table
            [DELETED_ROWS],
        )
        connection.execute(f"VACUUM {partition.name}".encode())
        took_s = time.perf_counter() - begun
        if cursor.rowcount != DELETED_ROWS:
            raise SystemExit("not all rows were deleted")
    drop_partitions([partition])
    return took_s


def run(url: str) -> dict[str, object]:
    """All rounds, alternated; the figures."""
    import django

    django.setup()
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    drops: list[float] = []
    deletes: list[float] = []
    size_bytes = 0
    facts = machine_and_database()
    first = date.today() - timedelta(days=40)  # noqa: DTZ011 -- any day will do
    for number in range(ROUNDS):
        took_s, size_bytes = dropped_s(url, first + timedelta(days=2 * number))
        drops.append(took_s)
        deletes.append(deleted_s(url, first + timedelta(days=2 * number + 1)))
    return {
        "rounds": ROUNDS,
        "dropped_rows": ROWS,
        "dropped_bytes": size_bytes,
        "drop_s": spread(drops, 3),
        "deleted_rows": DELETED_ROWS,
        "delete_and_vacuum_s": spread(deletes, 3),
        "machine": facts,
    }


def main() -> None:
    """Run, print, and write the results."""
    with (
        database(f"fleet_bench_drop_{os.getpid()}") as url,
        tempfile.TemporaryDirectory() as home,
    ):
        os.environ |= {
            "DATABASE_URL": url,
            "FLEET_HOME": home,
            "DJANGO_SETTINGS_MODULE": "fleet.settings",
            "FLEET_LOG_LEVEL": "ERROR",
        }
        os.environ.pop("REDIS_URL", None)
        figures = run(url)
        from django.db import connections

        connections.close_all()
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(figures, indent=2) + "\n")
    sys.stdout.write(RESULTS.read_text())


if __name__ == "__main__":
    main()
