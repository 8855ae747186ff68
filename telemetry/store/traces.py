"""The runs of OTLP traces in the database: what is known of each, and the rows that stand for them.

Everything here runs inside ``install_transaction``: nobody else writes rows of the install.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from django.db import connection
from django.db.models import Count

from agent_client.contract.tables import BY_NAME, RUNS
from fleet.lib.clock import ns_to_datetime
from telemetry.models import OtlpTrace, ReplacedRun, Run
from telemetry.models.events import MODEL_OF
from telemetry.store.copy import Row, Stamp, copy_rows

TRACE_LIFE: Final = timedelta(days=7)
"""How long after its last span a trace is remembered; as far as a run's page looks for its rows."""
_KEPT: Final = tuple(
    str(field.column)
    for field in ReplacedRun._meta.concrete_fields
    if field.name not in {"id", "replaced_by"}
)


@dataclass(frozen=True, slots=True)
class KnownTrace:
    """A trace as it was stored last; ``said`` and ``counts`` as JSON holds them."""

    start_ns: int
    seq: int
    said: Mapping[str, object]
    counts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class NewTrace:
    """A trace as it is to be stored, with the row of its run."""

    run_id: str
    start_ns: int
    seq: int
    said: Mapping[str, object]
    counts: Mapping[str, int]
    row: Row


def known_traces(install_id: UUID, run_ids: Iterable[str]) -> dict[str, KnownTrace]:
    """What is known of these traces, by run id."""
    found = OtlpTrace.objects.filter(install_id=install_id, run_id__in=list(run_ids))
    return {
        run_id: KnownTrace(start_ns, seq, said, counts)
        for run_id, start_ns, seq, said, counts in found.values_list(
            "run_id", "start_ns", "seq", "said", "counts"
        )
    }


def inserted_by(
    stamp: Stamp, tables: Iterable[str], first_ns: int, last_ns: int
) -> dict[str, dict[str, int]]:
    """How many rows of each run this batch really inserted, by table: exact after duplicates."""
    window = (ns_to_datetime(first_ns), ns_to_datetime(last_ns) + timedelta(microseconds=1))
    found: dict[str, dict[str, int]] = {}
    for name in tables:
        rows = MODEL_OF[BY_NAME[name].name].objects.filter(
            install_id=stamp.install_id, start_at__range=window, batch_id=stamp.batch_id
        )
        for run_id, count in rows.values_list("run_id").annotate(count=Count("*")).order_by():
            found.setdefault(str(run_id), {})[name] = int(count)
    return found


def store_traces(stamp: Stamp, new: Sequence[NewTrace], replaced: Mapping[str, int]) -> None:
    """Store traces and the rows of their runs.

    ``replaced``: for those that had a row, when it began (ns). Steps: 1. the replaced rows are
    kept for the rollups and deleted, 2. the new ones are copied, 3. what is known is written down.
    A row is deleted, not updated, because a run whose root came late begins earlier, and its
    begin is part of its key.
    """
    if replaced:
        _retract(stamp, [(ns_to_datetime(at_ns), run_id) for run_id, at_ns in replaced.items()])
    copy_rows(RUNS, [trace.row for trace in new], stamp)
    _keep(stamp, new)


def _keep(stamp: Stamp, new: Sequence[NewTrace]) -> None:
    """One statement with an array a column: the ORM takes ten times as long to write it."""
    table = connection.ops.quote_name(OtlpTrace._meta.db_table)
    columns = "install_id, run_id, start_ns, seq, said, counts, updated_at"
    update = (
        "ON CONFLICT (install_id, run_id) DO UPDATE SET start_ns = excluded.start_ns, "
        "seq = excluded.seq, said = excluded.said, counts = excluded.counts, "
        "updated_at = excluded.updated_at"
    )
    rows = [
        (trace.run_id, trace.start_ns, trace.seq, json.dumps(trace.said), json.dumps(trace.counts))
        for trace in new
    ]
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(
                f"INSERT INTO {table} ({columns}) SELECT %s, t.*, %s FROM unnest("  # noqa: S608 -- names of our own models
                "%s::text[], %s::bigint[], %s::bigint[], %s::jsonb[], %s::jsonb[]) t " + update,
                [stamp.install_id, stamp.received_at, *map(list, zip(*rows, strict=True))],
            )
            return
        moment = connection.ops.adapt_datetimefield_value(stamp.received_at)
        cursor.executemany(
            f"INSERT INTO {table} ({columns}) VALUES (%s, %s, %s, %s, %s, %s, %s) " + update,  # noqa: S608 -- names of our own models
            [(stamp.install_id.hex, *row, moment) for row in rows],
        )


def forget_traces(moment: datetime) -> int:
    """Forget traces of which nothing came for TRACE_LIFE; their runs stay as they are."""
    return OtlpTrace.objects.filter(updated_at__lt=moment - TRACE_LIFE).delete()[0]


def _retract(stamp: Stamp, keys: Sequence[tuple[datetime, str]]) -> None:
    quote = connection.ops.quote_name
    run, replaced = quote(Run.table_name()), quote(ReplacedRun._meta.db_table)
    columns = ", ".join(map(quote, _KEPT))
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(
                f"WITH gone AS (DELETE FROM {run} WHERE install_id = %s AND start_at = ANY(%s) "  # noqa: S608 -- names of our own models
                f"AND run_id = ANY(%s) RETURNING {columns}) "
                f"INSERT INTO {replaced} ({columns}, replaced_by) SELECT {columns}, %s FROM gone",
                [
                    stamp.install_id,
                    [start_at for start_at, _ in keys],
                    [run_id for _, run_id in keys],
                    stamp.batch_id,
                ],
            )
            return
        adapt = connection.ops.adapt_datetimefield_value
        places = [(stamp.install_id.hex, adapt(start_at), run_id) for start_at, run_id in keys]
        mine = f"FROM {run} WHERE install_id = %s AND start_at = %s AND run_id = %s"
        cursor.executemany(
            f"INSERT INTO {replaced} ({columns}, replaced_by) SELECT {columns}, %s {mine}",
            [(stamp.batch_id.hex, *place) for place in places],
        )
        cursor.executemany(f"DELETE {mine}", places)
