"""What the rollup cells of some days add to each metric series, in whole numbers.

A day's cells change while its rows come in and when a run is replaced; ``metrics`` takes the newest
days anew each time and keeps what older ones came to. The install is in no attribute.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime
from typing import Any, Final

from django.db.models import Count

from agent_client.contract import otlp_genai as genai
from agent_client.contract.otlp_metrics import INSTRUMENTS
from fleet.models import Install, InstallGroup, InstallStatus
from telemetry.ingest.scrub import scrub_text
from telemetry.models import (
    ALL_GROUPS,
    ErrorsCell,
    HistogramCell,
    InstallIntake,
    ModelCallsCell,
    RelayCursor,
    RunsCell,
    Unit,
)
from telemetry.rollup.histogram import ZERO_KEY, middle_ms

type Key = tuple[str, tuple[tuple[str, str], ...]]
"""A series: its metric and its attributes, in order."""
type Numbers = list[int]
"""Of a sum its total (dollars in billionths); of a histogram its buckets, then the sum in
millionths of its unit; of one that has only count and sum, those two."""
type Totals = dict[Key, Numbers]

NO_BOUNDS: Final = frozenset(
    {
        "gen_ai.client.token.usage",
        "gen_ai.client.inference.operation.input_tokens",
        "gen_ai.client.inference.operation.output_tokens",
    }
)
"""Cells know how many tokens calls had together, not each: a histogram of one bucket."""
MILLION: Final = 1_000_000
END_REASONS: Final = (
    *("completed", "interrupted", "failed", "max_iterations", "timeout", "abandoned", "other"),
)
_USAGE: Final = "gen_ai.client.inference.usage."


def day_totals(profile: str, since: datetime, group_ids: Sequence[int]) -> dict[date, Totals]:
    """What each day from ``since`` on adds to each series; 4 queries."""
    found: dict[date, Totals] = defaultdict(dict)
    names = group_names()
    for day, key, numbers in (
        *_runs(since, group_ids, names),
        *_calls(profile, since, group_ids, names),
        *_errors(since, group_ids, names),
        *_durations(profile, since, group_ids, names),
    ):
        held = found[day].get(key)
        found[day][key] = numbers if held is None else add(held, numbers)
    return found


def dropped(group_ids: Sequence[int]) -> Totals:
    """Events that installs say they lost since they enrolled, by reason: a total kept elsewhere."""
    intakes = InstallIntake.objects.exclude(losses={})
    if group_ids:
        chosen = Install.objects.filter(group_id__in=group_ids).values_list("pk", flat=True)
        intakes = intakes.filter(install_id__in=list(chosen))
    counts: Counter[str] = Counter()
    for losses in intakes.values_list("losses", flat=True).iterator():
        counts.update(losses)
    return {_key("hermes.events.dropped", reason=reason): [n] for reason, n in counts.items()}


def installs(group_ids: Sequence[int]) -> Totals:
    """Installs by their state: that of their policy, or quarantined or revoked; 1 query."""
    rows = Install.objects.all()
    if group_ids:
        rows = rows.filter(group_id__in=group_ids)
    found: Totals = {}
    for status, sync_state, count in rows.values_list("status", "sync_state").annotate(
        count=Count("pk")
    ):
        state = sync_state if status == InstallStatus.ACTIVE else status
        key = _key("hermes.fleet.installs", state=state)
        found[key] = add(found.get(key, [0]), [count])
    return found


def lags(destination_id: int) -> dict[Key, float]:
    """How far each signal of a collector is behind, in seconds; 1 query."""
    cursors = RelayCursor.objects.filter(destination_id=destination_id, lag_s__isnull=False)
    return {
        _key("hermes.export.lag", signal=signal): lag_s
        for signal, lag_s in cursors.values_list("signal", "lag_s")
        if lag_s is not None
    }


def group_names() -> dict[int, str]:
    """The groups' names, as they may go out."""
    found = InstallGroup.objects.values_list("pk", "name")
    return {pk: scrub_text(name) for pk, name in found}


def add(held: Numbers, more: Numbers, sign: int = 1) -> Numbers:
    """Two sets of numbers together."""
    return [one + sign * other for one, other in zip(held, more, strict=True)]


type _Found = Iterator[tuple[date, Key, Numbers]]


def _key(name: str, **attributes: str) -> Key:
    return name, tuple((key, value) for key, value in attributes.items() if value)


def _named(name: str, group: str, attributes: Mapping[str, str]) -> Key:
    pairs = [(key, scrub_text(value)) for key, value in attributes.items() if value]
    return name, tuple([("hermes.group", group), *pairs] if group else pairs)


def _cells(model: Any, since: datetime, group_ids: Sequence[int], *fields: str) -> Any:  # noqa: ANN401 -- any cell
    rows = model.objects.filter(unit=Unit.DAY, at__gte=since)
    rows = rows.filter(group_id__in=group_ids) if group_ids else rows.exclude(group_id=ALL_GROUPS)
    return rows.values_list("at", "group_id", *fields).iterator()


