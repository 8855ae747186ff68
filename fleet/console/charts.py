"""Charts as server-side SVG: no script, colours by CSS variables, a table beside each.

Every time chart is drawn twice, for a wide and for a narrow screen; the style
sheet shows one of them, so text is readable on a phone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from fleet.console.svg import (
    FRAMES,
    Format,
    Frame,
    Scale,
    axes,
    data_table,
    drawing,
    hover_columns,
    number,
    scale_of,
    x_labels,
)
from fleet.templatetags.fleet_format import compact, exact

Tone = Literal["1", "2", "3", "4", "5", "6", "good", "warn", "bad", "previous"]
Style = Literal["area", "line", "dashed"]

SPARK_WIDTH: Final = 120
SPARK_HEIGHT: Final = 30


@dataclass(frozen=True, slots=True)
class Series:
    """One line or bar layer; None is a bucket without data. ``style`` matters to lines only."""

    name: str
    values: tuple[float | None, ...]
    tone: Tone = "1"
    style: Style = "line"


@dataclass(frozen=True, slots=True)
class TimeChart:
    """What a chart over time shows: bucket starts (UTC), series of the same length, formats."""

    ident: str
    title: str
    moments: tuple[datetime, ...]
    series: tuple[Series, ...]
    show: Format = compact
    show_exact: Format = exact
    whole: bool = True


_Body = Callable[[TimeChart, Frame, Scale], SafeString]


def line_chart(chart: TimeChart) -> SafeString:
    """Lines and areas over time with legend and table."""
    scale = scale_of(
        (value for series in chart.series for value in series.values), whole=chart.whole
    )
    return _figure(chart, scale, _line_body)


def stacked_bars(chart: TimeChart) -> SafeString:
    """One bar a bucket, the series stacked from the first upwards, with legend and table."""
    totals = [
        sum(series.values[index] or 0 for series in chart.series)
        for index in range(len(chart.moments))
    ]
    return _figure(chart, scale_of(totals, whole=chart.whole), _bar_body)


def _figure(chart: TimeChart, scale: Scale, body: _Body) -> SafeString:
    drawings = format_html_join(
        "",
        "{}",
        (
            (
                drawing(
                    frame,
                    chart.ident,
                    chart.title,
                    _summary(chart),
                    format_html(
                        "{}{}{}",
                        axes(frame, scale, chart.show, _label_places(chart, frame)),
                        body(chart, frame, scale),
                        hover_columns(frame, _bucket_texts(chart)),
                    ),
                ),
            )
            for frame in FRAMES
        ),
    )
    return format_html(
        '<figure class="hf-chart">{}{}{}</figure>', drawings, legend(chart.series), _table(chart)
    )


def _label_places(chart: TimeChart, frame: Frame) -> list[tuple[float, str]]:
    width = frame.plot_width / max(len(chart.moments), 1)
    return [
        (frame.left + (index + 0.5) * width, text)
        for index, text in x_labels(chart.moments, frame.label_count)
    ]


def _summary(chart: TimeChart) -> str:
    totals = (
        f"{series.name}: {chart.show(sum(value or 0 for value in series.values))}"
        for series in chart.series
    )
    return _("Sum over the window. ") + "; ".join(totals)


def _bucket_texts(chart: TimeChart) -> list[str]:
    return [
        "\n".join(
            (
                f"{at:%a %-d %b %H:%M} UTC",
                *(f"{s.name}: {chart.show_exact(s.values[index])}" for s in chart.series),
            )
        )
        for index, at in enumerate(chart.moments)
    ]


def _line_body(chart: TimeChart, frame: Frame, scale: Scale) -> SafeString:
    width = frame.plot_width / max(len(chart.moments), 1)
    parts = []
    for series in chart.series:
        for run in _runs_of_known(series.values):
            places = [
                (frame.left + (index + 0.5) * width, scale.y(value, frame)) for index, value in run
            ]
            parts.append(_line_part(series, places, frame))
    return format_html_join("", "{}", ((part,) for part in parts))


def _line_part(series: Series, places: Sequence[tuple[float, float]], frame: Frame) -> SafeString:
    points = " ".join(f"{number(x)},{number(y)}" for x, y in places)
    if len(places) == 1:
        x, y = places[0]
        return format_html(
            '<circle class="hf-dot hf-t{}" cx="{}" cy="{}" r="2.5"/>',
            series.tone,
            number(x),
            number(y),
        )
    line = format_html(
        '<polyline class="hf-line hf-t{}{}" points="{}"/>',
        series.tone,
        " hf-dashed" if series.style == "dashed" else "",
        points,
    )
    if series.style != "area":
        return line
    base = number(frame.top + frame.plot_height)
    area = format_html(
        '<polygon class="hf-area hf-t{}" points="{},{} {} {},{}"/>',
        series.tone,
        number(places[0][0]),
        base,
        points,
        number(places[-1][0]),
        base,
    )
    return format_html("{}{}", area, line)


def _runs_of_known(values: Sequence[float | None]) -> list[list[tuple[int, float]]]:
    """Stretches without a gap: an unknown bucket breaks the line instead of drawing a zero."""
    stretches: list[list[tuple[int, float]]] = []
    previous: int | None = None
    for index, value in enumerate(values):
        if value is None:
            continue
        if previous is None or index != previous + 1:
            stretches.append([])
        stretches[-1].append((index, value))
        previous = index
    return stretches


def _bar_body(chart: TimeChart, frame: Frame, scale: Scale) -> SafeString:
    width = frame.plot_width / max(len(chart.moments), 1)
    bar = width * 0.74
    rows = []
    for index in range(len(chart.moments)):
        below = 0.0
        for series in chart.series:
            value = series.values[index] or 0
            if value <= 0:
                continue
            bottom, top = scale.y(below, frame), scale.y(below + value, frame)
            below += value
            rows.append(
                (
                    series.tone,
                    number(frame.left + index * width + (width - bar) / 2),
                    number(top),
                    number(bar),
                    number(max(bottom - top - 0.6, 0.4)),
                )
            )
    return format_html_join(
        "", '<rect class="hf-bar hf-t{}" x="{}" y="{}" width="{}" height="{}" rx="1"/>', rows
    )


def legend(series: Sequence[Series]) -> SafeString:
    """Names beside their colours; nothing for a single series."""
    if len(series) < 2:
        return SafeString("")
    entries = format_html_join(
        "",
        '<li><span class="hf-key hf-t{}{}"></span><bdi>{}</bdi></li>',
        ((s.tone, " hf-dashed" if s.style == "dashed" else "", s.name) for s in series),
    )
    return format_html('<ul class="hf-legend">{}</ul>', entries)


def _table(chart: TimeChart) -> SafeString:
    rows = (
        (
            f"{at:%Y-%m-%d %H:%M}",
            *(chart.show_exact(series.values[index]) for series in chart.series),
        )
        for index, at in reversed(list(enumerate(chart.moments)))
    )
    head = (_("From (UTC)"), *(series.name for series in chart.series))
    return data_table(chart.title, head, rows, more=_("Show as table"))


def sparkline(values: Sequence[float | None], title: str, tone: Tone = "1") -> SafeString:
    """A small trend beside a number; its title is its text alternative."""
    known = [value or 0 for value in values]
    highest = max(known, default=0) or 1
    step = SPARK_WIDTH / max(len(known) - 1, 1)
    points = " ".join(
        f"{number(i * step)},{number(SPARK_HEIGHT - 2 - value / highest * (SPARK_HEIGHT - 5))}"
        for i, value in enumerate(known)
    )
    return format_html(
        '<svg class="hf-spark" viewBox="0 0 {0} {1}" preserveAspectRatio="none" role="img">'
        '<title>{2}</title><polygon class="hf-area hf-t{3}" points="0,{1} {4} {0},{1}"/>'
        '<polyline class="hf-line hf-t{3}" points="{4}"/></svg>',
        SPARK_WIDTH,
        SPARK_HEIGHT,
        title,
        tone,
        points,
    )


def meter(share: float | None, title: str, tone: Tone = "1") -> SafeString:
    """A horizontal bar for a share of one on a quiet track."""
    width = 100 * min(max(share or 0.0, 0.0), 1.0)
    return format_html(
        '<svg class="hf-meter" viewBox="0 0 100 6" preserveAspectRatio="none" role="img">'
        '<title>{}</title><rect class="hf-track" width="100" height="6"/>'
        '<rect class="hf-bar hf-t{}" width="{}" height="6"/></svg>',
        title,
        tone,
        number(max(width, 1.0) if width else 0.0),
    )


def interval(low: float, value: float, high: float, title: str) -> SafeString:
    """A share of one with the range it may lie in: a stretch on a track, and a mark."""
    left, right, at = (100 * min(max(share, 0.0), 1.0) for share in (low, high, value))
    return format_html(
        '<svg class="hf-interval" viewBox="0 0 100 8" preserveAspectRatio="none" role="img">'
        '<title>{}</title><rect class="hf-track" y="3" width="100" height="2"/>'
        '<rect class="hf-area-bar hf-t1" x="{}" y="1" width="{}" height="6"/>'
        '<path class="hf-tick-mark hf-t1" d="M{} 0v8"/></svg>',
        title,
        number(left),
        number(max(right - left, 0.8)),
        number(at),
    )


def span_bar(start: float, length: float, title: str, tone: Tone) -> SafeString:
    """One row of a waterfall: where a span lies within its run, as shares of one."""
    left = 1000 * min(max(start, 0.0), 0.997)
    width = max(1000 * min(length, 1.0 - left / 1000), 3.0)
    return format_html(
        '<svg class="hf-span" viewBox="0 0 1000 10" preserveAspectRatio="none" role="img">'
        '<title>{}</title><rect class="hf-track" width="1000" height="10"/>'
        '<rect class="hf-bar hf-t{}" x="{}" width="{}" height="10"/></svg>',
        title,
        tone,
        number(left),
        number(width),
    )


def span_mark(at: float, title: str, tone: Tone) -> SafeString:
    """One row of a waterfall for something without a length: a dot at a share of one.

    A round cap of a stroke that does not scale stays round however wide the drawing gets.
    """
    return format_html(
        '<svg class="hf-span" viewBox="0 0 1000 10" preserveAspectRatio="none" role="img">'
        '<title>{}</title><rect class="hf-track" y="4.5" width="1000" height="1"/>'
        '<path class="hf-mark hf-t{}" d="M{} 5h.01"/></svg>',
        title,
        tone,
        number(1000 * min(max(at, 0.0), 1.0)),
    )
