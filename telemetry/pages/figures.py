"""Charts over time from answers, for the overview and the insight pages."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from fleet.console import charts
from fleet.templatetags.fleet_format import compact, money, words
from telemetry.insight.answers import Errors, InstallLine, Models, Runs, Scope, Tools

WARN_RATE: Final = 0.03
BAD_RATE: Final = 0.06
"""Failure rates of a tool that are coloured; most tools of a healthy fleet stay below 2 %."""
_TONES: Final[tuple[charts.Tone, ...]] = ("1", "2", "3", "4", "5", "6")


def rate_tone(rate: float | None) -> charts.Tone:
    """The colour of a failure rate."""
    if rate is None or rate < WARN_RATE:
        return "1"
    return "bad" if rate >= BAD_RATE else "warn"


def runs_over_time(found: Runs) -> SafeString:
    """Runs and failed runs, and the runs of the window before."""
    runs = [point.runs for point in found.series]
    failed = [point.failed_runs for point in found.series]
    series = [
        _series(found.scope, _("Runs"), runs, "1", "area"),
        _series(found.scope, _("Failed runs"), failed, "bad"),
    ]
    if found.scope.has_earlier and any(found.previous_runs):
        name = _("Runs, window before")
        series.insert(0, _series(found.scope, name, found.previous_runs, "previous", "dashed"))
    return charts.line_chart(_chart(found.scope, "activity", _("Runs and failures"), series))


def cost_over_time(found: Runs) -> SafeString:
    """Known cost; a bucket without a priced run is a gap."""
    values = [point.cost_usd for point in found.series]
    skip = _skip(found.scope)
    series = charts.Series(_("Known cost"), tuple(values[skip:]), "3", "area")
    return charts.line_chart(
        charts.TimeChart(
            "cost",
            _("Known cost, USD"),
            _moments(found.scope),
            (series,),
            show=_axis_usd,
            show_exact=money,
            whole=False,
        )
    )


def tokens_over_time(found: Models) -> SafeString:
    """Tokens, one colour a model."""
    series = [
        _series(found.scope, line.model, line.tokens, _TONES[index % len(_TONES)])
        for index, line in enumerate(found.series)
    ]
    return charts.stacked_bars(_chart(found.scope, "tokens", _("Tokens by model"), series))


def calls_over_time(found: Tools) -> SafeString:
    """Tool calls."""
    series = [_series(found.scope, _("Tool calls"), found.call_series, "1", "area")]
    return charts.line_chart(_chart(found.scope, "calls", _("Tool calls"), series))


def tool_failures_over_time(found: Tools) -> SafeString:
    """Failed tool calls."""
    series = [_series(found.scope, _("Failed tool calls"), found.series, "bad", "area")]
    return charts.line_chart(_chart(found.scope, "failures", _("Failed tool calls"), series))


def errors_over_time(found: Errors) -> SafeString:
    """Errors, one colour a class."""
    series = [
        _series(found.scope, words(line.error_class), line.errors, _TONES[index % len(_TONES)])
        for index, line in enumerate(found.by_class)
    ]
    return charts.stacked_bars(_chart(found.scope, "errors", _("Errors by class"), series))


def failed_runs_over_time(found: Runs) -> SafeString:
    """Runs that failed, timed out or ran out of iterations."""
    failed = [point.failed_runs for point in found.series]
    series = [_series(found.scope, _("Failed runs"), failed, "bad", "area")]
    return charts.line_chart(_chart(found.scope, "failed", _("Failed runs"), series))


def install_over_time(days: Sequence[tuple[datetime, InstallLine]]) -> SafeString:
    """One install's runs a day, and those that failed."""
    # The first day began before the window.
    shown = days[1:]
    series = (
        charts.Series(_("Runs"), tuple(float(line.runs) for _at, line in shown), "1", "area"),
        charts.Series(
            _("Failed runs"), tuple(float(line.failed_runs) for _at, line in shown), "bad"
        ),
    )
    moments = tuple(at for at, _line in shown)
    return charts.line_chart(
        charts.TimeChart("install-activity", _("Runs and failures"), moments, series)
    )


def _axis_usd(value: float | None) -> str:
    """Dollars, short enough for an axis on a phone."""
    return f"${compact(value)}"


def _chart(
    scope: Scope, ident: str, title: str, series: Sequence[charts.Series]
) -> charts.TimeChart:
    return charts.TimeChart(ident, title, _moments(scope), tuple(series))


def _series(
    scope: Scope,
    name: str,
    values: Sequence[int],
    tone: charts.Tone,
    style: charts.Style = "line",
) -> charts.Series:
    return charts.Series(name, tuple(map(float, values[_skip(scope) :])), tone, style)


def _moments(scope: Scope) -> tuple[datetime, ...]:
    return scope.window.buckets()[_skip(scope) :]


def _skip(scope: Scope) -> int:
    """1 when the first day began before the window: a part of a day misleads on a chart."""
    buckets = scope.window.buckets()
    return 1 if buckets[0] != scope.window.start and len(buckets) > 2 else 0
