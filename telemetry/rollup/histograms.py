"""Histogram cells: parts of a fold merged into them, days made of their hours.

Merged here and not in SQL: only the cells a fold touches are read and written, a few hundred, and
adding JSON objects bucket by bucket costs the database more than it costs us.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final

from django.db import connection

from telemetry.models import ALL_GROUPS, HistogramCell
from telemetry.rollup.engine import DAY, ZERO_BUCKET, Param, day_of, hour_of, is_postgres, moment
from telemetry.rollup.histogram import ZERO_KEY
from telemetry.rollup.statements import BOTH, Levels, Part

TABLE: Final = HistogramCell._meta.db_table
KEYS: Final = ("unit", "at", "group_id", "kind", "name", "detail")
_TYPES: Final = ("text", "timestamptz", "bigint", "text", "text", "text")

type Key = tuple[str, datetime, int, str, str, str]
"""unit, at, group_id, kind, name, detail."""
type Counts = dict[str, int]


def deltas_of(parts: Iterable[Part], levels: Levels = BOTH) -> dict[Key, Counts]:
    """What each histogram cell gets, at every level. Counts may be negative."""
    lists: dict[tuple[int, int, str, str, str, int], list[str]] = defaultdict(list)
    for part in parts:
        place = (part.hour_no, part.group_id, part.kind.value, part.name, part.detail, part.sign)
        lists[place].append(part.buckets)
    deltas: dict[Key, Counts] = defaultdict(dict)
    for (hour_no, group_id, kind, name, detail, sign), texts in lists.items():
        # One pass in C over all values, then loops over some dozen buckets only.
        counts: dict[str, int] = Counter(",".join(texts).split(","))
        if ZERO_BUCKET in counts:
            counts[ZERO_KEY] = counts.pop(ZERO_BUCKET)
        hour = hour_of(hour_no)
        for unit in levels.units_of(hour_no):
            at = hour if unit == "h" else day_of(hour)
            for level in (group_id, ALL_GROUPS):
                _add(deltas[(unit, at, level, kind, name, detail)], counts, sign)
    return deltas


def _add(total: Counts, more: Mapping[str, int], sign: int = 1) -> None:
    held = total.get
    for name, count in more.items():
        total[name] = held(name, 0) + sign * count


def add_to_histograms(deltas: Mapping[Key, Mapping[str, int]]) -> None:
    """Merge into the stored cells; empty buckets and empty cells go."""
    if not deltas:
        return
    held = _read(list(deltas))
    changed: list[tuple[int, str]] = []
    emptied: list[int] = []
    new: list[tuple[Key, Counts]] = []
    for key, delta in deltas.items():
        cell_id, counts = held.get(key, (None, {}))
        _add(counts, delta)
        merged = {name: count for name, count in counts.items() if count}
        if cell_id is None:
            if merged:
                new.append((key, merged))
        elif merged:
            changed.append((cell_id, json.dumps(merged, separators=(",", ":"))))
        else:
            emptied.append(cell_id)
    _update(changed)
    insert_histograms(new)
    HistogramCell.objects.filter(id__in=emptied).delete()


def insert_histograms(cells: Iterable[tuple[Key, Mapping[str, int]]]) -> None:
    """Store cells that are not there yet."""
    HistogramCell.objects.bulk_create(
        (
            HistogramCell(**dict(zip(KEYS, key, strict=True)), counts=dict(counts))
            for key, counts in cells
        ),
        batch_size=1000,
    )


def _read(keys: list[Key]) -> dict[Key, tuple[int, Counts]]:
    if is_postgres():
        arrays = ", ".join(f"%s::{kind}[]" for kind in _TYPES)
        wanted = f"UNNEST({arrays}) WITH ORDINALITY AS k({', '.join(KEYS)}, place)"
        params: list[Param] = [[key[at] for key in keys] for at in range(len(KEYS))]
        first = 1
    else:
        picked = ", ".join(
            f"JSON_EXTRACT(value, '$[{at}]') AS {name}" for at, name in enumerate(KEYS)
        )
        wanted = f"(SELECT {picked}, key AS place FROM JSON_EACH(%s)) k"  # noqa: S608 -- names of this module
        params = [json.dumps([[key[0], str(moment(key[1])), *key[2:]] for key in keys])]
        first = 0
    on = " AND ".join(f"c.{name} = k.{name}" for name in KEYS)
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT k.place, c.id, c.counts FROM {wanted} JOIN {TABLE} c ON {on}",  # noqa: S608 -- names of this module
            params,
        )
        return {
            keys[int(place) - first]: (cell_id, json.loads(text))
            for place, cell_id, text in cursor.fetchall()
        }


def _update(changed: list[tuple[int, str]]) -> None:
    if not changed:
        return
    with connection.cursor() as cursor:
        if is_postgres():
            cursor.execute(
                f"UPDATE {TABLE} c SET counts = u.counts "  # noqa: S608 -- names of this module
                "FROM UNNEST(%s::bigint[], %s::text[]) AS u(id, counts) WHERE c.id = u.id",
                [[cell_id for cell_id, _ in changed], [text for _, text in changed]],
            )
        else:
            cursor.executemany(
                f"UPDATE {TABLE} SET counts = %s WHERE id = %s",  # noqa: S608 -- names of this module
                [(text, cell_id) for cell_id, text in changed],
            )


def sum_day(day: datetime) -> None:
    """Make the day's histograms anew, as the sum of those of its hours."""
    cells: dict[Key, Counts] = defaultdict(dict)
    hours = HistogramCell.objects.filter(unit="h", at__gte=day, at__lt=day + DAY)
    for group_id, kind, name, detail, counts in hours.values_list(
        "group_id", "kind", "name", "detail", "counts"
    ).iterator():
        _add(cells[("d", day, group_id, kind, name, detail)], counts)
    HistogramCell.objects.filter(unit="d", at=day).delete()
    whole = ((key, {name: n for name, n in counts.items() if n}) for key, counts in cells.items())
    insert_histograms((key, counts) for key, counts in whole if counts)
