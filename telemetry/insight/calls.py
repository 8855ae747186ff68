"""Questions about calls and errors: models with tokens and cost, tools, classes of errors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from telemetry.insight import read
from telemetry.insight.answers import (
    Cost,
    ErrorLine,
    Errors,
    ErrorSeries,
    ModelLine,
    Models,
    Scope,
    Tokens,
    TokenSeries,
    ToolLine,
    Tools,
)
from telemetry.insight.filters import stored
from telemetry.insight.intervals import Rate
from telemetry.insight.window import CURRENT, PREVIOUS, Compared, Window
from telemetry.models import ErrorsCell, HistogramCell, ModelCallsCell, ToolCallsCell
from telemetry.rollup.histogram import Histogram
from telemetry.store.cell_sums import PART, Cells

TOP_SERIES: Final = 5
"""Models or classes with a colour of their own on a chart; the others are one."""
TIMED_LINES: Final = 8
"""Lines that get percentiles unless a question asks for more: histograms are the dear part."""
OTHER: Final = "other"
TOKEN_FIELDS: Final = (
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
)
MODEL_FIELDS: Final = (
    "call_count",
    "failed_count",
    "priced_count",
    "retry_count",
    "cost_nusd",
    *TOKEN_FIELDS,
)
TOOL_FIELDS: Final = (
    "call_count",
    "error_count",
    "timeout_count",
    "blocked_count",
    "denied_count",
)
TOOL_FAILURES: Final = ("error_count", "timeout_count", "blocked_count")
ERROR_FIELDS: Final = ("error_count", "given_up_count")
_SUMMED_TOKENS: Final = TOKEN_FIELDS[:4]
_Kind: Final = HistogramCell.Kind

type Lines = dict[tuple[str, ...], Compared[read.Sums]]


def models(scope: Scope, *, timed: int = TIMED_LINES, is_with_first_token: bool = False) -> Models:
    """Models with calls, tokens, cost and, for the first ``timed``, latency; 3 or 4 queries."""
    window, filters = scope.window, scope.filters
    cells = Cells(window.both(), filters.level, among=filters.on(ModelCallsCell))
    found = read.sums_of(ModelCallsCell, cells, (PART, "provider", "model"), MODEL_FIELDS)
    lines = _lines(found, MODEL_FIELDS, "call_count")
    total = _total(lines, MODEL_FIELDS)
    first_lines = tuple(lines)[:timed]
    latency = _line_histograms(scope, _Kind.MODEL, first_lines)
    first_token = (
        _line_histograms(scope, _Kind.MODEL_TTFT, first_lines) if is_with_first_token else {}
    )
    return Models(
        scope=read.about(scope, ModelCallsCell),
        tokens=Compared(_tokens(total.value), _tokens(total.previous)),
        cost=Compared(_cost(total.value), _cost(total.previous)),
        calls=Compared(total.value["call_count"], total.previous["call_count"]),
        failure=Compared(_failed_calls(total.value), _failed_calls(total.previous)),
        lines=tuple(
            _model_line(key, pair, latency.get(key), first_token.get(key))
            for key, pair in lines.items()
            if pair.value["call_count"]
        ),
        series=_token_series(scope),
    )


def tools(scope: Scope, *, timed: int = TIMED_LINES) -> Tools:
    """Tools with calls, failures and, for the first ``timed``, durations; 3 queries."""
    window, filters = scope.window, scope.filters
    among = filters.on(ToolCallsCell)
    cells = Cells(window.both(), filters.level, among=among)
    found = read.sums_of(ToolCallsCell, cells, (PART, "tool_name"), TOOL_FIELDS)
    lines = _lines(found, TOOL_FIELDS, "call_count")
    total = _total(lines, TOOL_FIELDS)
    durations = _line_histograms(scope, _Kind.TOOL, tuple(lines)[:timed])
    slots = read.sums_of(
        ToolCallsCell,
        Cells(window.slices(), filters.level, among=among),
        ("at",),
        ("call_count", *TOOL_FAILURES),
    )
    return Tools(
        scope=read.about(scope, ToolCallsCell),
        calls=Compared(total.value["call_count"], total.previous["call_count"]),
        failure=Compared(_failed_tools(total.value), _failed_tools(total.previous)),
        lines=tuple(
            _tool_line(key[0], pair, durations.get(key))
            for key, pair in lines.items()
            if pair.value["call_count"]
        ),
        series=_series(window, slots, TOOL_FAILURES),
        call_series=_series(window, slots, ("call_count",)),
    )


def errors(scope: Scope) -> Errors:
    """Errors by class and subsystem; 2 queries."""
    window, level = scope.window, scope.filters.level
    keys = (PART, "error_class", "subsystem")
    found = read.sums_of(ErrorsCell, Cells(window.both(), level), keys, ERROR_FIELDS)
    lines = _lines(found, ERROR_FIELDS, "error_count")
    total = _total(lines, ERROR_FIELDS)
    slots = read.sums_of(
        ErrorsCell, Cells(window.slices(), level), ("at", "error_class"), ("error_count",)
    )
    return Errors(
        scope=read.about(scope, ErrorsCell),
        total=Compared(total.value["error_count"], total.previous["error_count"]),
        given_up=Compared(total.value["given_up_count"], total.previous["given_up_count"]),
        lines=tuple(
            ErrorLine(
                error_class=key[0],
                subsystem=key[1],
                errors=pair.value["error_count"],
                previous_errors=pair.previous["error_count"],
                given_up=pair.value["given_up_count"],
            )
            for key, pair in lines.items()
            if pair.value["error_count"]
        ),
        by_class=tuple(ErrorSeries(*line) for line in _top_series(window, slots)),
    )


def _lines(
    found: Iterable[tuple[tuple[object, ...], read.Sums]], names: Sequence[str], order: str
) -> Lines:
    """Sums of both windows by shown name, largest in this window first."""
    parts: dict[tuple[str, ...], tuple[read.Sums, read.Sums]] = {}
    for (part, *key), sums in found:
        pair = parts.setdefault(
            tuple(map(read.named, key)), (dict.fromkeys(names, 0), dict.fromkeys(names, 0))
        )
        # "" and the word for it are shown as one.
        total = pair[int(str(part))]
        for name in names:
            total[name] += sums[name]
    ordered = sorted(parts.items(), key=lambda item: (-item[1][CURRENT][order], item[0]))
    return {key: Compared(pair[CURRENT], pair[PREVIOUS]) for key, pair in ordered}


def _total(lines: Lines, names: Sequence[str]) -> Compared[read.Sums]:
    return Compared(
        read.added((pair.value for pair in lines.values()), names),
        read.added((pair.previous for pair in lines.values()), names),
    )


def _line_histograms(
    scope: Scope, kind: HistogramCell.Kind, keys: Sequence[tuple[str, ...]]
) -> dict[tuple[str, ...], Histogram]:
    """The histograms of some lines, by shown name."""
    if not keys:
        return {}
    fields = ("name", "detail")
    among = {
        name: sorted({value for key in keys for value in stored(key[at])})
        for at, name in enumerate(fields[: len(keys[0])])
    }
    found = read.histograms(scope.window.slices(), scope.filters.level, kind, among=among)
    merged: dict[tuple[str, ...], Histogram] = {}
    for (_, name, detail), histogram in found.items():
        key = tuple(map(read.named, (name, detail)[: len(keys[0])]))
        merged[key] = histogram if key not in merged else merged[key].merged(histogram)
    return merged


def _model_line(
    key: tuple[str, ...],
    pair: Compared[read.Sums],
    latency: Histogram | None,
    first_token: Histogram | None,
) -> ModelLine:
    sums, calls = pair.value, pair.value["call_count"]
    return ModelLine(
        provider=key[0],
        model=key[1],
        calls=calls,
        previous_calls=pair.previous["call_count"],
        failure=_failed_calls(sums),
        retries=sums["retry_count"],
        tokens=_tokens(sums),
        cost=_cost(sums),
        latency=None if latency is None else read.percentiles(latency, calls),
        first_token=None if first_token is None else read.percentiles(first_token, calls),
    )


def _tool_line(name: str, pair: Compared[read.Sums], duration: Histogram | None) -> ToolLine:
    sums, before = pair.value, pair.previous
    return ToolLine(
        tool_name=name,
        calls=sums["call_count"],
        previous_calls=before["call_count"],
        previous_failures=sum(before[field] for field in TOOL_FAILURES),
        failures=sum(sums[field] for field in TOOL_FAILURES),
        errors=sums["error_count"],
        timeouts=sums["timeout_count"],
        blocked=sums["blocked_count"],
        denied=sums["denied_count"],
        duration=None if duration is None else read.percentiles(duration, sums["call_count"]),
    )


def _tokens(sums: read.Sums) -> Tokens:
    return Tokens(**{name: sums[name] for name in TOKEN_FIELDS})


def _cost(sums: read.Sums) -> Cost:
    return Cost(sums["cost_nusd"], sums["priced_count"], sums["call_count"])


def _failed_calls(sums: read.Sums) -> Rate:
    return Rate(sums["failed_count"], sums["call_count"])


def _failed_tools(sums: read.Sums) -> Rate:
    return Rate(sum(sums[name] for name in TOOL_FAILURES), sums["call_count"])


def _series(
    window: Window,
    slots: Iterable[tuple[tuple[object, ...], read.Sums]],
    names: Sequence[str],
) -> tuple[int, ...]:
    counts: Counter[datetime] = Counter()
    for (moment,), sums in slots:
        counts[window.bucket_of(read.at_of(moment))] += sum(sums[name] for name in names)
    return tuple(counts[start] for start in window.buckets())


def _token_series(scope: Scope) -> tuple[TokenSeries, ...]:
    """Tokens of the models with most; 1 query."""
    window, filters = scope.window, scope.filters
    cells = Cells(window.slices(), filters.level, among=filters.on(ModelCallsCell))
    slots = read.sums_of(ModelCallsCell, cells, ("at", "model"), _SUMMED_TOKENS)
    return tuple(TokenSeries(*line) for line in _top_series(window, slots))


def _top_series(
    window: Window, slots: Iterable[tuple[tuple[object, ...], read.Sums]]
) -> list[tuple[str, tuple[int, ...]]]:
    """The TOP_SERIES names with the largest sums bucket by bucket, then all others as one."""
    totals: Counter[str] = Counter()
    counts: Counter[tuple[str, datetime]] = Counter()
    for (moment, value), sums in slots:
        name, count = read.named(value), sum(sums.values())
        totals[name] += count
        counts[name, window.bucket_of(read.at_of(moment))] += count
    top = [name for name, count in totals.most_common(TOP_SERIES) if count]
    rest = [name for name, count in totals.items() if count and name not in top]
    lines = [(name, [name]) for name in top] + ([(OTHER, rest)] if rest else [])
    buckets = window.buckets()
    return [
        (label, tuple(sum(counts[name, at] for name in names) for at in buckets))
        for label, names in lines
    ]
