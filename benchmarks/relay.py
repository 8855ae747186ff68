"""Spans sent on per second, end to end: `python -m benchmarks.relay [--installs N] [--flaky]`.

Rows of ten installs that ingest stored, 20 hours of each, are numbered, read, encoded, compressed
and sent over real HTTP to a receiver in a process of its own, which decompresses and parses each
request and counts its spans. The clock runs from the first number of the feed to the last
acknowledgement in the cursor. CPU per 1,000 spans is that of the relay's process; the receiver's is
told beside it. Bar: 20,000 spans a second. No table is analysed first.

``--flaky``: 200,000 spans to a receiver that spoils three of ten requests; each must have been
acknowledged exactly once, by its id. ``--installs 1``: all rows are of one install, whose hours are
read again for each window of the feed. Needs PostgreSQL: FLEET_BENCH_DATABASE_URL or the local
server. Results go to benchmarks/results/relay.json and relay_flaky.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import resource
import sys
import tempfile
import time
import uuid
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.ingest import database, machine_and_database, make_batch, prepare

BATCHES = 200
INSTALLS = 10
FLAKY_BATCHES = 104
"""A little more than 200,000 spans."""
BAR_PER_S = 20_000
RESULTS = Path(__file__).parent / "results" / "relay.json"


def receive(pipe: Connection, seed: int | None) -> None:
    """The receiver's process: says its port, then, asked for it, its counts; a seed: flaky."""
    from tests.telemetry.flaky_receiver import FlakyReceiver, spoil

    with FlakyReceiver() as receiver:
        if seed is not None:
            receiver.judge = spoil(random.Random(seed))
        pipe.send(receiver.url)
        pipe.recv()
        used = resource.getrusage(resource.RUSAGE_SELF)
        pipe.send(
            {
                "spans": sum(receiver.acknowledged.values()),
                "distinct": len(receiver.acknowledged),
                "doubled": sum(count > 1 for count in receiver.acknowledged.values()),
                "bodies": len(receiver.requests),
                "cpu_s": round(used.ru_utime + used.ru_stime, 2),
            }
        )


def measure(
    url: str, batch_count: int, *, install_count: int, is_flaky: bool = False
) -> dict[str, Any]:
    """Fill, then relay; what the relay took."""
    import io

    from fleet.lib.clock import now
    from telemetry.ingest.decode import read_body
    from telemetry.ingest.receive import BatchHeader, receive_batch
    from telemetry.models import RelayCursor, RelayDestination
    from telemetry.relay.cursor import make_cursors
    from telemetry.relay.feed import feed
    from telemetry.relay.rounds import run_cursor

    install_ids = [uuid.uuid4() for _ in range(install_count)]
    began_at = now()
    for seed in range(batch_count):
        body = read_body(io.BytesIO(make_batch(seed)), "identity")
        receive_batch(
            BatchHeader(install_id=install_ids[seed % install_count], batch_id=uuid.uuid4()), body
        )
    RelayDestination.objects.create(
        name="bench", endpoint=url, since_at=began_at, sends_logs=False, sends_metrics=False
    )
    make_cursors()
    cpu_s, began_s = time.process_time(), time.perf_counter()
    feed(budget_s=600.0)
    fed_s = time.perf_counter() - began_s
    cursor = RelayCursor.objects.get()
    while not run_cursor(cursor.pk, budget_s=600.0).is_idle:
        cursor.refresh_from_db()
        if is_flaky:
            RelayCursor.objects.update(open_until=None)  # as if every pause were over
        elif cursor.failure_count:
            raise SystemExit(cursor.last_error)
    took_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_s
    cursor.refresh_from_db()
    return {
        "spans": cursor.sent_count,
        "retries": cursor.retry_count,
        "seconds": round(took_s, 2),
        "feed_seconds": round(fed_s, 3),
        "spans_per_s": round(cursor.sent_count / took_s),
        "cpu_s_per_1000_spans": round(1000 * cpu_s / max(1, cursor.sent_count), 4),
    }


def main() -> None:
    """Run it and write the results."""
    made = argparse.ArgumentParser(description="Spans sent on per second, end to end.")
    made.add_argument("--flaky", action="store_true")
    made.add_argument("--installs", type=int, default=INSTALLS)
    made.add_argument("--batches", type=int)
    chosen = made.parse_args()
    is_flaky = chosen.flaky
    batch_count = chosen.batches or (FLAKY_BATCHES if is_flaky else BATCHES)
    seed = random.SystemRandom().randrange(2**32) if is_flaky else None
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=receive, args=(theirs, seed), daemon=True)
    process.start()
    url = ours.recv()
    with contextlib.ExitStack() as stack:
        home = stack.enter_context(tempfile.TemporaryDirectory())
        database_url = stack.enter_context(database(f"bench_relay_{os.getpid()}"))
        os.environ |= {
            "DATABASE_URL": database_url,
            "FLEET_HOME": home,
            "FLEET_OTLP_HOSTS": "127.0.0.0/8",
            "FLEET_OTLP_PLAIN_HTTP": "true",
            "DJANGO_SETTINGS_MODULE": "fleet.settings",
        }
        prepare()
        found = measure(url, batch_count, install_count=chosen.installs, is_flaky=is_flaky)
        from django.db import connection

        connection.close()
    ours.send("end")
    told = ours.recv()
    process.join(10)
    if told["spans"] != found["spans"] or told["distinct"] != found["spans"] or told["doubled"]:
        raise SystemExit(f"sent {found['spans']}, the receiver has {told}")
    if is_flaky and not found["retries"]:
        raise SystemExit("nothing was spoiled: the receiver was not flaky")
    result = {
        "installs": chosen.installs,
        **found,
        "receiver": told,
        "bar_per_s": BAR_PER_S,
        "machine": machine_and_database(),
    }
    if is_flaky:
        result |= {"seed": seed}
    results = RESULTS.with_name("relay_flaky.json") if is_flaky else RESULTS
    results.write_text(json.dumps(result, indent=2) + "\n")
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
