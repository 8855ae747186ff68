"""Metrics of what was exported: cumulative series kept beside the cursor of their destination.

Cumulative, not delta: the series move in the transaction that moves the cursor, and what is sent
is always the whole since ``start_ns``. A batch that is sent twice, a death between the answer and
the cursor, a drain by another process: each repeats the same totals, where a delta would count
twice or be lost. A run's row comes again when its cost is put right; the cost it was counted with
is remembered, so that only the difference is added. The install is in the resource, never in a
series' attributes.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from typing import Final

from agent_client.contract import otlp_genai as genai
from agent_client.contract.otlp_metrics import INSTRUMENTS
from agent_client.contract.otlp_names import Attributes, AttributeValue
from agent_client.contract.tables import ERRORS, MODEL_CALLS, TOOL_CALLS, Table
from agent_client.otlp.signals import Log, Series, Span

MAX_SERIES: Final = 1_000
"""Models and tools have few names; a flood of made-up ones ends in one overflow series each."""
_OVERFLOW: Final[Attributes] = {"otel.metric.overflow": True}


_NEXT_USAGE: Final = "gen_ai.client.inference.usage."
_CALL_ATTRIBUTES: Final = (
    "gen_ai.operation.name",
    "gen_ai.provider.name",
    "gen_ai.request.model",
    "gen_ai.response.model",
    "server.address",
    "server.port",
)
_TOOL_ATTRIBUTES: Final = (
    "gen_ai.tool.name",
    "gen_ai.tool.type",
    "gen_ai.agent.name",
    "error.type",
)
_RUN_ATTRIBUTES: Final = ("gen_ai.agent.name", "error.type")
_USAGE: Final = "gen_ai.usage."
_USAGE_PARTS: Final = "input output cache_read.input cache_write.input reasoning.output".split()


class Meter:
    """The series of one destination since ``start_ns``."""

    def __init__(self, start_ns: int) -> None:
        self.start_ns = start_ns
        self._series: dict[tuple[str, tuple[tuple[str, AttributeValue], ...]], Series] = {}

    @property
    def series(self) -> list[Series]:
        """All of them, in the order of their first value."""
        return list(self._series.values())

    def add_span(self, table: Table, span: Span, profile: str) -> None:
        """Count an exported model or tool call."""
        if table is MODEL_CALLS:
            self._add_call(span, profile)
        elif table is TOOL_CALLS:
            attributes = _pick(span.attributes, _TOOL_ATTRIBUTES)
            for name in _by_profile(
                profile, "hermes.tool.duration", "gen_ai.execute_tool.duration"
            ):
                self._record(name, attributes, _seconds(span))

    def add_run(self, span: Span, profile: str, counted_usd: float | None) -> float:
        """Count a closed run; ``counted_usd`` is its cost when counted before, else None.

        The answer is the cost that it is counted with now.
        """
        cost = span.attributes.get("hermes.estimated_cost_usd")
        cost_usd = float(cost) if isinstance(cost, (int, float)) else 0.0
        entrypoint = str(span.attributes.get("hermes.entrypoint", "unknown"))
        if counted_usd is None:
            reason = str(span.attributes.get("hermes.end_reason", "unknown"))
            self._add("hermes.run.count", {"entrypoint": entrypoint, "end_reason": reason}, 1)
            attributes = _pick(span.attributes, _RUN_ATTRIBUTES)
            for name in _by_profile(profile, "hermes.run.duration", "gen_ai.invoke_agent.duration"):
                self._record(name, attributes, _seconds(span))
        difference_usd = cost_usd - (counted_usd or 0.0)
        if difference_usd:
            self._add("hermes.cost.usd", {"entrypoint": entrypoint}, difference_usd)
        return cost_usd

    def add_log(self, table: Table, log: Log) -> None:
        """Count an exported error."""
        if table is ERRORS:
            attributes: Attributes = {
                name: str(log.attributes.get(f"hermes.{name}", "unknown"))
                for name in ("error_class", "subsystem")
            }
            self._add("hermes.error.count", attributes, 1)

    def set_dropped(self, counts: Mapping[str, int]) -> None:
        """Events lost since recording began, by reason: a total kept elsewhere, taken over."""
        for reason, count in counts.items():
            self._of("hermes.events.dropped", {"reason": reason}).total = count

    def to_json(self) -> str:
        """The series as bookkeeping text."""
        kept = [
            (one.name, one.attributes, one.total, one.count, one.buckets, one.minimum, one.maximum)
            for one in self.series
        ]
        return json.dumps({"start_ns": self.start_ns, "series": kept}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | None, now_ns: int) -> Meter:
        """The meter of a bookkeeping text; a fresh one, which receivers see as a restart, else."""
        try:
            data = json.loads(text or "")
            meter = cls(int(data["start_ns"]))
            for name, attributes, total, count, buckets, minimum, maximum in data["series"]:
                one = meter._of(str(name), dict(attributes))
                one.total, one.count, one.minimum, one.maximum = total, count, minimum, maximum
                # Other bounds than they were written with: the comparison raises.
                one.buckets = [int(new) for new, _ in zip(buckets, one.buckets, strict=True)]
        except (ValueError, TypeError, KeyError, RecursionError):
            return cls(now_ns)
        return meter

    # ------------------------------------------------------------------------------------------

    def _add_call(self, span: Span, profile: str) -> None:
        attributes = _pick(span.attributes, _CALL_ATTRIBUTES)
        timed = {**attributes, **_pick(span.attributes, ("error.type",))}
        first_s = span.attributes.get("gen_ai.response.time_to_first_chunk")
        if genai.is_1_41(profile):
            for kind in ("input", "output"):
                tokens = span.attributes.get(f"{_USAGE}{kind}_tokens")
                self._record_known(
                    "gen_ai.client.token.usage", {**attributes, "gen_ai.token.type": kind}, tokens
                )
        if genai.is_next(profile):
            self._add_usage(span, attributes)
        for kind in _by_profile(profile, "operation", "inference"):
            self._record(f"gen_ai.client.{kind}.duration", timed, _seconds(span))
            self._record_known(f"gen_ai.client.{kind}.time_to_first_chunk", attributes, first_s)

    def _add_usage(self, span: Span, attributes: Attributes) -> None:
        counted = {**attributes, "gen_ai.token.modality": "unknown"}
        for part in _USAGE_PARTS:
            tokens = span.attributes.get(f"{_USAGE}{part}_tokens")
            if isinstance(tokens, int):
                self._add(f"{_NEXT_USAGE}{part}_tokens", counted, tokens)
        for kind in ("input", "output"):
            tokens = span.attributes.get(f"{_USAGE}{kind}_tokens")
            self._record_known(
                f"gen_ai.client.inference.operation.{kind}_tokens", attributes, tokens
            )

    def _of(self, name: str, attributes: Attributes) -> Series:
        key = (name, tuple(attributes.items()))
        found = self._series.get(key)
        if found is None:
            if len(self._series) >= MAX_SERIES and attributes != _OVERFLOW:
                return self._of(name, dict(_OVERFLOW))
            made = INSTRUMENTS[name]
            buckets = [0] * (len(made.bounds) + 1) if made.bounds else []
            found = self._series[key] = Series(
                name, made.unit, attributes, made.bounds, buckets=buckets, is_whole=made.is_whole
            )
        return found

    def _add(self, name: str, attributes: Attributes, value: float) -> None:
        self._of(name, attributes).total += value

    def _record_known(self, name: str, attributes: Attributes, value: object) -> None:
        if isinstance(value, (int, float)):
            self._record(name, attributes, value)

    def _record(self, name: str, attributes: Attributes, value: float) -> None:
        one = self._of(name, attributes)
        one.minimum = min(one.minimum, value) if one.count else value
        one.maximum = max(one.maximum, value)
        one.count += 1
        one.total += value
        one.buckets[bisect_left(one.bounds, value)] += 1


def _by_profile(profile: str, old: str, new: str) -> list[str]:
    """The names that a profile asks for."""
    return [old] * genai.is_1_41(profile) + [new] * genai.is_next(profile)


def _pick(attributes: Attributes, keys: Iterable[str]) -> Attributes:
    return {key: attributes[key] for key in keys if key in attributes}


def _seconds(span: Span) -> float:
    return (span.end_ns - span.start_ns) / 1e9
