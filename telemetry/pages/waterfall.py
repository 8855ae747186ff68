"""The waterfall of a run: spans as a tree, each with its bar or mark in the run's time. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from fleet.console.charts import Tone, span_bar, span_mark
from fleet.templatetags.fleet_format import duration_ms

MAX_SPANS: Final = 400
"""Rows of one page; a run with more says so and shows the first ones."""
MAX_INDENT: Final = 4
"""Deeper nesting is drawn at this depth: a phone has no room for more."""


@dataclass(frozen=True, slots=True)
class Span:
    """One thing of a run: times in nanoseconds, ``end_ns`` None when it has none.

    ``is_mark``: it has a moment and no length. ``child_run_id``: the run that it stands for.
    """

    kind: str
    name: str
    detail: str
    start_ns: int
    end_ns: int | None
    outcome: str
    tone: Tone
    span_id: str = ""
    parent_id: str = ""
    is_mark: bool = False
    child_run_id: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A span with its bar; ``depth`` from 0 to MAX_INDENT."""

    span: Span
    bar: SafeString
    depth: int
    offset_ms: float
    duration: str


@dataclass(frozen=True, slots=True)
class Waterfall:
    """The rows, children below their parents, and what the time axis spans."""

    rows: tuple[Row, ...]
    total_ms: float
    is_cut: bool


def waterfall_of(start_ns: int, end_ns: int | None, spans: Sequence[Span]) -> Waterfall:
    """The spans of a run that lasted from ``start_ns`` to ``end_ns``; any order, any nesting."""
    spans = sorted(spans, key=lambda span: (span.start_ns, not span.is_mark))
    shown = spans[:MAX_SPANS]
    begin = min([start_ns, *(span.start_ns for span in shown)])
    end = max([end_ns or 0, begin + 1, *(span.end_ns or span.start_ns for span in shown)])
    rows = tuple(_row(span, depth, begin, end - begin) for depth, span in in_tree(shown))
    return Waterfall(rows, (end - begin) / 1e6, len(spans) > MAX_SPANS)


def in_tree(spans: Sequence[Span]) -> list[tuple[int, Span]]:
    """Each span once with its depth, below its parent where that is among them.

    What agents say is not trusted: a parent that is missing, stands twice or lies on a circle
    costs a span its place in the tree and never its row.
    """
    ids = {span.span_id for span in spans if span.span_id}
    children: dict[str, list[int]] = {}
    tops: list[int] = []
    for at, span in enumerate(spans):
        is_inside = span.parent_id in ids and span.parent_id != span.span_id
        (children.setdefault(span.parent_id, []) if is_inside else tops).append(at)
    ordered: list[tuple[int, Span]] = []
    placed: set[int] = set()
    for top in [*tops, *range(len(spans))]:  # the second part finds only what circles hide
        waiting = [(0, top)]
        while waiting:
            depth, at = waiting.pop()
            if at in placed:
                continue
            placed.add(at)
            ordered.append((min(depth, MAX_INDENT), spans[at]))
            below = children.pop(spans[at].span_id, [])
            waiting.extend((depth + 1, child) for child in reversed(below))
    return ordered


def _row(span: Span, depth: int, begin_ns: int, length_ns: int) -> Row:
    offset_ms = (span.start_ns - begin_ns) / 1e6
    place = (span.start_ns - begin_ns) / length_ns
    if span.is_mark:
        title = _("%(name)s: after %(offset)s") % {
            "name": span.name,
            "offset": duration_ms(offset_ms),
        }
        return Row(span, span_mark(place, title, span.tone), depth, offset_ms, "–")
    took_ms = None if span.end_ns is None else max(span.end_ns - span.start_ns, 0) / 1e6
    title = _("%(name)s: begins after %(offset)s, takes %(time)s") % {
        "name": span.name,
        "offset": duration_ms(offset_ms),
        "time": duration_ms(took_ms),
    }
    share = 0.0 if took_ms is None else took_ms * 1e6 / length_ns
    bar = span_bar(place, share, title, span.tone)
    return Row(span, bar, depth, offset_ms, duration_ms(took_ms))
