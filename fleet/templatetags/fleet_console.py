"""Tags of the console's own pages: labels, meters, changes against the previous window."""

from __future__ import annotations

from django import template
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from fleet.console import charts, labels
from fleet.templatetags.fleet_format import change, percent, points, span_ms

register = template.Library()

register.filter("state_label", labels.state_label)
register.simple_tag(span_ms)


@register.simple_tag
def label(text: str, tone: str = "quiet", title: str = "") -> SafeString:
    """A coloured label."""
    return labels.label(text, tone, title)


@register.simple_tag
def meter(share: float | None, title: str = "", tone: charts.Tone = "1") -> SafeString:
    """A bar for a share of one."""
    return charts.meter(share, title or percent(share), tone)


@register.simple_tag
def interval(low: float, value: float, high: float, title: str) -> SafeString:
    """A share of one with the range it may lie in."""
    return charts.interval(low, value, high, title)


@register.simple_tag
def change_of(
    value: float | None, good: str = "up", unit: str = "relative", previous: str = ""
) -> SafeString:
    """A change with its direction judged: ``good`` is up, down or none (no judgement)."""
    if value is None:
        return format_html('<span class="hf-change hf-change-flat">{}</span>', _("no earlier data"))
    if abs(value) < 0.0005 or good == "none":
        tone = "flat"
    else:
        tone = "good" if (value > 0) == (good == "up") else "bad"
    text = points(value) if unit == "points" else change(value)
    return format_html(
        '<span class="hf-change hf-change-{}" title="{}">{}</span>',
        tone,
        _("Before: %s") % previous if previous else _("Against the window before"),
        text,
    )
