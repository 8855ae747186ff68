"""The heat map: when the fleet works, weekday by hour of day."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from fleet.console.svg import Frame, data_table, drawing, number
from fleet.templatetags.fleet_format import exact

WEEKDAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
HEAT_STEPS: Final = 6
"""Shades of a heat map; more than six are not told apart by eye."""


def heat_map(ident: str, title: str, cells: Sequence[Sequence[float]], unit: str) -> SafeString:
    """Weekday by hour of day (UTC): 7 rows from Monday, 24 columns."""
    highest = max((value for row in cells for value in row), default=0) or 1
    drawings = format_html_join(
        "",
        "{}",
        (
            (
                drawing(
                    frame,
                    ident,
                    title,
                    _busiest(cells, unit),
                    _heat_body(frame, cells, highest, unit),
                ),
            )
            for frame in (_HEAT_WIDE, _HEAT_NARROW)
        ),
    )
    rows = ((WEEKDAYS[day], *(exact(value) for value in row)) for day, row in enumerate(cells))
    head = (_("Day"), *(f"{hour:02d}" for hour in range(24)))
    table = data_table(title, head, rows, more=_("Show as table"))
    return format_html('<figure class="hf-chart">{}{}</figure>', drawings, table)


_HEAT_WIDE: Final = Frame("hf-wide", 720, 236, left=38, bottom=26, label_count=8, top=4)
_HEAT_NARROW: Final = Frame("hf-narrow", 340, 150, left=34, bottom=24, label_count=4, top=4)


def _busiest(cells: Sequence[Sequence[float]], unit: str) -> str:
    value, day, hour = max(
        ((value, -d, -h) for d, row in enumerate(cells) for h, value in enumerate(row)),
        default=(0, 0, 0),
    )
    return _("Most on %(day)s at %(hour)02d:00 UTC: %(value)s %(unit)s.") % {
        "day": WEEKDAYS[-day],
        "hour": -hour,
        "value": exact(value),
        "unit": unit,
    }


def _heat_body(
    frame: Frame, cells: Sequence[Sequence[float]], highest: float, unit: str
) -> SafeString:
    width, height = frame.plot_width / 24, frame.plot_height / 7
    gap = 2 if frame is _HEAT_WIDE else 1.2
    squares = format_html_join(
        "",
        '<rect class="hf-heat hf-h{}" x="{}" y="{}" width="{}" height="{}" rx="2">'
        "<title>{} {}:00 UTC: {} {}</title></rect>",
        (
            (
                _shade(value, highest),
                number(frame.left + hour * width),
                number(frame.top + day * height),
                number(width - gap),
                number(height - gap),
                WEEKDAYS[day],
                f"{hour:02d}",
                exact(value),
                unit,
            )
            for day, row in enumerate(cells)
            for hour, value in enumerate(row)
        ),
    )
    days = format_html_join(
        "",
        '<text class="hf-tick" x="{}" y="{}" text-anchor="end">{}</text>',
        (
            (frame.left - 8, number(frame.top + (day + 0.5) * height + 3), name)
            for day, name in enumerate(WEEKDAYS)
        ),
    )
    stride = 24 // frame.label_count
    hours = format_html_join(
        "",
        '<text class="hf-tick" x="{}" y="{}" text-anchor="middle">{}</text>',
        (
            (number(frame.left + (hour + 0.5) * width), frame.height - 8, f"{hour:02d}")
            for hour in range(0, 24, stride)
        ),
    )
    return format_html("{}{}{}", squares, days, hours)


def _shade(value: float, highest: float) -> int:
    """0 for nothing, else 1 to HEAT_STEPS."""
    if value <= 0:
        return 0
    return min(HEAT_STEPS, 1 + int(value / highest * HEAT_STEPS * 0.999))
