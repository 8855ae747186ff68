"""The declared stats: what is counted of each event table, for which cells.

A source is grouped once by its key columns; every cell's numbers are written over that grouping.
All of it is integers, bounded row by row: to add and to take away again leaves nothing behind.
The same text runs on both engines.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from telemetry.models import (
    CostsCell,
    ErrorEvent,
    ErrorsCell,
    EventRow,
    FirstSeen,
    HistogramCell,
    ModelCall,
    ModelCallsCell,
    Run,
    RunsCell,
    ToolCall,
    ToolCallsCell,
)

COUNT_A_ROW_MAX: Final = 1_000_000_000
"""Of tokens, calls and retries; more in one row is a fault of its sender."""
USD_A_ROW_MAX: Final = 1_000_000
"""A run or call that says it cost more counts as a million dollars."""
MS_A_ROW_MAX: Final = 10_000_000_000
"""A duration beyond 115 days counts as that, in sums; histograms go to MAX_MS."""
DIMENSION_CHARS: Final = 200
"""A cell's key must fit into an index page whatever a scrubbed name has become."""
SUM_MAX: Final = 2**62 - 1
"""Sums stop here, so that a cell and what is added to it stay within 64 bits together."""

GOOD_CALL_ENDS: Final = ("completed", "stop", "ok")
"""``end_reason`` of a model call that went well; NULL counts as well, as old agents send none."""
DENIED: Final = ("denied", "smart_deny")
FAILED_ENDS: Final = ("failed", "timeout", "max_iterations")
RUN_ENDS: Final = ("completed", "interrupted", "failed", "max_iterations", "timeout", "abandoned")
RESULTS: Final = ("ok", "error", "timeout", "blocked")


