"""One install floods, the others' p95: `python -m benchmarks.noisy_neighbour`.

Quiet installs push a small batch each at a steady pace; then the same while one install sends
batches of 2,000 rows over eight connections as fast as it is answered, whatever it is answered;
then the same without any limit, to see what the limits are worth. The three are alternated over
real HTTP (gunicorn, two workers of four threads). The quota is set low enough that the flood meets
it within a second; with the default quota the flood lasts until a million rows are in. Latencies
count from the moment a push was due, so waiting in a queue counts. Needs PostgreSQL:
FLEET_BENCH_DATABASE_URL or the local server. Results go to benchmarks/results/noisy_neighbour.json.
"""

from __future__ import annotations

import gzip
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path

from benchmarks.facts import machine
from benchmarks.ingest import database, make_batch

ROUNDS = 3
PHASE_S = 6.0
SETTLE_S = 3.0
"""The flood begins this much before the first measured push: it is to have met its quota."""
QUIET_INSTALLS = 8
EVERY_S = 0.5
QUIET_ROWS = 50
FLOOD_CONNECTIONS = 8
QUOTA_ROWS_PER_MIN = 60_000
RESULTS = Path(__file__).parent / "results" / "noisy_neighbour.json"


def enroll(count: int) -> list[str]:
    """Credentials of so many new installs."""
    from agent_client.contract import wire
    from agent_client.contract.tokens import PREFIX_INSTALL
    from fleet.lib import tokens
    from fleet.models import Install, InstallCredential

    found: list[str] = []
    for _ in range(count):
        install = Install.objects.create(pk=uuid.uuid4(), machine_id=uuid.uuid4().hex * 2)
        token, stored = tokens.mint(PREFIX_INSTALL)
        InstallCredential.objects.create(
            install=install,
            key_id=token.key_id,
            digest=stored.digest,
            pepper_id=stored.pepper_id,
            scopes=list(wire.SCOPES),
        )
        found.append(token.text())
    return found


@contextmanager
def served(quota: int) -> Iterator[int]:
    """The console as `up` serves it, with a quota of rows a minute and install; its port."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    options = ["-w", "2", "--worker-class", "gthread", "--threads", "4", "--log-level", "critical"]
    process = subprocess.Popen(  # noqa: S603 -- our own command
        [sys.executable, "-m", "gunicorn", "-b", f"127.0.0.1:{port}", *options, "fleet.wsgi"],
        env={**os.environ, "FLEET_RATE_INSTALL_ROWS_PER_MIN": str(quota)},
    )
    try:
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait()


def push(port: int, token: str, body: bytes) -> int:
    """The status of one push; 0 when no answer came."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {
        "Authorization": f"Bearer {token}",
        "Idempotency-Key": str(uuid.uuid4()),
        "Telemetry-Plane": "local",
        "Telemetry-Schema": "1",
        "Content-Type": "application/x-ndjson",
        "Content-Encoding": "gzip",
    }
    try:
        connection.request("POST", "/api/v1/telemetry", body, headers)
        answer = connection.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()
    return answer.status


def flood(port: int, token: str) -> None:
    """Push at once again after whatever comes, until standard input ends; then say the answers."""
    os.nice(19)
    bodies = [gzip.compress(make_batch(seed), 1) for seed in range(4)]
    stop, answers = threading.Event(), Counter[int]()

    def one(number: int) -> None:
        while not stop.is_set():
            answers[push(port, token, bodies[number % len(bodies)])] += 1

    with ThreadPoolExecutor(FLOOD_CONNECTIONS) as pool:
        for number in range(FLOOD_CONNECTIONS):
            pool.submit(one, number)
        sys.stdin.read()
        stop.set()
    sys.stdout.write(json.dumps(answers))


