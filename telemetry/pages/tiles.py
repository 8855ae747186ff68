"""The numbers on top of the overview, each with its unit, its note and its change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from fleet.console import charts
from fleet.templatetags.fleet_format import count, duration_ms, exact, money, percent
from telemetry.insight.answers import Overview, Point
from telemetry.insight.window import Compared


@dataclass(frozen=True, slots=True)
class Tile:
    """One number. ``change`` is relative, or a difference of shares when ``unit`` is points.

    ``good``: whether up or down is good news, or none.
    """

    name: str
    value: str
    title: str
    note: str
    change: float | None
    good: str
    unit: str
    previous: str
    spark: SafeString | str = ""


def relative(pair: Compared[int] | Compared[float | None]) -> float | None:
    """Change against the window before as a share of one; None without anything to compare."""
    if pair.value is None or not pair.previous:
        return None
    return (pair.value - pair.previous) / pair.previous


def difference(pair: Compared[float | None]) -> float | None:
    """Difference of two shares."""
    if pair.value is None or pair.previous is None:
        return None
    return pair.value - pair.previous


def tiles_of(data: Overview, enrolled: int) -> list[Tile]:
    """The eight tiles in reading order; ``enrolled`` is the number of active installs."""
    return [
        _active(data, enrolled),
        _runs(data),
        _success(data),
        _durations(data),
        _tokens(data),
        _cost(data),
        _tools(data),
        _errors(data),
    ]


def _spark(
    data: Overview, measure: Callable[[Point], float | None], title: str, tone: charts.Tone = "1"
) -> SafeString:
    return charts.sparkline([measure(point) for point in data.series], title, tone)


def _active(data: Overview, enrolled: int) -> Tile:
    pair = data.active_installs
    share = pair.value / enrolled if enrolled else None
    return Tile(
        _("Active installs"),
        count(pair.value),
        exact(pair.value),
        _("of %(all)s enrolled sent runs (%(share)s)")
        % {"all": exact(enrolled), "share": percent(share)},
        relative(pair),
        "up",
        "relative",
        exact(pair.previous),
        charts.meter(share, _("%s of the fleet is active") % percent(share)),
    )


def _runs(data: Overview) -> Tile:
    pair = data.runs
    reasons = dict(data.end_reasons)
    open_runs = reasons.get("open", 0)
    note = _("%s still open") % exact(open_runs) if open_runs else _("all ended")
    return Tile(
        _("Runs"),
        count(pair.value),
        exact(pair.value),
        note,
        relative(pair),
        "none",
        "relative",
        exact(pair.previous),
        _spark(data, lambda point: point.runs, _("Runs over the window")),
    )


def _success(data: Overview) -> Tile:
    pair = data.success_rate
    reasons = dict(data.end_reasons)
    failed = sum(reasons.get(name, 0) for name in ("failed", "timeout", "max_iterations"))
    return Tile(
        _("Success rate"),
        percent(pair.value),
        _("completed of all runs"),
        _("%(failed)s failed, %(stopped)s interrupted")
        % {"failed": exact(failed), "stopped": exact(reasons.get("interrupted", 0))},
        difference(pair),
        "up",
        "points",
        percent(pair.previous),
        _spark(data, lambda point: point.failed_runs, _("Failed runs over the window"), "bad"),
    )


def _durations(data: Overview) -> Tile:
    p50, p95 = data.p50_ms, data.p95_ms
    return Tile(
        _("Run duration, p50"),
        duration_ms(p50.value),
        _("half of the closed runs took less"),
        _("p95 %(now)s, before %(then)s")
        % {"now": duration_ms(p95.value), "then": duration_ms(p95.previous)},
        relative(p50),
        "down",
        "relative",
        duration_ms(p50.previous),
    )


def _tokens(data: Overview) -> Tile:
    total = Compared(data.tokens.value.total_tokens, data.tokens.previous.total_tokens)
    sums = [sum(values) for values in zip(*(s.tokens for s in data.tokens_by_model), strict=False)]
    return Tile(
        _("Tokens"),
        count(total.value),
        exact(total.value),
        _("%s of the prompts came from a cache") % percent(data.tokens.value.cache_hit_rate),
        relative(total),
        "none",
        "relative",
        exact(total.previous),
        charts.sparkline(sums, _("Tokens over the window"), "2") if sums else "",
    )


def _cost(data: Overview) -> Tile:
    value, before = data.cost.value, data.cost.previous
    covered = _("known for %(share)s of %(runs)s runs") % {
        "share": percent(value.coverage),
        "runs": exact(value.count),
    }
    return Tile(
        _("Cost, USD"),
        money(value.usd),
        covered,
        covered,
        relative(Compared(value.usd, before.usd)),
        "down",
        "relative",
        money(before.usd),
        _spark(data, lambda point: point.cost_usd, _("Known cost over the window"), "3"),
    )


def _tools(data: Overview) -> Tile:
    pair = data.tool_failure_rate
    return Tile(
        _("Tool failure rate"),
        percent(pair.value),
        _("errors, timeouts and blocked calls of all tool calls"),
        _("of %s tool calls") % exact(data.tool_calls.value),
        difference(pair),
        "down",
        "points",
        percent(pair.previous),
        _spark(
            data, lambda point: point.tool_errors, _("Failed tool calls over the window"), "bad"
        ),
    )


def _errors(data: Overview) -> Tile:
    pair = data.errors
    given_up = sum(line.given_up for line in data.error_lines)
    return Tile(
        _("Errors"),
        count(pair.value),
        exact(pair.value),
        _("%s were given up, the others retried") % exact(given_up),
        relative(pair),
        "down",
        "relative",
        exact(pair.previous),
        _spark(data, lambda point: point.errors, _("Errors over the window"), "bad"),
    )
