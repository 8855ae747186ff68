"""Unchanged polls a second, from memory and through DRF: `python -m benchmarks.poll`.

Starts gunicorn as `manage.py up` does, with two workers on a PostgreSQL database and a Redis of its
own, twice: with the poll memory and with FLEET_POLL_CACHE_S=0. Agents poll over kept connections,
each its own credential, in turns of the two consoles; every answer must be 304. Afterwards one
install is revoked and one pin published, to see how long the memory still answers. Client and
console share the machine: what the client itself takes is in the figures. Needs PostgreSQL
(FLEET_BENCH_DATABASE_URL) and Redis (FLEET_BENCH_REDIS_URL). Results: benchmarks/results/poll.json.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from pathlib import Path

from benchmarks.ingest import database, machine_and_database

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).parent / "results" / "poll.json"
REDIS = os.environ.get("FLEET_BENCH_REDIS_URL", "redis://127.0.0.1:6379/14")
PATH = "/api/v1/policy/assignment"
TICKS = os.sysconf("SC_CLK_TCK")


def request(token: str, etag: str) -> bytes:
    """A poll as it goes over the wire."""
    lines = [
        f"GET {PATH} HTTP/1.1",
        "Host: 127.0.0.1",
        f"Authorization: Bearer {token}",
        "User-Agent: hermes-fleet-agent/0.1.0",
        f'If-None-Match: "{etag}"',
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def ask(stream: socket.socket, data: bytes) -> tuple[int, str]:
    """Status and entity tag of one answer without a body, or with one that is read away."""
    stream.sendall(data)
    head = b""
    while b"\r\n\r\n" not in head:
        piece = stream.recv(65_536)
        if not piece:
            raise ConnectionError("the console closed the connection")
        head += piece
    text, _empty, rest = head.partition(b"\r\n\r\n")
    fields = {
        name.strip().lower(): value.strip()
        for name, _colon, value in (line.partition(b":") for line in text.split(b"\r\n")[1:])
    }
    missing = int(fields.get(b"content-length", b"0")) - len(rest)
    while missing > 0:
        missing -= len(stream.recv(65_536))
    return int(text.split(b" ")[1]), fields.get(b"etag", b"").decode().strip('"')


def poll(port: int, requests: list[bytes], seconds: float) -> tuple[int, list[float], float]:
    """One client: how many 304s, each answer's time, and the CPU seconds it took itself."""
    stream = socket.create_connection(("127.0.0.1", port))
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    began_cpu_s, took_s, count = time.process_time(), list[float](), 0
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        at_s = time.perf_counter()
        stream.sendall(requests[count % len(requests)])
        head = stream.recv(65_536)
        took_s.append(time.perf_counter() - at_s)
        if not head.startswith(b"HTTP/1.1 304 ") or not head.endswith(b"\r\n\r\n"):
            raise SystemExit(f"not 304: {head[:300]!r}")
        count += 1
    return count, took_s, time.process_time() - began_cpu_s


@contextmanager
def console(port: int, home: str, *, cache_s: int) -> Iterator[subprocess.Popen[bytes]]:
    """Gunicorn with the options of `manage.py up`, until it answers."""
    from fleet.bringup import web_options

    options = list(web_options())
    options[options.index("--bind") + 1] = f"127.0.0.1:{port}"
    log = Path(home) / f"console-{port}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(  # noqa: S603 -- our own server
            [sys.executable, "-m", "gunicorn", *options],
            env={**os.environ, "FLEET_POLL_CACHE_S": str(cache_s), "WEB_CONCURRENCY": "2"},
            cwd=ROOT,
            stdout=out,
            stderr=out,
        )
    try:
        for _ in range(600):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if process.poll() is not None:
                    raise SystemExit(log.read_text()) from None
                time.sleep(0.1)
        yield process
    finally:
        process.terminate()
        process.wait()


