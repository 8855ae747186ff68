"""A whole fleet against one console: `python -m benchmarks.fleet --installs 10000 --minutes 20`.

Starts the console as `manage.py up` does (gunicorn with two workers, a Celery worker and beat) on a
PostgreSQL database and a Redis database of its own, then `manage.py simulate` with one push, one
poll and one check-in an install and interval. In the steady part a pin is published, to see when
everybody has applied it; then nobody reaches the console for a while. Figures: p50 and p99 by kind;
cores of console and database, the crowd's own apart; rows a second; how old the oldest hour without
its sums got; the peak after the outage against the mean before; and the ledger, from receipts and
from the tables. Needs PostgreSQL (FLEET_BENCH_DATABASE_URL) and Redis (FLEET_BENCH_REDIS_URL).
Results go to benchmarks/results/fleet.json. A quick look: `--installs 500 --minutes 6`.
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
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from benchmarks.facts import machine
from benchmarks.ingest import database

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).parent / "results" / "fleet.json"
REDIS = os.environ.get("FLEET_BENCH_REDIS_URL", "redis://127.0.0.1:6379/15")
SAMPLE_EVERY_S = 1.0
TICKS = os.sysconf("SC_CLK_TCK")
OLDEST_TOUCH = b"SELECT extract(epoch FROM now() - min(touched_at)) FROM telemetry_touchedhour"


@dataclass
class Sampler:
    """CPU of the console, its database sessions and the crowd, and the rollups' lag, by time.

    A process that ends keeps what it had used: database sessions are closed every minute.
    """

    up: subprocess.Popen[bytes]
    database: str
    url: str
    ticks: dict[str, dict[int, int]] = field(default_factory=dict)
    samples: list[tuple[float, dict[str, float]]] = field(default_factory=list)
    lags_s: list[tuple[float, float]] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Sample until stopped."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            while not self.stopping.wait(SAMPLE_EVERY_S):
                self._look()
                row = connection.execute(OLDEST_TOUCH).fetchone()
                self.lags_s.append((time.time(), float(row[0] or 0) if row else 0.0))

    def _look(self) -> None:
        parents, found = {}, {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                title = (
                    (folder / "cmdline")
                    .read_bytes()
                    .replace(b"\0", b" ")
                    .decode("utf-8", "replace")
                )
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it ended meanwhile
                continue
            pid = int(folder.name)
            parents[pid] = int(fields[1])
            found[pid] = (title, int(fields[11]) + int(fields[12]))
        for pid, (title, used) in found.items():
            who = self._who(pid, title, parents)
            if who:
                self.ticks.setdefault(who, {})[pid] = used
        totals = {who: sum(each.values()) / TICKS for who, each in self.ticks.items()}
        self.samples.append((time.time(), totals))

    def _who(self, pid: int, title: str, parents: dict[int, int]) -> str:
        if title.startswith("postgres:"):
            return "database" if self.database in title else ""
        if "agent_client.simulation.crowd" in title:
            return "crowd"
        above = pid
        while above in parents and above != self.up.pid:
            above = parents[above]
        if above != self.up.pid:
            return ""
        return "rollups" if "celery" in title else "web" if "gunicorn" in title else "supervisor"

    def cores(self, first_s: float, last_s: float) -> dict[str, float]:
        """CPU seconds a second between two times, by part."""
        inside = [(at_s, each) for at_s, each in self.samples if first_s <= at_s <= last_s]
        if len(inside) < 2:
            return {}
        (from_s, before), (to_s, after) = inside[0], inside[-1]
        return {
            who: round((after[who] - before.get(who, 0.0)) / (to_s - from_s), 3)
            for who in sorted(after)
        }

    def lag(self, first_s: float, last_s: float) -> dict[str, float]:
        """How long the oldest touched hour had waited for its sums, in seconds."""
        inside = sorted(lag_s for at_s, lag_s in self.lags_s if first_s <= at_s <= last_s)
        if not inside:
            return {}
        return {
            "p50_s": round(statistics.median(inside), 1),
            "p99_s": round(inside[int(len(inside) * 0.99)], 1),
            "max_s": round(inside[-1], 1),
        }


@contextmanager
def console(port: int) -> Iterator[subprocess.Popen[bytes]]:
    """`manage.py up`, until it answers; its own lines go to a file."""
    log = Path(os.environ["FLEET_HOME"]) / "up.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "manage.py", "up"], cwd=ROOT, stdout=out, stderr=out
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


def publish(days: int, reason: str) -> float:
    """Pin a key for everybody and publish; when, as seconds since the epoch."""
    from fleet.models import Pin, PinScope
    from fleet.policy.publish import publish_revision

    key = "telemetry.retention_days"
    Pin.objects.update_or_create(
        scope=PinScope.FLEET, group=None, key=key, defaults={"value": days, "reason": reason}
    )
    publish_revision(actor="benchmark", reason=reason)
    return time.time()


def simulate(chosen: argparse.Namespace, published_s: list[float]) -> dict[str, object]:
    """Run the crowd and publish a pin while it lives; its report."""
    options = ("installs", "minutes", "interval", "rate", "outage", "seed", "connections")
    process = subprocess.Popen(  # noqa: S603 -- our own command
        [
            *(sys.executable, "manage.py", "simulate", "--json", "--always-on"),
            *(f"--{name}={getattr(chosen, name)}" for name in options),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        return _report_of(process, chosen, published_s)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


def _report_of(
    process: subprocess.Popen[str], chosen: argparse.Namespace, published_s: list[float]
) -> dict[str, object]:
    assert process.stderr is not None  # noqa: S101 -- asked for above
    assert process.stdout is not None  # noqa: S101 -- as above
    for line in process.stderr:
        sys.stderr.write(line)
        if line.startswith("seed "):
            timer = threading.Timer(
                2 * chosen.interval, lambda: published_s.append(publish(45, "An edit"))
            )
            timer.daemon = True
            timer.start()
    text = process.stdout.read()
    if process.wait() not in {0, 3}:
        raise SystemExit(f"the simulation ended with {process.returncode}: {text}")
    report = json.loads(text)
    assert isinstance(report, dict)  # noqa: S101 -- our own report
    return report


def applied(report: dict[str, object], published_s: list[float]) -> dict[str, float]:
    """From the publish to an install's applying it, in seconds."""
    found = report["applied"]
    assert isinstance(found, dict)  # noqa: S101 -- our own report
    if not published_s:
        return {}
    after = [each for each in found.values() if each["last_at_s"] > published_s[0]]
    latest = max(after, key=lambda each: each["last_at_s"], default=None)
    if latest is None:
        return {"count": 0}
    names = ("p50_at_s", "p99_at_s", "last_at_s")
    times = {name.replace("_at", ""): round(latest[name] - published_s[0], 1) for name in names}
    return {"count": latest["count"], **times}


