"""The shapes of the answers: frozen, typed, with units in their names.

Rates are fractions from 0 to 1; None means that there was nothing to divide by, or that nobody
knows. Money is kept in billionths of a dollar until it is shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from telemetry.insight.filters import Filters
from telemetry.insight.intervals import Rate
from telemetry.insight.window import BucketUnit, Compared, Window

NUSD_PER_USD = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Freshness:
    """How old the cells are.

    ``last_filled_at``: the last change of any cell. ``waiting_count``: touched hours whose rows
    are not in the cells yet, counted up to ``WAITING_MAX`` of ``scope``; ``lag_s``: for how long
    the oldest of them has waited, 0.0 when none does. ``data_since``: the first cell of all.
    """

    last_filled_at: datetime | None
    waiting_count: int
    lag_s: float
    data_since: datetime | None

    def covers(self, window: Window) -> bool:
        """Whether the data goes back to the start of a window: else it compares a part."""
        return self.data_since is not None and self.data_since <= window.start


@dataclass(frozen=True, slots=True)
class Scope:
    """What an answer is about. ``ignored``: filters its cells do not carry."""

    window: Window
    filters: Filters
    freshness: Freshness
    ignored: tuple[str, ...] = ()

    @property
    def unit(self) -> BucketUnit:
        """What one bucket of a series is."""
        return self.window.unit

    @property
    def has_earlier(self) -> bool:
        """Whether the window before is as complete as this one."""
        return self.freshness.covers(self.window.previous)


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
    """Known cost, and of how many of ``count`` runs (or calls) it is known."""

    nusd: int
    priced_count: int
    count: int

    @property
    def usd(self) -> float | None:
        """Dollars; None when the cost of not one of them is known."""
        return self.nusd / NUSD_PER_USD if self.priced_count else None

    @property
    def coverage(self) -> float | None:
        """Share of them that had a cost."""
        return self.priced_count / self.count if self.count else None


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Durations at three ranks, at most 2.2 % off, of the ``timed_count`` of ``count`` with one."""

    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    timed_count: int
    count: int

    @property
    def coverage(self) -> float | None:
        """Share of them that had a duration."""
        return self.timed_count / self.count if self.count else None


@dataclass(frozen=True, slots=True)
class RunTotals:
    """Runs of a window and what became of them; the fields are those of RunsCell."""

    run_count: int = 0
    completed_count: int = 0
    interrupted_count: int = 0
    failed_count: int = 0
    max_iterations_count: int = 0
    timeout_count: int = 0
    abandoned_count: int = 0
    open_count: int = 0
    other_count: int = 0
    priced_count: int = 0
    timed_count: int = 0
    cost_nusd: int = 0
    failed_cost_nusd: int = 0
    duration_sum_us: int = 0
    model_call_count: int = 0
    tool_call_count: int = 0
    error_count: int = 0
    turn_count: int = 0

    @property
    def bad_count(self) -> int:
        """Runs that failed, timed out or ran out of iterations."""
        return self.failed_count + self.timeout_count + self.max_iterations_count

    @property
    def success(self) -> Rate:
        """Completed of all runs."""
        return Rate(self.completed_count, self.run_count)

    @property
    def failure(self) -> Rate:
        """``bad_count`` of all runs."""
        return Rate(self.bad_count, self.run_count)

    @property
    def cost(self) -> Cost:
        """What is known of the cost."""
        return Cost(self.cost_nusd, self.priced_count, self.run_count)

    @property
    def failed_usd(self) -> float | None:
        """Known cost of runs that failed; None when no cost is known."""
        return self.failed_cost_nusd / NUSD_PER_USD if self.priced_count else None

    @property
    def failed_cost_share(self) -> float | None:
        """Share of the known cost that went into failed runs."""
        return self.failed_cost_nusd / self.cost_nusd if self.cost_nusd else None

    @property
    def usd_per_success(self) -> float | None:
        """Dollars for a run that completes, the others' cost included.

        Mean known cost of a run by the share that completes: with every cost known that is cost
        by completed runs, and with a part of them it does not look cheaper than it is.
        """
        if not self.priced_count or not self.completed_count:
            return None
        mean = self.cost_nusd / NUSD_PER_USD / self.priced_count
        return mean * self.run_count / self.completed_count


@dataclass(frozen=True, slots=True)
class Point:
    """One bucket of the run series; ``cost_usd`` None: no priced run in it."""

    start: datetime
    runs: int
    failed_runs: int
    cost_usd: float | None


@dataclass(frozen=True, slots=True)
class ShareLine:
    """Runs of one value of a dimension, and the share of them that completed or went wrong."""

    name: str
    runs: int
    success: Rate
    failure: Rate


@dataclass(frozen=True, slots=True)
class Runs:
    """Runs of a window against the one before.

    Shape: ``series`` and ``previous_runs`` have one entry a bucket, oldest first; the latter are
    the runs of the window before, shifted onto the same buckets. Lines are sorted by runs.
    ``duration`` None: its cells cannot follow the filters.
    """

    scope: Scope
    totals: Compared[RunTotals]
    duration: Compared[Percentiles] | None
    series: tuple[Point, ...]
    previous_runs: tuple[int, ...]
    entrypoints: tuple[ShareLine, ...]
    platforms: tuple[ShareLine, ...]
    versions: tuple[ShareLine, ...]


@dataclass(frozen=True, slots=True)
class CostLine:
    """Runs whose cost is known in one way (``cost_status`` of the contract)."""

    cost_status: str
    cost: Cost


