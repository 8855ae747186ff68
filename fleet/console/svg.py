"""Geometry and small parts shared by the charts: frames, scales, ticks, escaped elements."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

Format = Callable[[float | None], str]

_NICE: Final = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Frame:
    """One drawing surface in viewBox units; ``label_count`` is how many x labels fit."""

    css_class: str
    width: int
    height: int
    left: int
    bottom: int
    label_count: int
    top: int = 10
    right: int = 8

    @property
    def plot_width(self) -> int:
        """Width of the area inside the axes."""
        return self.width - self.left - self.right

    @property
    def plot_height(self) -> int:
        """Height of the area inside the axes."""
        return self.height - self.top - self.bottom


WIDE: Final = Frame("hf-wide", 720, 236, left=50, bottom=26, label_count=9)
NARROW: Final = Frame("hf-narrow", 340, 214, left=44, bottom=26, label_count=4)
"""Shown below 640 px: text keeps its size because the viewBox is as wide as the screen."""
FRAMES: Final = (WIDE, NARROW)


@dataclass(frozen=True, slots=True)
class Scale:
    """The y axis: 0 to ``top`` with its tick values."""

    top: float
    ticks: tuple[float, ...]

    def y(self, value: float, frame: Frame) -> float:
        """The y coordinate of a value."""
        share = min(value / self.top, 1.0) if self.top else 0.0
        return frame.top + frame.plot_height * (1 - share)


def scale_of(values: Iterable[float | None], *, whole: bool = False) -> Scale:
    """A scale from 0 over all values with about four round ticks; ``whole``: no fractions."""
    highest = max((value for value in values if value is not None), default=0.0)
    raw = (highest or 1.0) / 4
    magnitude = 10 ** math.floor(math.log10(raw))
    step = next(nice * magnitude for nice in _NICE if nice * magnitude >= raw * 0.999)
    if whole:
        step = max(1.0, math.ceil(step))
    tick_count = max(1, math.ceil(highest / step - 1e-9))
    ticks = tuple(step * index for index in range(tick_count + 1))
    return Scale(ticks[-1], ticks)


def number(value: float) -> str:
    """A coordinate with at most one decimal."""
    return f"{value:.1f}".removesuffix(".0")


def x_labels(moments: Sequence[datetime], limit: int) -> list[tuple[int, str]]:
    """Index and text of the bucket labels: hours within two days, else days at midnight."""
    if not moments:
        return []
    hourly = (moments[-1] - moments[0]).total_seconds() <= 48 * 3600
    if hourly:
        marks = [i for i, at in enumerate(moments) if at.minute == 0 and at.hour % 3 == 0]
        pattern = "%H:%M"
    else:
        marks = [i for i, at in enumerate(moments) if at.hour == 0 and at.minute == 0]
        pattern = "%-d %b"
    marks = marks or list(range(len(moments)))
    stride = math.ceil(len(marks) / limit)
    return [(index, moments[index].strftime(pattern)) for index in marks[::stride]]


def axes(
    frame: Frame, scale: Scale, show: Format, labels: Sequence[tuple[float, str]]
) -> SafeString:
    """Grid lines with their values and the labels under the plot (x coordinate, text)."""
    right = frame.width - frame.right
    grid = format_html_join(
        "",
        '<line class="hf-grid" x1="{}" x2="{}" y1="{}" y2="{}"/>'
        '<text class="hf-tick" x="{}" y="{}" text-anchor="end">{}</text>',
        (
            (
                frame.left,
                right,
                number(scale.y(tick, frame)),
                number(scale.y(tick, frame)),
                frame.left - 7,
                number(scale.y(tick, frame) + 4),
                show(tick),
            )
            for tick in scale.ticks
        ),
    )
    below = format_html_join(
        "",
        '<text class="hf-tick" x="{}" y="{}" text-anchor="middle">{}</text>',
        (
            (number(min(max(x, frame.left + 12), right - 14)), frame.height - 7, text)
            for x, text in labels
        ),
    )
    return format_html("{}{}", grid, below)


def drawing(frame: Frame, ident: str, title: str, summary: str, body: SafeString) -> SafeString:
    """One accessible ``<svg>``: its title and summary are what a screen reader says."""
    name = f"{ident}-{frame.css_class}"
    return format_html(
        '<svg class="{0}" viewBox="0 0 {1} {2}" role="img" aria-labelledby="{3}-t {3}-d">'
        '<title id="{3}-t">{4}</title><desc id="{3}-d">{5}</desc>{6}</svg>',
        frame.css_class,
        frame.width,
        frame.height,
        name,
        title,
        summary,
        body,
    )


def hover_columns(frame: Frame, texts: Sequence[str]) -> SafeString:
    """Invisible columns, one per bucket, whose native tooltip tells the bucket's values."""
    width = frame.plot_width / max(len(texts), 1)
    return format_html_join(
        "",
        '<rect class="hf-hover" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>',
        (
            (
                number(frame.left + index * width),
                frame.top,
                number(width),
                frame.plot_height,
                text,
            )
            for index, text in enumerate(texts)
        ),
    )


def data_table(
    caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], *, more: str
) -> SafeString:
    """The same numbers as a table behind a disclosure labelled ``more``; column one is text."""
    header = format_html_join("", '<th scope="col">{}</th>', ((cell,) for cell in head))
    body = format_html_join(
        "",
        '<tr><th scope="row">{}</th>{}</tr>',
        (
            (row[0], format_html_join("", "<td>{}</td>", ((cell,) for cell in row[1:])))
            for row in rows
        ),
    )
    return format_html(
        '<details class="hf-data"><summary>{}</summary><div class="hf-scroll" tabindex="0">'
        '<table class="hf-table hf-numbers"><caption>{}</caption>'
        "<thead><tr>{}</tr></thead><tbody>{}</tbody></table></div></details>",
        more,
        caption,
        header,
        body,
    )