def run(chosen: argparse.Namespace, name: str, url: str, port: int) -> dict[str, object]:
    """All of it; the figures."""
    import django

    django.setup()
    with console(port) as up:
        publish(60, "What everybody starts with")
        sampler, published_s = Sampler(up, name, url), list[float]()
        thread = threading.Thread(target=sampler.run, daemon=True)
        thread.start()
        report = simulate(chosen, published_s)
        sampler.stopping.set()
        thread.join()
    began_s, live_s = (float(str(report[key])) for key in ("began_at_s", "live_from_s"))
    outage = report["outage"]
    assert isinstance(outage, dict)  # noqa: S101 -- our own report
    steady_from_s = began_s + live_s + chosen.interval
    lived_s = float(str(report["live_seconds"]))
    steady_to_s = began_s + float(outage.get("began_s", live_s + lived_s))
    ledger = report["ledger"]
    assert isinstance(ledger, dict)  # noqa: S101 -- our own report
    return {
        "installs": chosen.installs,
        "interval_s": chosen.interval,
        "minutes": chosen.minutes,
        "steady_seconds": round(steady_to_s - steady_from_s),
        "latency": report["latency"],
        "lag": report["lag"],
        "cores_steady": sampler.cores(steady_from_s, steady_to_s),
        "rows_per_s": round(ledger["accepted"] / max(lived_s, 1), 1),
        "rollup_lag_steady": sampler.lag(steady_from_s, steady_to_s),
        "rollup_lag_whole": sampler.lag(began_s, time.time()),
        "edit_to_applied": applied(report, published_s),
        "outage": outage,
        "errors": report["errors"],
        "ledger": ledger,
        "database": report["database"],
        "crowd_peak_mib": report["peak_mib"],
        "machine": machine(),
    }


def main() -> None:
    """Run, print, and write the results."""
    made = argparse.ArgumentParser(description="A whole fleet against one console.")
    made.add_argument("--installs", type=int, default=2000)
    made.add_argument("--minutes", type=float, default=15.0)
    made.add_argument("--interval", type=float, default=60.0)
    made.add_argument("--rate", type=float, default=20.0, help="rows a minute and install")
    made.add_argument("--outage", default="240:300", help="after seconds of life: for seconds")
    made.add_argument("--seed", type=int, default=7)
    made.add_argument("--connections", type=int, default=64)
    chosen = made.parse_args()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    name = f"fleet_bench_{os.getpid()}"
    with database(name) as url, tempfile.TemporaryDirectory() as home:
        os.environ |= {
            "DATABASE_URL": url,
            "REDIS_URL": REDIS,
            "FLEET_HOME": home,
            "FLEET_BIND": f"127.0.0.1:{port}",
            "DJANGO_SETTINGS_MODULE": "fleet.settings",
            "WEB_CONCURRENCY": "2",
            "FLEET_LOG_LEVEL": "ERROR",
        }
        figures = run(chosen, name, url, port)
        from django.db import connections

        connections.close_all()
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(figures, indent=2) + "\n")
    sys.stdout.write(RESULTS.read_text())


if __name__ == "__main__":
    main()
