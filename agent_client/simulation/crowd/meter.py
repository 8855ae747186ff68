"""What a crowd measures: requests, latencies, lags and rows; its live line and its report."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

KINDS: Final = ("enroll", "poll", "checkin", "push", "history", "final")
"""``history``: pushes of the days before; ``final``: those at the very end, when all installs
hand in what is left at once. Neither says anything about how a fleet comes."""
GROWTH: Final = 1.04
"""Buckets of latency grow by this: a percentile is at most 4 % off."""
FIRST_MS: Final = 0.05
RATE_SPAN_S: Final = 10


class Latencies:
    """Durations in buckets of constant relative width; memory does not grow with their number."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self.count = 0
        self.longest_ms = 0.0

    def add(self, duration_s: float) -> None:
        """Count one."""
        duration_ms = duration_s * 1000
        place = max(0, math.ceil(math.log(max(duration_ms, FIRST_MS) / FIRST_MS, GROWTH)))
        self._counts[place] += 1
        self.count += 1
        self.longest_ms = max(self.longest_ms, duration_ms)

    def quantile_ms(self, share: float) -> float:
        """The upper edge of the bucket in which a share of all lies; 0 without any."""
        left = share * self.count
        for place in sorted(self._counts):
            left -= self._counts[place]
            if left <= 0:
                return round(min(FIRST_MS * GROWTH**place, self.longest_ms), 2)
        return 0.0

    def short(self) -> str:
        """p50 and p99 for the live line."""
        return f"({self.quantile_ms(0.5):.0f}/{self.quantile_ms(0.99):.0f} ms)"

    def to_dict(self) -> dict[str, float]:
        """Count, p50, p95, p99 and the longest, in milliseconds."""
        return {
            "count": self.count,
            "p50_ms": self.quantile_ms(0.5),
            "p95_ms": self.quantile_ms(0.95),
            "p99_ms": self.quantile_ms(0.99),
            "max_ms": round(self.longest_ms, 2),
        }


@dataclass(slots=True)
class Ledger:
    """Rows from their making to their receipts.

    Shape: made = accepted + duplicate + rejected + refused + unsent, when nothing is lost.
    ``rejected`` by the code of the line, ``refused`` by the code that refused the whole batch.
    ``distinct``: rows by table, each counted once however many copies went out; those of batches
    that were refused as a whole are not in it. ``partly_rejected``: rejected rows of batches of
    which others were taken. ``replayed``: batches sent on purpose, or again, after their receipt;
    ``receipts_changed``: how many of them were answered otherwise than before.
    """

    made: int = 0
    batches: int = 0
    accepted: int = 0
    duplicates: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    unsent: int = 0
    distinct: Counter[str] = field(default_factory=Counter)
    partly_rejected: int = 0
    replayed: int = 0
    receipts_changed: int = 0
    receipts_wrong: int = 0
    wire_bytes: int = 0

    @property
    def unexplained(self) -> int:
        """Rows that no receipt accounts for; below zero: receipts for rows nobody made."""
        known = self.accepted + self.duplicates + self.rejected.total() + self.refused.total()
        return self.made - known - self.unsent

    @property
    def is_exact(self) -> bool:
        """Whether every row that was made is accounted for, and no answer contradicts another."""
        return not (self.unexplained or self.receipts_changed or self.receipts_wrong or self.unsent)

    def to_dict(self) -> dict[str, object]:
        """The JSON form."""
        return {
            "made": self.made,
            "batches": self.batches,
            "accepted": self.accepted,
            "duplicates": self.duplicates,
            "rejected": dict(self.rejected),
            "refused": dict(self.refused),
            "unsent": self.unsent,
            "unexplained": self.unexplained,
            "distinct": dict(self.distinct),
            "partly_rejected": self.partly_rejected,
            "replayed": self.replayed,
            "receipts_changed": self.receipts_changed,
            "receipts_wrong": self.receipts_wrong,
            "wire_bytes": self.wire_bytes,
            "is_exact": self.is_exact,
        }


