"""Tables of the insight pages: one description, shown as HTML and downloaded as CSV.

A cell holds its plain value for the file and its text for the page. Names in it come from agents:
the page escapes them, the file keeps a spreadsheet from taking them for formulas.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.http import HttpResponse
from django.utils.translation import gettext as _

from fleet.console.charts import Tone
from fleet.templatetags.fleet_format import change, count, duration_ms, exact, money, percent
from telemetry.exports.spreadsheet import inert
from telemetry.insight.answers import Cost, Percentiles
from telemetry.insight.intervals import Rate

type Value = str | int | float | datetime | UUID | None


@dataclass(frozen=True, slots=True)
class Cell:
    """``value`` goes into the file, ``text`` onto the page with ``title`` as its tooltip.

    ``share``: a bar of this share of one in ``tone``; ``low`` and ``high``: a range to draw.
    """

    value: Value
    text: str
    title: str = ""
    href: str = ""
    share: float | None = None
    tone: Tone = "1"
    low: float | None = None
    high: float | None = None
    is_name: bool = False


@dataclass(frozen=True, slots=True)
class Column:
    """``field`` names it in the file, with its unit; ``is_optional``: left out on a phone."""

    field: str
    title: str
    is_number: bool = True
    is_optional: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """``ident`` is what ``?csv=`` asks for; ``more``: rows there are beside those shown."""

    ident: str
    title: str
    note: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    empty: str
    more: int = 0

    @property
    def lines(self) -> list[list[tuple[Column, Cell]]]:
        """Each row with its columns, for the template."""
        return [list(zip(self.columns, row, strict=True)) for row in self.rows]


def name(text: str, *, href: str = "", title: str = "") -> Cell:
    """A name that an agent sent, or one of ours."""
    return Cell(text, text, title or text, href, is_name=True)


def number(value: int, previous: int | None = None) -> Cell:
    """A count; ``previous`` is that of the window before."""
    title = exact(value)
    if previous is not None:
        title = _("%(now)s, before %(then)s") % {"now": exact(value), "then": exact(previous)}
    return Cell(value, count(value), title)


def changed(value: int, previous: int | None) -> Cell:
    """How a count has changed; None before: the window before is not whole."""
    relative = (value - previous) / previous if previous else None
    return Cell(relative, "–" if relative is None else change(relative))


def share(value: float | None, title: str = "") -> Cell:
    """A share of one."""
    return Cell(value, percent(value), title)


def rate(found: Rate, tone: Tone | None = None) -> Cell:
    """A rate with the bounds of its confidence in the title; ``tone``: with a bar."""
    title = ""
    if found.total:
        title = _("%(count)s of %(total)s; 95 %% sure between %(low)s and %(high)s") % {
            "count": exact(found.count),
            "total": exact(found.total),
            "low": percent(found.low),
            "high": percent(found.high),
        }
    bar = None if tone is None else found.value
    return Cell(found.value, percent(found.value), title, share=bar, tone=tone or "1")


def interval(found: Rate) -> Cell:
    """The confidence interval of a rate, drawn."""
    if not found.total:
        return Cell(None, "–")
    text = f"{percent(found.low)} – {percent(found.high)}"
    return Cell(text, text, low=found.low, high=found.high, share=found.value)


def milliseconds(value: float | None, title: str = "") -> Cell:
    """A duration."""
    return Cell(None if value is None else round(value, 1), duration_ms(value), title)


def ranks(found: Percentiles | None) -> tuple[Cell, Cell, Cell]:
    """p50, p95 and p99."""
    if found is None:
        return (milliseconds(None), milliseconds(None), milliseconds(None))
    title = _("known for %s") % percent(found.coverage)
    return (
        milliseconds(found.p50_ms, title),
        milliseconds(found.p95_ms, title),
        milliseconds(found.p99_ms, title),
    )


def usd(value: float | None, title: str = "") -> Cell:
    """Dollars; unknown is a word on the page and nothing in the file, never zero."""
    return Cell(None if value is None else round(value, 6), money(value), title)


def cost(found: Cost) -> tuple[Cell, Cell]:
    """A cost and its coverage."""
    title = _("known for %(part)s of %(all)s") % {
        "part": exact(found.priced_count),
        "all": exact(found.count),
    }
    return usd(found.usd, title), share(found.coverage, title)


def moment(value: datetime, text: str) -> Cell:
    """A time; ``text`` is how it is shown."""
    return Cell(value, text, f"{value:%Y-%m-%d %H:%M} UTC")


def csv_response(table: Table, stem: str) -> HttpResponse:
    """The table as a CSV file (RFC 4180, UTF-8)."""
    response = HttpResponse(csv_text(table), content_type="text/csv; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="{stem}-{table.ident}.csv"'
    return response


def csv_text(table: Table) -> str:
    """The table's fields and values; nothing in a cell means that it is not known."""
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow([column.field for column in table.columns])
    for row in table.rows:
        writer.writerow([_plain(cell.value) for cell in row])
    return out.getvalue()


def _plain(value: Value) -> str | int | float:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    if isinstance(value, int | float):
        return value
    return inert(str(value))


def columns(*specs: Column | Sequence[Column]) -> tuple[Column, ...]:
    """Columns from single ones and groups of them."""
    flat: list[Column] = []
    for spec in specs:
        flat.extend([spec] if isinstance(spec, Column) else spec)
    return tuple(flat)
