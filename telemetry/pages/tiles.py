"""The numbers on top of the overview, each with its unit, its note and its change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from fleet.console import charts
from fleet.templatetags.fleet_format import UNKNOWN, count, duration_ms, exact, money, percent
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
    """The eight tiles in reading order; ``enrolled`` is the number of active installs.

    Without data of the whole window before nothing is compared: a part of it is no measure.
    """
    tiles = [
        _active(data, enrolled),
        _runs(data),
        _success(data),
        _durations(data),
        _tokens(data),
        _cost(data),
        _tools(data),
        _errors(data),
    ]
    if data.scope.has_earlier:
        return tiles
    return [replace(tile, change=None, previous="") for tile in tiles]


def _spark(
    data: Overview, measure: Callable[[Point], float | None], title: str, tone: charts.Tone = "1"
) -> SafeString:
    return charts.sparkline([measure(point) for point in data.runs.series], title, tone)


def _active(data: Overview, enrolled: int) -> Tile:
    pair = data.installs.active
    share = pair.value / enrolled if enrolled else None
    return Tile(
        _("Active installs"),
        count(pair.value),
        exact(pair.value),
        _("of %(all)s enrolled sent data (%(share)s)")
        % {"all": exact(enrolled), "share": percent(share)},
        relative(pair),
        "up",
        "relative",
        exact(pair.previous),
        charts.meter(share, _("%s of the fleet is active") % percent(share)),
    )


def _runs(data: Overview) -> Tile:
    now, before = data.runs.totals.value, data.runs.totals.previous
    note = _("%s still open") % exact(now.open_count) if now.open_count else _("all ended")
    return Tile(
        _("Runs"),
        count(now.run_count),
        exact(now.run_count),
        note,
        relative(Compared(now.run_count, before.run_count)),
        "none",
        "relative",
        exact(before.run_count),
        _spark(data, lambda point: point.runs, _("Runs over the window")),
    )


def _success(data: Overview) -> Tile:
    now, before = data.runs.totals.value, data.runs.totals.previous
    return Tile(
        _("Success rate"),
        percent(now.success.value),
        _("completed of all runs; 95 %% sure between %(low)s and %(high)s")
        % {"low": percent(now.success.low), "high": percent(now.success.high)},
        _("%(failed)s failed, %(stopped)s interrupted")
        % {"failed": exact(now.bad_count), "stopped": exact(now.interrupted_count)},
        difference(Compared(now.success.value, before.success.value)),
        "up",
        "points",
        percent(before.success.value),
        _spark(data, lambda point: point.failed_runs, _("Failed runs over the window"), "bad"),
    )


def _durations(data: Overview) -> Tile:
    pair = data.runs.duration
    if pair is None:
        note = _("not kept by entrypoint or platform")
        return Tile(_("Run duration, p50"), UNKNOWN, note, note, None, "down", "relative", "")
    now, before = pair.value, pair.previous
    return Tile(
        _("Run duration, p50"),
        duration_ms(now.p50_ms),
        _("half of the closed runs took less; known for %s of the runs") % percent(now.coverage),
        _("p95 %(p95)s, p99 %(p99)s")
        % {"p95": duration_ms(now.p95_ms), "p99": duration_ms(now.p99_ms)},
        relative(Compared(now.p50_ms, before.p50_ms)),
        "down",
        "relative",
        duration_ms(before.p50_ms),
    )


def _tokens(data: Overview) -> Tile:
    pair = data.models.tokens
    total = Compared(pair.value.total_tokens, pair.previous.total_tokens)
    series = (line.tokens for line in data.models.series)
    sums = [sum(values) for values in zip(*series, strict=False)]
    return Tile(
        _("Tokens"),
        count(total.value),
        exact(total.value),
        _("%s of prompts from a cache") % percent(pair.value.cache_hit_rate),
        relative(total),
        "none",
        "relative",
        exact(total.previous),
        charts.sparkline(sums, _("Tokens over the window"), "2") if sums else "",
    )


def _cost(data: Overview) -> Tile:
    now, before = data.runs.totals.value, data.runs.totals.previous
    covered = _("known for %(share)s of %(runs)s runs") % {
        "share": percent(now.cost.coverage),
        "runs": exact(now.run_count),
    }
    note = covered
    if now.usd_per_success is not None:
        note = _("%(each)s a success, %(lost)s on failures") % {
            "each": money(now.usd_per_success),
            "lost": money(now.failed_usd),
        }
    return Tile(
        _("Cost, USD"),
        money(now.cost.usd),
        covered,
        note,
        relative(Compared(now.cost.usd, before.cost.usd)),
        "down",
        "relative",
        money(before.cost.usd),
        _spark(data, lambda point: point.cost_usd, _("Known cost over the window"), "3"),
    )


def _tools(data: Overview) -> Tile:
    now, before = data.tools.failure.value, data.tools.failure.previous
    return Tile(
        _("Tool failure rate"),
        percent(now.value),
        _("errors, timeouts and blocked calls of all tool calls"),
        _("of %s tool calls") % exact(data.tools.calls.value),
        difference(Compared(now.value, before.value)),
        "down",
        "points",
        percent(before.value),
        charts.sparkline(data.tools.series, _("Failed tool calls over the window"), "bad"),
    )


def _errors(data: Overview) -> Tile:
    pair = data.errors.total
    return Tile(
        _("Errors"),
        count(pair.value),
        exact(pair.value),
        _("%s were given up, the others retried") % exact(data.errors.given_up.value),
        relative(pair),
        "down",
        "relative",
        exact(pair.previous),
        charts.sparkline(data.errors.series, _("Errors over the window"), "bad"),
    )