class Meter:
    """Everything a crowd counts while it lives."""

    def __init__(self) -> None:
        self.began_s = time.monotonic()
        self.latency = {kind: Latencies() for kind in KINDS}
        self.lag = {kind: Latencies() for kind in KINDS}
        self.errors: Counter[str] = Counter()
        self.seconds: dict[str, Counter[int]] = {kind: Counter() for kind in KINDS}
        self.rows_by_second: Counter[int] = Counter()
        self.ledger = Ledger()
        self.enrolled = 0
        self.active = 0
        self.waiting_batches = 0
        self.applied: dict[str, list[float]] = {}
        self._recent: deque[tuple[float, Counter[str], int]] = deque()

    def answered(self, kind: str, *, took_s: float, lag_s: float) -> None:
        """Count an answer: how long it took once sent, and how long after it was due it came."""
        self.latency[kind].add(took_s)
        self.lag[kind].add(max(lag_s, 0.0))
        self.seconds[kind][self._second()] += 1

    def failed(self, kind: str, code: str) -> None:
        """Count a request without a use."""
        self.errors[f"{kind} {code}"] += 1

    def took_rows(self, count: int) -> None:
        """Count rows that a receipt has come for."""
        self.rows_by_second[self._second()] += count

    def applied_bundle(self, sha256: str) -> None:
        """An install has applied a policy for the first time."""
        self.applied.setdefault(sha256, []).append(time.time())

    def _second(self) -> int:
        return int(time.monotonic() - self.began_s)

    def peak_per_s(self, kinds: Sequence[str], first_s: float, last_s: float, span_s: int) -> float:
        """The busiest ``span_s`` seconds of a stretch, as answers a second."""
        counts = self._by_second(kinds)
        starts = range(int(first_s), max(int(first_s) + 1, int(last_s) - span_s + 1))
        totals = (sum(counts[start + each] for each in range(span_s)) for start in starts)
        return max(totals, default=0) / span_s

    def mean_per_s(self, kinds: Sequence[str], first_s: float, last_s: float) -> float:
        """Answers a second over a stretch of whole seconds."""
        counts = self._by_second(kinds)
        seconds = range(int(first_s), int(last_s))
        return sum(counts[each] for each in seconds) / len(seconds) if seconds else 0.0

    def _by_second(self, kinds: Sequence[str]) -> Counter[int]:
        return sum((self.seconds[kind] for kind in kinds), Counter[int]())

    def line(self) -> str:
        """The state of things in one line."""
        now_s = time.monotonic()
        counts = Counter({kind: each.count for kind, each in self.latency.items()})
        rows = self.rows_by_second.total()
        self._recent.append((now_s, counts, rows))
        while len(self._recent) > 1 and now_s - self._recent[0][0] > RATE_SPAN_S:
            self._recent.popleft()
        then_s, before, rows_before = self._recent[0]
        span_s = max(now_s - then_s, 1e-9)
        rates = " ".join(
            f"{kind} {(counts[kind] - before[kind]) / span_s:.0f}/s {self.latency[kind].short()}"
            for kind in KINDS
            if counts[kind] != before[kind]
        )
        errors = " ".join(f"{name}={count}" for name, count in self.errors.most_common(3))
        return (
            f"{_clock(now_s - self.began_s)} enrolled {self.enrolled} active {self.active} | "
            f"{rates or 'idle'} | {(rows - rows_before) / span_s:.0f} rows/s, {rows} in all, "
            f"push lag p99 {self.lag['push'].quantile_ms(0.99) / 1000:.1f} s, "
            f"{self.waiting_batches} waiting | {peak_mib()} MiB"
            + (f" | {errors}" if errors else "")
        )

    def to_dict(self) -> dict[str, object]:
        """The JSON form."""
        return {
            "seconds": round(time.monotonic() - self.began_s, 1),
            "enrolled": self.enrolled,
            "latency": {kind: each.to_dict() for kind, each in self.latency.items()},
            "lag": {kind: each.to_dict() for kind, each in self.lag.items()},
            "errors": dict(self.errors),
            "ledger": self.ledger.to_dict(),
            "applied": {sha256: _spread(times) for sha256, times in self.applied.items()},
            "peak_mib": peak_mib(),
        }


def _spread(times_s: list[float]) -> dict[str, float]:
    """When installs applied a policy: the first, the median, the 99th in a hundred, the last."""
    ordered = sorted(times_s)
    last = len(ordered) - 1
    return {
        "count": len(ordered),
        "first_at_s": ordered[0],
        "p50_at_s": ordered[last // 2],
        "p99_at_s": ordered[math.ceil(last * 0.99)],
        "last_at_s": ordered[last],
    }


def peak_mib() -> int:
    """The most memory this process ever held, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (1024 * 1024 if sys.platform == "darwin" else 1024)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes:d}:{rest:02d}"
