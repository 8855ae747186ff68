"""Durable ingest over HTTP against raw COPY, alternated: `python -m benchmarks.ingest`.

Reference (1.00): two connections COPY blocks that were encoded before into the same partitioned
tables. Ours: gunicorn with two workers takes batches of 2,000 rows (NDJSON under gzip and under
zstd, token checked, scrubbed, committed) from two clients. Both load the same rows, round about,
tables emptied in between; the ratio is the figure, rows per second depend on the machine. CPU a
row is that of the console's processes and of their database sessions, apart and together. In the
same run: every batch again under a new id (all rows are duplicates), other sizes of batches, and
the naive twin, a DRF serializer and bulk_create (benchmarks.naive). Needs PostgreSQL:
FLEET_BENCH_DATABASE_URL or the local server. Results go to benchmarks/results/ingest.json.
"""

from __future__ import annotations

import functools
import gzip
import http.client
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import zstandard
from psycopg import sql

from benchmarks.facts import machine

ROUNDS = int(os.environ.get("FLEET_BENCH_ROUNDS", "7"))
BATCHES = 20
BATCH_ROWS = 2000
CLIENTS = 2
SIZES = (200, 500, 5000)
TABLES = ("telemetry_run", "telemetry_modelcall", "telemetry_toolcall", "telemetry_errorevent")
RESULTS = Path(__file__).parent / "results" / "ingest.json"
SERVER = os.environ.get("FLEET_BENCH_DATABASE_URL", "postgresql://postgres@127.0.0.1:5432/postgres")
S = 1_000_000_000


def make_batch(seed: int, row_count: int = BATCH_ROWS) -> bytes:
    """NDJSON of so many records: each run with 3 model calls, 3 tool calls, maybe an error."""
    from agent_client.contract.tables import BY_NAME

    rng = random.Random(seed)
    lines: list[bytes] = []

    def add(kind: str, **values: object) -> None:
        whole = dict.fromkeys(BY_NAME[kind].column_names()) | values
        record = {"_kind": kind, "seq": seed * row_count + len(lines) + 1, **whole}
        lines.append(json.dumps(record, separators=(",", ":")).encode())

    while len(lines) < row_count:
        start_ns = time.time_ns() - rng.randrange(20 * 3600) * S
        run, trace = f"{rng.getrandbits(128):032x}", f"{rng.getrandbits(128):032x}"
        place = {"run_id": run, "trace_id": trace, "start_ns": start_ns, "end_ns": start_ns + S}
        add("tel_runs", **place, entrypoint="cli", end_reason="completed", agent_version="0.19.0")
        for _ in range(3):
            add(
                "tel_model_calls",
                **place,
                span_id=f"{rng.getrandbits(64):016x}",
                provider="openrouter",
                model=rng.choice(["claude-sonnet-5", "gpt-6", "gemini-4"]),
                input_tokens=rng.randrange(9000),
                output_tokens=rng.randrange(900),
                latency_ms=rng.uniform(200, 9000),
                estimated_cost_usd=rng.uniform(0, 0.1),
            )
            add(
                "tel_tool_calls",
                **place,
                span_id=f"{rng.getrandbits(64):016x}",
                tool_name=rng.choice(["terminal", "read_file", "browser"]),
                duration_ms=rng.uniform(1, 900),
                result_class="ok",
            )
        if rng.random() < 0.2:
            span = f"{rng.getrandbits(64):016x}"
            add("tel_error_events", run_id=run, span_id=span, ts_ns=start_ns, error_class="auth")
    return b"\n".join(lines[:row_count]) + b"\n"