@contextmanager
def flooded(port: int, token: str, answers: Counter[int]) -> Iterator[None]:
    """A flood while the block runs, from a process that gets only what CPU others leave.

    It stands for another machine: what it computes must not be what the others wait for.
    """
    command = [sys.executable, "-m", "benchmarks.noisy_neighbour", "flood", str(port), token]
    process = subprocess.Popen(  # noqa: S603 -- our own command
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    time.sleep(SETTLE_S)
    try:
        yield
    finally:
        said, _ = process.communicate("", timeout=120)
        answers.update({int(status): number for status, number in json.loads(said).items()})


def quiet(port: int, tokens: list[str]) -> list[float]:
    """Milliseconds from the moment each push was due to its receipt."""
    begun = time.perf_counter() + 0.1
    bodies = [
        gzip.compress(b"\n".join(make_batch(1000 + seed).splitlines()[:QUIET_ROWS]) + b"\n", 1)
        for seed in range(len(tokens))
    ]

    def one(number: int) -> list[float]:
        took: list[float] = []
        due = begun + number * EVERY_S / len(tokens)
        while due < begun + PHASE_S:
            time.sleep(max(0.0, due - time.perf_counter()))
            status = push(port, tokens[number], bodies[number])
            if status != 200:
                raise SystemExit(f"a quiet install was answered {status}")
            took.append((time.perf_counter() - due) * 1000)
            due += EVERY_S
        return took

    with ThreadPoolExecutor(len(tokens)) as pool:
        return [took for some in pool.map(one, range(len(tokens))) for took in some]


def phase(tokens: list[str], *, quota: int, is_flooded: bool) -> tuple[list[float], Counter[int]]:
    """The quiet installs' latencies, and what the flood was answered."""
    answers = Counter[int]()
    with served(quota) as port:
        for token in tokens[1:] * 2:
            push(port, token, gzip.compress(make_batch(1), 1))  # warms both workers
        with flooded(port, tokens[0], answers) if is_flooded else nullcontext():
            return quiet(port, tokens[1:]), answers


def run() -> dict[str, object]:
    """All rounds; the figures."""
    import django

    django.setup()
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    call_command("telemetry_partitions", "apply", verbosity=0)
    tokens = enroll(QUIET_INSTALLS + 1)
    cases = {
        "alone": {"quota": QUOTA_ROWS_PER_MIN, "is_flooded": False},
        "flooded, limited": {"quota": QUOTA_ROWS_PER_MIN, "is_flooded": True},
        "flooded, no limit": {"quota": 0, "is_flooded": True},
    }
    took: dict[str, list[list[float]]] = {name: [] for name in cases}
    answered: dict[str, Counter[int]] = {name: Counter() for name in cases}
    for _ in range(ROUNDS):
        for name, case in cases.items():
            found, answers = phase(tokens, **case)  # type: ignore[arg-type]  # as the cases say
            took[name].append(found)
            answered[name] += answers
    return {
        "cases": {
            name: {
                "pushes": sum(map(len, rounds)),
                "p50_ms": round(statistics.median(value for some in rounds for value in some), 1),
                "p95_ms": round(statistics.median(_p95(some) for some in rounds), 1),
                "p95_ms_range": [
                    round(min(map(_p95, rounds)), 1),
                    round(max(map(_p95, rounds)), 1),
                ],
                "flood_answers": dict(sorted(answered[name].items())),
            }
            for name, rounds in took.items()
        },
        "p95_ratio_limited": _ratio(took, "flooded, limited"),
        "p95_ratio_no_limit": _ratio(took, "flooded, no limit"),
        "quota_rows_per_min": QUOTA_ROWS_PER_MIN,
        "machine": machine(),
    }


def _p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]


def _ratio(took: dict[str, list[list[float]]], name: str) -> float:
    ratios = [
        _p95(noisy) / _p95(alone) for noisy, alone in zip(took[name], took["alone"], strict=True)
    ]
    return round(statistics.median(ratios), 2)


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
            "FLEET_RATE_INSTALL_BYTES_PER_MIN": "0",
            "FLEET_LOG_LEVEL": "CRITICAL",
        }
        os.environ.pop("REDIS_URL", None)
        figures = run()
        from django.db import connections

        connections.close_all()
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(figures, indent=2) + "\n")
    sys.stdout.write(RESULTS.read_text())


if __name__ == "__main__":
    if sys.argv[1:2] == ["flood"]:
        flood(int(sys.argv[2]), sys.argv[3])
    else:
        main()
