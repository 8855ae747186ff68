"""What is counted in this process: the metrics of requests, ingest and polls, by name.

Labels are from closed sets: routes of the URLconf, verbs, statuses, words of the contract. No id
of an install, no address and nothing else that somebody sends ever becomes one.
"""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, and no use
REGISTRY: Final = CollectorRegistry()
"""Of this process; several web processes meet in files, see ``fleet.watch.shared``."""

SECONDS: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25),
    *(0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
"""Upper ends of the latency histogram: 50 ms is the bar for a poll, 30 s what agents wait."""

REQUESTS: Final = Counter(
    "fleet_http_requests",
    "Requests answered.",
    ("route", "method", "status"),
    registry=REGISTRY,
)
LATENCY: Final = Histogram(
    "fleet_http_request_seconds",
    "Time from the whole request to its answer, in seconds.",
    ("route", "method"),
    buckets=SECONDS,
    registry=REGISTRY,
)
RATE_LIMITED: Final = Counter(
    "fleet_rate_limited", "Requests refused with 429.", ("route",), registry=REGISTRY
)
POLLS: Final = Counter(
    "fleet_policy_polls",
    "Polls for an assignment, by status and by who answered: the process's memory or the database.",
    ("status", "by"),
    registry=REGISTRY,
)
BATCHES: Final = Counter(
    "fleet_ingest_batches",
    "Batches of telemetry with a receipt: stored, spooled, or a repeat of a known one.",
    ("plane", "outcome"),
    registry=REGISTRY,
)
ROWS: Final = Counter(
    "fleet_ingest_rows",
    "Rows of new batches: accepted, duplicate or rejected.",
    ("result",),
    registry=REGISTRY,
)
BYTES: Final = Counter(
    "fleet_ingest_bytes",
    "Bytes of new batches, on the wire and decoded.",
    ("form",),
    registry=REGISTRY,
)
COUNTED: Final = (REQUESTS, LATENCY, RATE_LIMITED, POLLS, BATCHES, ROWS, BYTES)
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
PLANES: Final = frozenset({"local", "aggregate", "trajectories"})


def count_request(*, route: str, method: str, status: int, took_s: float) -> None:
    """One answered request."""
    verb = method if method in METHODS else "other"
    REQUESTS.labels(route, verb, str(status)).inc()
    LATENCY.labels(route, verb).observe(took_s)
    if status == 429:
        RATE_LIMITED.labels(route).inc()


def count_poll(*, status: int, is_cached: bool) -> None:
    """One poll for an assignment that was answered."""
    POLLS.labels(str(status), "memory" if is_cached else "database").inc()


def count_repeat(plane: str) -> None:
    """One batch that was answered with the receipt it got before."""
    BATCHES.labels(_plane(plane), "repeated").inc()


def count_batch(
    plane: str,
    *,
    accepted_count: int,
    duplicate_count: int,
    rejected_count: int,
    wire_bytes: int,
    decoded_bytes: int,
    is_spooled: bool,
) -> None:
    """One batch that was taken in."""
    BATCHES.labels(_plane(plane), "spooled" if is_spooled else "stored").inc()
    ROWS.labels("accepted").inc(accepted_count)
    ROWS.labels("duplicate").inc(duplicate_count)
    ROWS.labels("rejected").inc(rejected_count)
    BYTES.labels("wire").inc(wire_bytes)
    BYTES.labels("decoded").inc(decoded_bytes)


def _plane(plane: str) -> str:
    return plane if plane in PLANES else "other"