@contextmanager
def database(name: str) -> Iterator[str]:
    """A database of this benchmark's own; its URL."""
    with psycopg.connect(SERVER, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    try:
        yield f"{SERVER.rpartition('/')[0]}/{name}"
    finally:
        with psycopg.connect(SERVER, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def prepare() -> tuple[str, str]:
    """Tables and an install; its id and its credential."""
    import django

    django.setup()
    from django.core.management import call_command

    from agent_client.contract import wire
    from agent_client.contract.tokens import PREFIX_INSTALL
    from fleet.lib import tokens
    from fleet.models import Install, InstallCredential

    call_command("migrate", verbosity=0)
    call_command("telemetry_partitions", "apply", verbosity=0)
    install = Install.objects.create(pk=uuid.uuid4(), machine_id="b" * 64)
    token, stored = tokens.mint(PREFIX_INSTALL)
    InstallCredential.objects.create(
        install=install,
        key_id=token.key_id,
        digest=stored.digest,
        pepper_id=stored.pepper_id,
        scopes=list(wire.SCOPES),
    )
    return str(install.pk), token.text()


@contextmanager
def served() -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """The console under gunicorn with two workers, on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "gunicorn", "-b", f"127.0.0.1:{port}", "-w", str(CLIENTS)]
    process = subprocess.Popen(  # noqa: S603 -- our own command
        [*command, "--log-level", "error", "fleet.wsgi:application"]
    )
    try:
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.05)
        yield port, process
    finally:
        process.terminate()
        process.wait()


def compressed(data: bytes, encoding: str) -> bytes:
    """A body as it goes over the wire; both at their fastest level."""
    if encoding == "zstd":
        return zstandard.ZstdCompressor(level=1).compress(data)
    return gzip.compress(data, 1)


def push_all(
    port: int, token: str, bodies: list[bytes], encoding: str = "gzip", *, is_new: bool = True
) -> float:
    """Seconds until every batch has its receipt; ``is_new``: no row of it may be a duplicate."""

    def push_some(first: int) -> None:
        for body in bodies[first::CLIENTS]:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            headers = {
                "Authorization": f"Bearer {token}",
                "Idempotency-Key": str(uuid.uuid4()),
                "Telemetry-Plane": "local",
                "Telemetry-Schema": "1",
                "Content-Type": "application/x-ndjson",
                "Content-Encoding": encoding,
            }
            connection.request("POST", "/api/v1/telemetry", body, headers)
            answer = connection.getresponse()
            text = answer.read()
            connection.close()
            if answer.status != 200 or (b'"duplicates":0' in text) != is_new:
                raise SystemExit(f"push failed: {answer.status} {text[:300]!r}")

    begun = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(push_some, range(CLIENTS)))
    return time.perf_counter() - begun


def encoded_blocks(url: str) -> list[dict[str, bytes]]:
    """What is stored, as one set of binary COPY blocks a batch."""
    blocks: list[dict[str, bytes]] = []
    with psycopg.connect(url) as connection:
        ids = connection.execute("SELECT batch_id FROM telemetry_ingestbatch").fetchall()
        for (batch_id,) in ids[-BATCHES:]:
            found: dict[str, bytes] = {}
            for table in TABLES:
                rows = sql.SQL("SELECT * FROM {} WHERE batch_id = {}").format(
                    sql.Identifier(table), sql.Literal(batch_id)
                )
                statement = sql.SQL("COPY ({}) TO STDOUT BINARY").format(rows)
                with connection.cursor().copy(statement) as copy:
                    found[table] = b"".join(map(bytes, copy))
            blocks.append(found)
    return blocks


def copy_all(url: str, blocks: list[dict[str, bytes]]) -> float:
    """Seconds for two connections to COPY all blocks, a commit a batch."""

    def copy_some(first: int) -> None:
        with psycopg.connect(url) as connection:
            for block in blocks[first::CLIENTS]:
                for table, data in block.items():
                    statement = f"COPY {table} FROM STDIN BINARY".encode()
                    with connection.cursor().copy(statement) as copy:
                        copy.write(data)
                connection.commit()

    begun = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(copy_some, range(CLIENTS)))
    return time.perf_counter() - begun


def empty(url: str) -> None:
    """The event tables without rows."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"TRUNCATE {', '.join(TABLES)}".encode())


def cpu_split(root: subprocess.Popen[bytes], name: str) -> tuple[float, float]:
    """CPU seconds of the console's workers, and of the database's sessions; Linux, from /proc."""
    console = sessions = 0.0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            title = (folder / "cmdline").read_bytes().decode(errors="replace")
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            is_session = title.startswith("postgres:") and name in title
            if parent != root.pid and not is_session:
                continue
            spent_s = sum(
                int((task / "schedstat").read_text().split()[0]) / 1e9
                for task in (folder / "task").iterdir()
            )
        except OSError:  # it ended meanwhile
            continue
        if is_session:
            sessions += spent_s
        else:
            console += spent_s
    return console, sessions


def cpu_seconds(root: subprocess.Popen[bytes], name: str) -> float:
    """CPU seconds of the console's workers and of the database's sessions together."""
    return sum(cpu_split(root, name))


def spread(values: Sequence[float], digits: int = 2) -> dict[str, float]:
    """The least, the middle and the most of some rounds."""
    middle = statistics.median(values)
    named = {"min": min(values), "median": middle, "max": max(values)}
    return {name: round(value, digits) for name, value in named.items()}


@dataclass(slots=True)
class Cost:
    """What a way of loading cost, round by round."""

    seconds: list[float] = field(default_factory=list)
    console_us: list[float] = field(default_factory=list)
    database_us: list[float] = field(default_factory=list)

    def both_us(self) -> list[float]:
        """Console and database together."""
        return [sum(pair) for pair in zip(self.console_us, self.database_us, strict=True)]

    def figures(self, rows: int) -> dict[str, object]:
        """As it goes into the results; µs are CPU a row."""
        return {
            "rows_per_s": round(rows / statistics.median(self.seconds)),
            "cpu_us_a_row": spread(self.both_us()),
            "console_us_a_row": spread(self.console_us),
            "database_us_a_row": spread(self.database_us),
        }


@dataclass(frozen=True, slots=True)
class Bench:
    """A console that is served, and what is pushed to it."""

    name: str
    url: str
    port: int
    token: str
    process: subprocess.Popen[bytes]

    def measure(self, cost: Cost, rows: int, load: Callable[[], float]) -> None:
        """Load once and add what it cost."""
        before = cpu_split(self.process, self.name)
        cost.seconds.append(load())
        after = cpu_split(self.process, self.name)
        cost.console_us.append((after[0] - before[0]) / rows * 1e6)
        cost.database_us.append((after[1] - before[1]) / rows * 1e6)

    def push(self, bodies: list[bytes], encoding: str = "gzip", *, is_new: bool = True) -> float:
        """Seconds for all bodies."""
        return push_all(self.port, self.token, bodies, encoding, is_new=is_new)


def alternated(bench: Bench, batches: list[bytes]) -> dict[str, object]:
    """Raw COPY, gzip, zstd, duplicates and the naive twin in turn."""
    from benchmarks.naive import load_naively

    rows = len(batches) * BATCH_ROWS
    bodies = {name: [compressed(data, name) for data in batches] for name in ("gzip", "zstd")}
    bench.push(bodies["gzip"])  # warms both workers and gives the blocks
    blocks = encoded_blocks(bench.url)
    costs = {name: Cost() for name in ("gzip", "zstd", "duplicates")}
    copied: list[float] = []
    naive_us: list[float] = []

    def again() -> float:
        return bench.push(bodies["zstd"], "zstd", is_new=False)

    for _ in range(ROUNDS):
        empty(bench.url)
        copied.append(copy_all(bench.url, blocks))
        for name, sent in bodies.items():
            empty(bench.url)
            bench.measure(costs[name], rows, functools.partial(bench.push, sent, name))
        bench.measure(costs["duplicates"], rows, again)
        empty(bench.url)
        naive_us.append(load_naively(batches[:2]) / (2 * BATCH_ROWS) * 1e6)
    found: dict[str, object] = {"copy_rows_per_s": round(rows / statistics.median(copied))}
    for name, cost in costs.items():
        ratios = [raw / ours for raw, ours in zip(copied, cost.seconds, strict=True)]
        found[name] = {"ratio_to_copy": spread(ratios, 3), **cost.figures(rows)}
    times = [slow / fast for slow, fast in zip(naive_us, costs["zstd"].both_us(), strict=True)]
    found["serializer_and_bulk_create"] = {
        "cpu_us_a_row": spread(naive_us),
        "times_ours_zstd": spread(times, 1),
    }
    return found


def by_size(bench: Bench) -> dict[str, object]:
    """The cost of other sizes of batches, zstd, the same number of rows each."""
    found: dict[str, object] = {}
    for size in SIZES:
        count = BATCHES * BATCH_ROWS // size
        sent = [compressed(make_batch(seed, size), "zstd") for seed in range(count)]
        cost = Cost()
        for _ in range(3):
            empty(bench.url)
            bench.measure(cost, count * size, functools.partial(bench.push, sent, "zstd"))
        found[str(size)] = cost.figures(count * size)
    return found


def machine_and_database() -> dict[str, object]:
    """On what this was measured."""
    with psycopg.connect(SERVER) as connection:
        version = connection.execute("SHOW server_version").fetchone()
        settings = connection.execute(
            "SELECT name, setting FROM pg_settings WHERE name = ANY(%s) ORDER BY name",
            [["fsync", "synchronous_commit", "wal_compression", "shared_buffers", "autovacuum"]],
        ).fetchall()
    return {
        **machine(),
        "postgresql": str(version[0]) if version else "",
        "settings": dict(settings),
    }


def run(name: str, url: str) -> dict[str, object]:
    """All rounds; the figures."""
    _, token = prepare()
    batches = [make_batch(seed) for seed in range(BATCHES)]
    facts = machine_and_database()
    with served() as (port, process):
        bench = Bench(name, url, port, token, process)
        figures = alternated(bench, batches)
        figures["by_batch_rows"] = by_size(bench)
    return {
        "rows_a_round": BATCHES * BATCH_ROWS,
        "batch_rows": BATCH_ROWS,
        "rounds": ROUNDS,
        **figures,
        "machine": facts,
    }


def main() -> None:
    """Run, print, and write the results."""
    name = f"fleet_bench_{os.getpid()}"
    with database(name) as url, tempfile.TemporaryDirectory() as home:
        os.environ |= {
            "DATABASE_URL": url,
            "FLEET_HOME": home,
            "DJANGO_SETTINGS_MODULE": "fleet.settings",
            "FLEET_RATE_INSTALL_PER_MIN": "1000000",
            "FLEET_RATE_ADDRESS_PER_MIN": "1000000",
            "FLEET_RATE_INSTALL_ROWS_PER_MIN": "0",
            "FLEET_RATE_INSTALL_BYTES_PER_MIN": "0",
            "FLEET_LOG_LEVEL": "ERROR",
            "FLEET_DB_CONN_AGE_S": "86400",  # a session that ends takes its CPU time with it
        }
        os.environ.pop("REDIS_URL", None)
        figures = run(name, url)
        from django.db import connections

        connections.close_all()
    figures["server"] = urlsplit(SERVER).hostname
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(figures, indent=2) + "\n")
    sys.stdout.write(RESULTS.read_text())


if __name__ == "__main__":
    main()
