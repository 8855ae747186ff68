"""Numbers and times as people read them, always with their unit.

Every filter takes None for "not known" and says so; none of them turns an
unknown into a zero.
"""

from __future__ import annotations

from datetime import UTC, datetime

from django import template
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from fleet.lib.clock import now

register = template.Library()

UNKNOWN = "–"
"""Stands for a number nobody knows; a zero would be a claim."""
_THOUSANDS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e5, "k"))
_BYTES = ("B", "KiB", "MiB", "GiB", "TiB")
_NARROW = "\u202f"
"""Narrow no-break space between number and unit."""


def _trim(value: float) -> str:
    """At most three significant digits, no trailing zeros."""
    text = f"{value:.1f}" if abs(value) < 100 else f"{value:.0f}"
    return text.removesuffix(".0")


@register.filter
def duration_ms(value: float | None) -> str:
    """850 ms, 2.4 s, 1.5 min, 3.2 h, 4 d."""
    if value is None:
        return UNKNOWN
    for size, unit in ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s")):
        if value >= size:
            return f"{_trim(value / size)}{_NARROW}{unit}"
    return f"{value:.0f}{_NARROW}ms"


@register.filter
def clock_words(skew_ms: float) -> str:
    """As a person says it: clock 2.5 h ahead, clock 4 min behind."""
    took = duration_ms(abs(skew_ms))
    return _("clock %s ahead") % took if skew_ms > 0 else _("clock %s behind") % took


@register.filter
def duration_s(value: float | None) -> str:
    """Like ``duration_ms``, from seconds."""
    return UNKNOWN if value is None else duration_ms(value * 1000)


@register.filter
def count(value: float | None) -> str:
    """1,234 and from a hundred thousand on 120 k, 1.2 M, 3.4 B."""
    if value is None:
        return UNKNOWN
    for size, unit in _THOUSANDS:
        if abs(value) >= size:
            return f"{_trim(value / (1e3 if unit == 'k' else size))}{_NARROW}{unit}"
    return f"{value:,.0f}"


@register.filter
def compact(value: float | None) -> str:
    """Short enough for an axis: 800, 1.5 k, 50 k, 2 M."""
    if value is None:
        return UNKNOWN
    if abs(value) < 1000:
        return _trim(value)
    return f"{_trim(value / 1e3)}{_NARROW}k" if abs(value) < 1e6 else count(value)


@register.filter
def exact(value: float | None) -> str:
    """The whole number with separators, for titles and tables."""
    return UNKNOWN if value is None else f"{value:,.0f}"


@register.filter
def money(value: float | None) -> str:
    """$ 0.0042, $ 12.30, $ 1,204, $ 1.2 M; unknown as a word, never as zero."""
    if value is None:
        return _("unknown")
    if value and abs(value) < 0.01:
        return f"${value:.4f}"
    if abs(value) < 1000:
        return f"${value:.2f}"
    return f"${count(value)}"


@register.filter
def percent(value: float | None) -> str:
    """A share of one as 97.4 %; tiny shares as < 0.1 %."""
    if value is None:
        return UNKNOWN
    if 0 < value < 0.001:
        return f"<{_NARROW}0.1{_NARROW}%"
    if 0.999 < value < 1:
        return f">{_NARROW}99.9{_NARROW}%"
    return f"{_trim(value * 100)}{_NARROW}%"


@register.filter
def byte_size(value: float | None) -> str:
    """512 B, 1.4 MiB."""
    if value is None:
        return UNKNOWN
    size = float(value)
    for unit in _BYTES:
        if size < 1024 or unit == _BYTES[-1]:
            break
        size /= 1024
    return f"{_trim(size)}{_NARROW}{unit}"


@register.filter
def change(value: float | None) -> str:
    """A relative change of a share of one: +8.2 %, −3 %, ±0 %."""
    if value is None:
        return UNKNOWN
    if abs(value) < 0.0005:
        return f"±0{_NARROW}%"
    sign = "+" if value > 0 else "\u2212"
    if abs(value) >= 10:
        return f"{sign}{abs(value) + 1 if value > 0 else abs(value):.0f}×"
    return f"{sign}{_trim(abs(value) * 100)}{_NARROW}%"


@register.filter
def points(value: float | None) -> str:
    """A difference of two shares in percentage points: +0.3 pt."""
    if value is None:
        return UNKNOWN
    if abs(value) < 0.0005:
        return f"±0{_NARROW}pt"
    sign = "+" if value > 0 else "\u2212"
    return f"{sign}{_trim(abs(value) * 100)}{_NARROW}pt"


def moment(value: datetime | None) -> str:
    """2026-11-22 09:31:07 UTC."""
    if value is None:
        return UNKNOWN
    return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def relative(value: datetime, *, at: datetime) -> str:
    """How far ``value`` lies from ``at`` in one unit: 40 s ago, in 3 d, just now."""
    seconds = (at - value).total_seconds()
    distance = abs(seconds)
    if distance < 2:
        return _("just now")
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")):
        if distance >= size:
            text = f"{int(distance // size)}{_NARROW}{unit}"
            return _("%s ago") % text if seconds > 0 else _("in %s") % text
    return _("just now")


@register.filter
def ago(value: datetime | None, never: str = "") -> SafeString:
    """A ``<time>`` with the distance to now; the exact UTC moment is its title."""
    if value is None:
        return format_html('<span class="hf-muted">{}</span>', never or _("never"))
    return format_html(
        '<time datetime="{}" title="{}">{}</time>',
        value.astimezone(UTC).isoformat(timespec="seconds"),
        moment(value),
        relative(value, at=now()),
    )


@register.filter
def utc(value: datetime | None) -> str:
    """The exact moment, in UTC."""
    return moment(value)


@register.filter
def ns_moment(value: int | None) -> str:
    """Nanoseconds since the epoch as an exact UTC moment with milliseconds."""
    if not value:
        return UNKNOWN
    stamp = datetime.fromtimestamp(value // 1_000_000_000, UTC)
    return f"{stamp:%Y-%m-%d %H:%M:%S}.{value // 1_000_000 % 1000:03d} UTC"


@register.filter
def words(value: str | None) -> str:
    """A code as sentence-case words: ``never_seen`` becomes Never seen."""
    text = str(value or "").replace("_", " ")
    return text[:1].upper() + text[1:]


@register.filter
def short_id(value: object) -> str:
    """The first eight characters of an id; put the full one into a title."""
    return str(value)[:8]


@register.simple_tag
def span_ms(start_ns: int | None, end_ns: int | None) -> str:
    """The duration between two moments in nanoseconds; unknown while the end is open."""
    if not start_ns or not end_ns:
        return UNKNOWN
    return duration_ms(max(end_ns - start_ns, 0) / 1e6)