def _runs(since: datetime, group_ids: Sequence[int], names: Mapping[int, str]) -> _Found:
    ends = [f"{reason}_count" for reason in END_REASONS]
    cells = _cells(RunsCell, since, group_ids, "entrypoint", "cost_nusd", *ends)
    for at, group_id, entrypoint, cost_nusd, *counts in cells:
        group, said = names.get(group_id, ""), {"entrypoint": entrypoint or "unknown"}
        for reason, count in zip(END_REASONS, counts, strict=True):
            if count:
                key = _named("hermes.run.count", group, {**said, "end_reason": reason})
                yield at.date(), key, [count]
        if cost_nusd:
            yield at.date(), _named("hermes.cost.usd", group, said), [cost_nusd]


def _calls(
    profile: str, since: datetime, group_ids: Sequence[int], names: Mapping[int, str]
) -> _Found:
    fields = (
        *("provider", "model", "call_count", "input_tokens", "output_tokens"),
        *("cache_read_tokens", "cache_write_tokens", "reasoning_tokens"),
    )
    for at, group_id, provider, model, calls, *tokens in _cells(
        ModelCallsCell, since, group_ids, *fields
    ):
        fresh, output, read, write, reasoning = tokens
        whole = fresh + read + write
        day, group, said = at.date(), names.get(group_id, ""), call_attributes(provider, model)
        for kind, count in (("input", whole), ("output", output)):
            numbers = [calls, count * MILLION]
            if genai.is_1_41(profile):
                named = {**said, "gen_ai.token.type": kind}
                yield day, _named("gen_ai.client.token.usage", group, named), numbers
            if genai.is_next(profile):
                name = f"gen_ai.client.inference.operation.{kind}_tokens"
                yield day, _named(name, group, said), numbers
        if genai.is_next(profile):
            counted = {**said, "gen_ai.token.modality": "unknown"}
            parts = {
                "input": whole,
                "output": output,
                "cache_read.input": read,
                "cache_write.input": write,
                "reasoning.output": reasoning,
            }
            for part, count in parts.items():
                if count:
                    yield day, _named(f"{_USAGE}{part}_tokens", group, counted), [count]


def _errors(since: datetime, group_ids: Sequence[int], names: Mapping[int, str]) -> _Found:
    for at, group_id, error_class, subsystem, count in _cells(
        ErrorsCell, since, group_ids, "error_class", "subsystem", "error_count"
    ):
        said = {"error_class": error_class or "unknown", "subsystem": subsystem or "unknown"}
        yield at.date(), _named("hermes.error.count", names.get(group_id, ""), said), [count]


def call_attributes(provider: str, model: str) -> dict[str, str]:
    """What tells the calls of a model apart."""
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": genai.provider_name(provider),
        "gen_ai.request.model": model,
    }


def _durations(
    profile: str, since: datetime, group_ids: Sequence[int], names: Mapping[int, str]
) -> _Found:
    cells = _cells(HistogramCell, since, group_ids, "kind", "name", "detail", "counts")
    for at, group_id, kind, name, detail, counts in cells:
        for metric in _METRICS.get((kind, genai.is_1_41(profile), genai.is_next(profile)), ()):
            key = _named(metric, names.get(group_id, ""), _measured(kind, name, detail))
            yield at.date(), key, explicit(counts, INSTRUMENTS[metric].bounds)


def _measured(kind: str, name: str, detail: str) -> dict[str, str]:
    if kind == HistogramCell.Kind.TOOL:
        tool_type = genai.tool_type(None, name)
        said = {"gen_ai.tool.name": name or "unknown", "gen_ai.tool.type": tool_type}
        return {**said, "gen_ai.agent.name": genai.AGENT_NAME}
    if kind == HistogramCell.Kind.RUN:
        return {"gen_ai.agent.name": genai.AGENT_NAME}
    return call_attributes(name, detail)


_Kind = HistogramCell.Kind
_PAIRS: Final = {
    _Kind.MODEL: ("gen_ai.client.operation.duration", "gen_ai.client.inference.duration"),
    _Kind.MODEL_TTFT: (
        "gen_ai.client.operation.time_to_first_chunk",
        "gen_ai.client.inference.time_to_first_chunk",
    ),
    _Kind.TOOL: ("hermes.tool.duration", "gen_ai.execute_tool.duration"),
    _Kind.RUN: ("hermes.run.duration", "gen_ai.invoke_agent.duration"),
}
"""By kind of cell: the metric of 1.41 (ours where it has none) and of the conventions after it."""
_METRICS: Final = {
    (kind.value, is_1_41, is_next): (old,) * is_1_41 + (new,) * is_next
    for kind, (old, new) in _PAIRS.items()
    for is_1_41, is_next in ((True, False), (False, True), (True, True))
}


def explicit(counts: Mapping[str, int], bounds: Sequence[float]) -> Numbers:
    """A cell's histogram in explicit buckets of seconds, then the sum in microseconds.

    A bucket of the cell is 4.4 % wide and goes where its middle lies: its values are at most 2.2 %
    away from it, and so is the sum.
    """
    buckets, total_us = [0] * (len(bounds) + 1), 0
    for index, count in counts.items():
        middle_us = 0 if index == ZERO_KEY else round(middle_ms(int(index)) * 1000)
        buckets[bisect_left(bounds, middle_us / MILLION)] += count
        total_us += middle_us * count
    return [*buckets, total_us]