def cpu_s(process: subprocess.Popen[bytes]) -> float:
    """CPU seconds of a web server and its workers."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    total = 0
    for pid in [str(process.pid), *children]:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def enroll(count: int) -> list[str]:
    """The tokens of so many installs, with a policy that is published."""
    from uuid import uuid4

    from fleet.enroll.credentials import new_credential
    from fleet.lib.clock import now
    from fleet.models import Install, Pin, PinScope, SyncState
    from fleet.policy.publish import publish_revision

    Pin.objects.create(
        scope=PinScope.FLEET, key="telemetry.retention_days", value=60, reason="benchmark"
    )
    publish_revision(actor="benchmark", reason="benchmark")
    tokens = []
    for _ in range(count):
        install = Install.objects.create(
            id=uuid4(),
            machine_id="b" * 64,
            last_seen_at=now(),
            # Of one that never checked in the database wants to hear each time.
            sync_state=SyncState.IN_SYNC,
        )
        tokens.append(new_credential(install, is_candidate=False, expires_at=None)[1])
    return tokens


def warm(port: int, tokens: list[str]) -> list[bytes]:
    """Every install polls often enough for both workers to know it; the requests to repeat."""
    made = []
    for token in tokens:
        with socket.create_connection(("127.0.0.1", port)) as stream:
            _status, etag = ask(stream, request(token, "-"))
        made.append(request(token, etag))
    for _ in range(4):
        for data in made:
            with socket.create_connection(("127.0.0.1", port)) as stream:
                status, _etag = ask(stream, data)
            if status != 304:
                raise SystemExit(f"not 304 but {status}")
    return made


def turn(
    process: subprocess.Popen[bytes], port: int, requests: list[bytes], chosen: argparse.Namespace
) -> dict[str, float]:
    """All clients at once, for a while."""
    before_s, began_s = cpu_s(process), time.monotonic()
    with get_context("fork").Pool(chosen.clients) as pool:
        parts = pool.starmap(
            poll,
            [
                (port, requests[first :: chosen.clients] or requests, chosen.seconds)
                for first in range(chosen.clients)
            ],
        )
    took_s = sorted(each for part in parts for each in part[1])
    lasted_s, count = time.monotonic() - began_s, sum(part[0] for part in parts)
    return {
        "polls_per_s": round(count / chosen.seconds, 1),
        "p50_ms": round(took_s[len(took_s) // 2] * 1000, 3),
        "p99_ms": round(took_s[int(len(took_s) * 0.99)] * 1000, 3),
        "server_cores": round((cpu_s(process) - before_s) / lasted_s, 2),
        "server_us_per_poll": round((cpu_s(process) - before_s) / count * 1e6, 1),
        "client_cores": round(sum(part[2] for part in parts) / lasted_s, 2),
    }


def bites(port: int, tokens: list[str], requests: list[bytes]) -> dict[str, float]:
    """Seconds from a revocation to its 401, and from a publish to its 200, on every connection."""
    from agent_client.contract.tokens import parse_token
    from fleet.enroll import revoke_install
    from fleet.models import InstallCredential, Pin
    from fleet.policy.publish import publish_revision

    parsed = parse_token(tokens[0])
    assert parsed is not None  # noqa: S101 -- our own token
    install = InstallCredential.objects.get(key_id=parsed.key_id).install
    revoke_install(install, actor="benchmark")
    revoked_s = _until(port, requests[0], 401)
    Pin.objects.update(value=45)
    publish_revision(actor="benchmark", reason="an edit")
    return {"revocation_s": revoked_s, "publish_s": _until(port, requests[1], 200)}


def _until(port: int, data: bytes, status: int) -> float:
    """How long any of eight fresh connections, so that both workers are met, gets anything else."""
    began_s = last_s = time.monotonic()
    while time.monotonic() - last_s < 3:
        for _ in range(8):
            with socket.create_connection(("127.0.0.1", port)) as stream:
                if ask(stream, data)[0] != status:
                    last_s = time.monotonic()
        time.sleep(0.02)
    return round(last_s - began_s, 2)


def run(chosen: argparse.Namespace, home: str) -> dict[str, object]:
    """Both consoles in turns; the figures."""
    import django

    django.setup()
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    tokens = enroll(chosen.installs)
    ports = []
    for _ in range(2):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports.append(int(probe.getsockname()[1]))
    turns: dict[str, list[dict[str, float]]] = {"memory": [], "drf": []}
    with ExitStack() as stack:
        consoles = {
            "memory": (stack.enter_context(console(ports[0], home, cache_s=30)), ports[0]),
            "drf": (stack.enter_context(console(ports[1], home, cache_s=0)), ports[1]),
        }
        requests = {name: warm(port, tokens) for name, (_process, port) in consoles.items()}
        time.sleep(2.5)  # until what was remembered has been confirmed
        for _ in range(chosen.turns):
            for name, (process, port) in consoles.items():
                turns[name].append(turn(process, port, requests[name], chosen))
        bitten = bites(ports[0], tokens, requests["memory"])
    best = {name: statistics.median(each["polls_per_s"] for each in turns[name]) for name in turns}
    return {
        "polls_per_s": best,
        "ratio": round(best["memory"] / best["drf"], 2),
        "bites_within": bitten,
        "turns": turns,
        "installs": chosen.installs,
        "clients": chosen.clients,
        "machine": machine_and_database(),
    }


def main() -> None:
    """Run, print, and write the results."""
    made = argparse.ArgumentParser(description="Unchanged polls a second.")
    made.add_argument("--installs", type=int, default=200)
    made.add_argument("--clients", type=int, default=4)
    made.add_argument("--seconds", type=float, default=5.0)
    made.add_argument("--turns", type=int, default=3)
    chosen = made.parse_args()
    with database(f"poll_bench_{os.getpid()}") as url, tempfile.TemporaryDirectory() as home:
        os.environ |= {
            "DATABASE_URL": url,
            "REDIS_URL": REDIS,
            "FLEET_HOME": home,
            "DJANGO_SETTINGS_MODULE": "fleet.settings",
            "FLEET_LOG_LEVEL": "ERROR",
            # One client polls as one install many thousand times a minute.
            "FLEET_RATE_INSTALL_PER_MIN": "10000000",
            "FLEET_RATE_ADDRESS_PER_MIN": "10000000",
        }
        figures = run(chosen, home)
        from django.db import connections

        connections.close_all()
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(figures, indent=2) + "\n")
    sys.stdout.write(RESULTS.read_text())


if __name__ == "__main__":
    main()
