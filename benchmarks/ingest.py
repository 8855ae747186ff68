"""Durable ingest over HTTP against raw COPY, alternated: `python -m benchmarks.ingest`.

Reference (1.00): two connections COPY blocks that were encoded before into the same partitioned
tables. Ours: gunicorn with two workers takes batches of 2,000 rows (gzip NDJSON, token checked,
scrubbed, committed) from two clients. Both load the same rows, round about, tables emptied in
between; the ratio is the figure, rows per second depend on the machine. CPU per row is that of the
console's processes and their database sessions. Needs PostgreSQL: FLEET_BENCH_DATABASE_URL or the
local server. Results go to benchmarks/results/ingest.json.
"""

from __future__ import annotations

import gzip
import http.client
import json
import os
import platform
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

ROUNDS = 5
BATCHES = 20
BATCH_ROWS = 2000
CLIENTS = 2
TABLES = ("telemetry_run", "telemetry_modelcall", "telemetry_toolcall", "telemetry_errorevent")
RESULTS = Path(__file__).parent / "results" / "ingest.json"
SERVER = os.environ.get("FLEET_BENCH_DATABASE_URL", "postgresql://postgres@127.0.0.1:5432/postgres")
S = 1_000_000_000


def make_batch(seed: int) -> bytes:
    """NDJSON of BATCH_ROWS records: each run with 3 model calls, 3 tool calls, maybe an error."""
    from agent_client.contract.tables import BY_NAME

    rng = random.Random(seed)
    lines: list[bytes] = []

    def add(kind: str, **values: object) -> None:
        whole = dict.fromkeys(BY_NAME[kind].column_names()) | values
        record = {"_kind": kind, "seq": seed * BATCH_ROWS + len(lines) + 1, **whole}
        lines.append(json.dumps(record, separators=(",", ":")).encode())

    while len(lines) < BATCH_ROWS:
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
    return b"\n".join(lines[:BATCH_ROWS]) + b"\n"


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


def push_all(port: int, token: str, bodies: list[bytes]) -> float:
    """Seconds until every batch has its receipt."""

    def push_some(first: int) -> None:
        for body in bodies[first::CLIENTS]:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            headers = {
                "Authorization": f"Bearer {token}",
                "Idempotency-Key": str(uuid.uuid4()),
                "Telemetry-Plane": "local",
                "Telemetry-Schema": "1",
                "Content-Type": "application/x-ndjson",
                "Content-Encoding": "gzip",
            }
            connection.request("POST", "/api/v1/telemetry", body, headers)
            answer = connection.getresponse()
            text = answer.read()
            connection.close()
            if answer.status != 200 or b'"duplicates":0' not in text:
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


def cpu_seconds(root: subprocess.Popen[bytes], name: str) -> float:
    """CPU of the console's workers and of the database sessions they hold; Linux, from /proc."""
    ticks = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            title = (folder / "cmdline").read_bytes().decode(errors="replace")
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        is_worker = int(fields[1]) == root.pid
        if is_worker or (title.startswith("postgres:") and name in title):
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def run(name: str, url: str) -> dict[str, object]:
    """All rounds; the figures."""
    _, token = prepare()
    bodies = [gzip.compress(make_batch(seed), 1) for seed in range(BATCHES)]
    rows = BATCHES * BATCH_ROWS
    pushed: list[float] = []
    copied: list[float] = []
    cpu_us: list[float] = []
    with served() as (port, process):
        push_all(port, token, bodies)  # warms both workers and gives the blocks
        blocks = encoded_blocks(url)
        for _ in range(ROUNDS):
            empty(url)
            copied.append(copy_all(url, blocks))
            empty(url)
            before = cpu_seconds(process, name)
            pushed.append(push_all(port, token, bodies))
            cpu_us.append((cpu_seconds(process, name) - before) / rows * 1e6)
    ratios = [raw / ours for raw, ours in zip(copied, pushed, strict=True)]
    return {
        "rows_a_round": rows,
        "rounds": ROUNDS,
        "copy_rows_per_s": round(rows / statistics.median(copied)),
        "http_rows_per_s": round(rows / statistics.median(pushed)),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
        "cpu_us_a_row": round(statistics.median(cpu_us), 1),
        "machine": {
            "cpus": os.cpu_count(),
            "load": [round(load, 1) for load in os.getloadavg()],
            "python": platform.python_version(),
            "platform": platform.platform(),
        },
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