@dataclass(frozen=True, slots=True)
class Target:
    """Cells of one kind: ``numbers`` are cell fields as SQL over the grouped row ``g``."""

    cell: type[RunsCell | CostsCell | ModelCallsCell | ToolCallsCell | ErrorsCell]
    dimensions: tuple[str, ...]
    numbers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Measure:
    """A duration with a histogram, milliseconds, as SQL over the row ``r``.

    ``kinds``: for each kind of histogram the columns that are its name and detail.
    """

    ms: str
    kinds: Mapping[HistogramCell.Kind, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Source:
    """One event table. ``keys``: the columns it is grouped by, beside hour, group and install.

    ``amounts``: SQL over the row ``r``, integers or NULL; the grouped row has their sums, and
    ``n``, its rows. ``install_numbers``: fields of InstallCell over ``g``.
    """

    model: type[EventRow]
    keys: tuple[str, ...]
    amounts: Mapping[str, str]
    targets: tuple[Target, ...]
    install_numbers: Mapping[str, str]
    measures: tuple[Measure, ...] = ()
    seen: Mapping[FirstSeen.Kind, str] = field(default_factory=dict)
    is_replaceable: bool = False

    def plain(self) -> Source:
        """The same where no run was replaced: nothing has to be taken away, which is cheaper."""
        return replace(self, is_replaceable=False)

    def measured(self) -> tuple[str, ...]:
        """Every column that any of its histograms is told apart by."""
        kinds = (names for measure in self.measures for names in measure.kinds.values())
        return tuple(dict.fromkeys(name for names in kinds for name in names))


def _bounded(column: str, most: int, factor: int = 1) -> str:
    """An amount in units of 1/``factor``, cut at ``most`` whole ones; NULL stays NULL."""
    whole = f"r.{column} * {factor}.0 + 0.5" if factor > 1 else f"r.{column}"
    part = f"CAST(FLOOR({whole}) AS bigint)" if factor > 1 else whole
    return f"CASE WHEN r.{column} > {most} THEN {most * factor} ELSE {part} END"


def _count(column: str) -> str:
    # 32 bits: to sum them costs half of what 64 cost.
    return f"CAST({_bounded(column, COUNT_A_ROW_MAX)} AS integer)"


def _nusd(column: str) -> str:
    return _bounded(column, USD_A_ROW_MAX, 10**9)


def _us(column: str) -> str:
    return _bounded(column, MS_A_ROW_MAX, 1000)


def _known(column: str) -> str:
    return f"CASE WHEN r.{column} IS NULL THEN 0 ELSE 1 END"


def _listed(values: tuple[str, ...]) -> str:
    return ", ".join(f"'{value}'" for value in values)


def _where(column: str, *values: str, of: str = "n") -> str:
    return f"CASE WHEN g.{column} IN ({_listed(values)}) THEN g.{of} ELSE 0 END"


def _besides(column: str, *values: str) -> str:
    """Rows whose column says something else; NULL is none of them."""
    return f"CASE WHEN g.{column} NOT IN ({_listed(values)}) THEN g.n ELSE 0 END"


def _same(*names: str) -> dict[str, str]:
    return {name: f"g.{name}" for name in names}


_RUN_COUNTS: Final = ("model_call_count", "tool_call_count", "error_count", "turn_count")
_IS_TIMED_RUN: Final = "r.end_ns >= r.start_ns"
_RUN_US: Final = "(r.end_ns - r.start_ns) / 1000"

RUNS: Final = Source(
    Run,
    ("entrypoint", "platform", "agent_version", "end_reason", "cost_status"),
    {
        "priced_count": _known("estimated_cost_usd"),
        "cost_nusd": _nusd("estimated_cost_usd"),
        "timed_count": f"CASE WHEN {_IS_TIMED_RUN} THEN 1 ELSE 0 END",
        "duration_sum_us": f"CASE WHEN {_IS_TIMED_RUN} THEN CASE WHEN {_RUN_US} > "
        f"{MS_A_ROW_MAX * 1000} THEN {MS_A_ROW_MAX * 1000} ELSE {_RUN_US} END END",
        **{name: _count(name) for name in _RUN_COUNTS},
    },
    (
        Target(
            RunsCell,
            ("entrypoint", "platform", "agent_version"),
            {
                "run_count": "g.n",
                **{f"{end}_count": _where("end_reason", end) for end in RUN_ENDS},
                "open_count": "CASE WHEN g.end_reason IS NULL THEN g.n ELSE 0 END",
                "other_count": _besides("end_reason", *RUN_ENDS),
                **_same("priced_count", "timed_count", "cost_nusd", "duration_sum_us"),
                "failed_cost_nusd": _where("end_reason", *FAILED_ENDS, of="cost_nusd"),
                **_same(*_RUN_COUNTS),
            },
        ),
        Target(
            CostsCell, ("cost_status",), {"run_count": "g.n", **_same("priced_count", "cost_nusd")}
        ),
    ),
    {
        "run_count": "g.n",
        "completed_run_count": _where("end_reason", "completed"),
        "failed_run_count": _where("end_reason", *FAILED_ENDS),
        "priced_run_count": "g.priced_count",
        "cost_nusd": "g.cost_nusd",
    },
    (
        Measure(
            f"CASE WHEN {_IS_TIMED_RUN} "
            "THEN CAST(r.end_ns - r.start_ns AS double precision) / 1000000.0 END",
            {HistogramCell.Kind.RUN: (), HistogramCell.Kind.RUN_VERSION: ("agent_version",)},
        ),
    ),
    {
        FirstSeen.Kind.AGENT_VERSION: "agent_version",
        FirstSeen.Kind.ENTRYPOINT: "entrypoint",
    },
    is_replaceable=True,
)
_TOKENS: Final = (
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
)
MODEL_CALLS: Final = Source(
    ModelCall,
    ("provider", "model", "base_url", "end_reason"),
    {
        "priced_count": _known("estimated_cost_usd"),
        "cost_nusd": _nusd("estimated_cost_usd"),
        "timed_count": _known("latency_ms"),
        "latency_sum_us": _us("latency_ms"),
        "retry_count": _count("retry_count"),
        **{name: _count(name) for name in _TOKENS},
    },
    (
        Target(
            ModelCallsCell,
            ("provider", "model"),
            {
                "call_count": "g.n",
                "failed_count": _besides("end_reason", *GOOD_CALL_ENDS),
                **_same("priced_count", "timed_count", "retry_count", *_TOKENS),
                **_same("cost_nusd", "latency_sum_us"),
            },
        ),
    ),
    {
        "model_call_count": "g.n",
        # Reasoning is part of the output, as providers bill it.
        "token_count": " + ".join(f"g.{name}" for name in _TOKENS[:4]),
    },
    (
        Measure("r.latency_ms", {HistogramCell.Kind.MODEL: ("provider", "model")}),
        Measure("r.ttft_ms", {HistogramCell.Kind.MODEL_TTFT: ("provider", "model")}),
    ),
    {
        FirstSeen.Kind.MODEL: "model",
        FirstSeen.Kind.PROVIDER: "provider",
        FirstSeen.Kind.ENDPOINT: "base_url",
    },
)
TOOL_CALLS: Final = Source(
    ToolCall,
    ("tool_name", "result_class", "approval"),
    {"timed_count": _known("duration_ms"), "duration_sum_us": _us("duration_ms")},
    (
        Target(
            ToolCallsCell,
            ("tool_name",),
            {
                "call_count": "g.n",
                **{f"{result}_count": _where("result_class", result) for result in RESULTS},
                "other_count": f"CASE WHEN g.result_class IN ({_listed(RESULTS)}) "
                "THEN 0 ELSE g.n END",
                "denied_count": _where("approval", *DENIED),
                **_same("timed_count", "duration_sum_us"),
            },
        ),
    ),
    {
        "tool_call_count": "g.n",
        "tool_failure_count": _where("result_class", "error", "timeout", "blocked"),
    },
    (Measure("r.duration_ms", {HistogramCell.Kind.TOOL: ("tool_name",)}),),
    {FirstSeen.Kind.TOOL: "tool_name"},
)
ERRORS: Final = Source(
    ErrorEvent,
    ("error_class", "subsystem", "recovery"),
    {},
    (
        Target(
            ErrorsCell,
            ("error_class", "subsystem"),
            {"error_count": "g.n", "given_up_count": _where("recovery", "none")},
        ),
    ),
    {"error_count": "g.n"},
    seen={FirstSeen.Kind.ERROR_CLASS: "error_class"},
)
SOURCES: Final = (RUNS, MODEL_CALLS, TOOL_CALLS, ERRORS)
