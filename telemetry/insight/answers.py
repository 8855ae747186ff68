"""The shapes of the answers: frozen, typed, with units in their names.

Rates are fractions from 0 to 1; None means that there was nothing to divide by.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from telemetry.insight.window import BucketUnit, Compared, Freshness, Window


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens of a window; ``cache_hit_rate`` = cache_read / (cache_read + input)."""

    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int

    @property
    def total_tokens(self) -> int:
        """Everything that was processed; reasoning is a part of output and not added again."""
        return (
            self.input_tokens
            + self.output_tokens
            + self.cache_read_tokens
            + self.cache_write_tokens
        )

    @property
    def cache_hit_rate(self) -> float | None:
        """Share of the prompt that came from a cache."""
        prompt = self.cache_read_tokens + self.input_tokens
        return self.cache_read_tokens / prompt if prompt else None


@dataclass(frozen=True, slots=True)
class Cost:
    """Known cost, and of how many runs (or calls) it is known; ``usd`` None: of none of them."""

    usd: float | None
    priced_count: int
    count: int

    @property
    def coverage(self) -> float | None:
        """Share of them that had a cost."""
        return self.priced_count / self.count if self.count else None


@dataclass(frozen=True, slots=True)
class Point:
    """One bucket of the run series; ``cost_usd`` None: no priced run in it."""

    start: datetime
    runs: int
    failed_runs: int
    tool_errors: int
    errors: int
    cost_usd: float | None


@dataclass(frozen=True, slots=True)
class TokenSeries:
    """Tokens of one model, one number a bucket, in the order of Overview.series."""

    model: str
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ToolLine:
    """One tool. ``failures`` = error + timeout + blocked."""

    tool_name: str
    calls: int
    failures: int
    timeouts: int
    blocked: int
    denied: int
    p95_ms: float | None

    @property
    def failure_rate(self) -> float | None:
        """Failures / calls."""
        return self.failures / self.calls if self.calls else None


@dataclass(frozen=True, slots=True)
class ErrorLine:
    """One class of errors in one subsystem."""

    error_class: str
    subsystem: str
    errors: int
    given_up: int


@dataclass(frozen=True, slots=True)
class ModelLine:
    """One model of one provider."""

    provider: str
    model: str
    calls: int
    failed_calls: int
    retries: int
    tokens: Tokens
    cost: Cost
    p50_ms: float | None
    p95_ms: float | None


@dataclass(frozen=True, slots=True)
class InstallLine:
    """One install; ``cost_usd`` is what is known of it, None when not one run had a cost."""

    install_id: UUID
    runs: int
    failed_runs: int
    tool_calls: int
    tool_failures: int
    errors: int
    cost_usd: float | None


@dataclass(frozen=True, slots=True)
class Overview:
    """The overview page: a window, compared with the one before.

    Shape: ``series`` and each of ``tokens_by_model`` have one entry a bucket of ``unit``, oldest
    first; ``previous_runs`` are the runs of the window before, shifted onto the same buckets.
    Tables are sorted by their count, largest first; ``heat`` is 7 rows (Monday first) of
    24 UTC hours with the runs begun in them.
    """

    window: Window
    unit: BucketUnit
    freshness: Freshness
    active_installs: Compared[int]
    runs: Compared[int]
    success_rate: Compared[float | None]
    p50_ms: Compared[float | None]
    p95_ms: Compared[float | None]
    tokens: Compared[Tokens]
    cost: Compared[Cost]
    tool_calls: Compared[int]
    tool_failure_rate: Compared[float | None]
    errors: Compared[int]
    end_reasons: tuple[tuple[str, int], ...]
    entrypoints: tuple[tuple[str, int], ...]
    versions: tuple[tuple[str, int], ...]
    series: tuple[Point, ...]
    previous_runs: tuple[int, ...]
    tokens_by_model: tuple[TokenSeries, ...]
    tools: tuple[ToolLine, ...]
    error_lines: tuple[ErrorLine, ...]
    models: tuple[ModelLine, ...]
    top_installs: tuple[InstallLine, ...]
    heat: tuple[tuple[int, ...], ...]