@dataclass(frozen=True, slots=True)
class Costs:
    """Cost by how it is known, dearest first; ``total`` is all of them."""

    scope: Scope
    total: Compared[Cost]
    lines: tuple[CostLine, ...]


@dataclass(frozen=True, slots=True)
class TokenSeries:
    """Tokens of one model, one number a bucket."""

    model: str
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelLine:
    """One model of one provider; ``latency`` None: not asked for (beyond the first lines)."""

    provider: str
    model: str
    calls: int
    previous_calls: int
    failure: Rate
    retries: int
    tokens: Tokens
    cost: Cost
    latency: Percentiles | None
    first_token: Percentiles | None


@dataclass(frozen=True, slots=True)
class Models:
    """Model calls of a window: totals against the window before, lines by calls."""

    scope: Scope
    tokens: Compared[Tokens]
    cost: Compared[Cost]
    calls: Compared[int]
    failure: Compared[Rate]
    lines: tuple[ModelLine, ...]
    series: tuple[TokenSeries, ...]


@dataclass(frozen=True, slots=True)
class ToolLine:
    """One tool. ``failures`` = error + timeout + blocked."""

    tool_name: str
    calls: int
    previous_calls: int
    previous_failures: int
    failures: int
    errors: int
    timeouts: int
    blocked: int
    denied: int
    duration: Percentiles | None

    @property
    def failure(self) -> Rate:
        """Failures of calls."""
        return Rate(self.failures, self.calls)

    @property
    def failure_rate(self) -> float | None:
        """Failures / calls."""
        return self.failure.value

    @property
    def timeout(self) -> Rate:
        """Timeouts of calls."""
        return Rate(self.timeouts, self.calls)

    @property
    def block(self) -> Rate:
        """Blocked calls of calls."""
        return Rate(self.blocked, self.calls)

    @property
    def denial(self) -> Rate:
        """Denied calls of calls."""
        return Rate(self.denied, self.calls)


@dataclass(frozen=True, slots=True)
class Tools:
    """Tool calls of a window; ``series`` are failures, one number a bucket."""

    scope: Scope
    calls: Compared[int]
    failure: Compared[Rate]
    lines: tuple[ToolLine, ...]
    series: tuple[int, ...]
    call_series: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ErrorLine:
    """One class of errors in one subsystem."""

    error_class: str
    subsystem: str
    errors: int
    previous_errors: int
    given_up: int


@dataclass(frozen=True, slots=True)
class ErrorSeries:
    """Errors of one class, one number a bucket."""

    error_class: str
    errors: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Errors:
    """Errors of a window; ``by_class`` has the classes with most, then all others as one."""

    scope: Scope
    total: Compared[int]
    given_up: Compared[int]
    lines: tuple[ErrorLine, ...]
    by_class: tuple[ErrorSeries, ...]

    @property
    def series(self) -> tuple[int, ...]:
        """Errors of every class, one number a bucket."""
        return tuple(map(sum, zip(*(line.errors for line in self.by_class), strict=True)))


@dataclass(frozen=True, slots=True)
class InstallLine:
    """One install; ``cost_usd`` is what is known of it, None when not one run had a cost."""

    install_id: UUID
    runs: int
    failed_runs: int
    tool_calls: int
    tool_failures: int
    errors: int
    tokens: int
    cost_usd: float | None


@dataclass(frozen=True, slots=True)
class Installs:
    """Installs that did anything, and the first of them in three orders.

    ``counted_at``: when; a board may be some seconds older than the other cells.
    """

    scope: Scope
    active: Compared[int]
    by_runs: tuple[InstallLine, ...]
    by_cost: tuple[InstallLine, ...]
    by_failures: tuple[InstallLine, ...]
    counted_at: datetime


@dataclass(frozen=True, slots=True)
class QuietInstall:
    """An install against its own rhythm, by days with any activity."""

    install_id: UUID
    last_seen_at: datetime
    quiet: timedelta
    usual_gap: timedelta
    longest_gap: timedelta
    active_days: int
    is_silent: bool


@dataclass(frozen=True, slots=True)
class Silence:
    """Installs that are quieter than they ever were, quietest against its rhythm first.

    ``judged``: installs with enough days to have a rhythm; ``unjudged``: those with fewer.
    """

    scope: Scope
    silent: tuple[QuietInstall, ...]
    silent_count: int
    judged_count: int
    unjudged_count: int


@dataclass(frozen=True, slots=True)
class FirstLine:
    """A model, tool, version and so on that the fleet had never had before."""

    kind: str
    value: str
    first_at: datetime
    install_id: UUID


@dataclass(frozen=True, slots=True)
class CohortLine:
    """One version or group: its runs, how sure its rates are, and its durations."""

    name: str
    totals: RunTotals
    duration: Percentiles


@dataclass(frozen=True, slots=True)
class Comparison:
    """Cohorts side by side, largest first; ``dimension`` is agent_version or group."""

    scope: Scope
    dimension: str
    lines: tuple[CohortLine, ...]


@dataclass(frozen=True, slots=True)
class Heat:
    """Runs begun, 7 rows (Monday first) of 24 UTC hours."""

    scope: Scope
    runs: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Overview:
    """The overview page: every question of it, about one scope."""

    scope: Scope
    runs: Runs
    costs: Costs
    models: Models
    tools: Tools
    errors: Errors
    installs: Installs
    heat: Heat
    first_seen: tuple[FirstLine, ...]
