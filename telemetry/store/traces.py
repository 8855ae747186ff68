"""The runs of OTLP traces in the database: what is known of each, and the rows that stand for them.

Everything here runs inside ``install_transaction``: nobody else writes rows of the install. Plain
SQL, and one JSON text for all traces of a batch: to adapt an array a column, or instances of a
model, cost more than to take in the spans.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import msgspec
from django.db import connection
from django.db.models import Count

from agent_client.contract.tables import BY_NAME, RUNS
from fleet.lib.clock import ns_to_datetime
from telemetry.models import OtlpTrace, ReplacedRun, Run
from telemetry.models.events import MODEL_OF
from telemetry.store.copy import CopyCounts, Row, Stamp, copy_rows
from telemetry.store.ledger import Statement, write

TRACE_LIFE: Final = timedelta(days=7)
"""How long after its last span a trace is remembered; as far as a run's page looks for its rows."""
_KEPT: Final = tuple(
    str(field.column)
    for field in ReplacedRun._meta.concrete_fields
    if field.name not in {"id", "replaced_by"}
)
_TRACES: Final = OtlpTrace._meta.db_table
_COLUMNS: Final = "install_id, run_id, start_ns, seq, said, counts, updated_at"
_UPDATE: Final = (
    "ON CONFLICT (install_id, run_id) DO UPDATE SET start_ns = excluded.start_ns, "
    "seq = excluded.seq, said = excluded.said, counts = excluded.counts, "
    "updated_at = excluded.updated_at"
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
    """What is known of these traces, by run id; the ids are hexadecimal."""
    wanted = list(run_ids)
    is_postgres = connection.vendor == "postgresql"
    among = (
        "= ANY(string_to_array(%s, ','))" if is_postgres else "IN (SELECT value FROM json_each(%s))"
    )
    names = ",".join(wanted) if is_postgres else json.dumps(wanted)
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT run_id, start_ns, seq, said, counts FROM {_TRACES} "  # noqa: S608 -- our own model's table
            f"WHERE install_id = %s AND run_id {among}",
            [install_id if is_postgres else install_id.hex, names],
        )
        return {
            run_id: KnownTrace(start_ns, seq, json.loads(said), json.loads(counts))
            for run_id, start_ns, seq, said, counts in cursor.fetchall()
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


def store_traces(stamp: Stamp, new: Sequence[NewTrace], replaced: Mapping[str, int]) -> CopyCounts:
    """Store traces and the rows of their runs; what became of the rows.

    ``replaced``: for those that had a row, when it began (ns). Steps: 1. the replaced rows are
    kept for the rollups and deleted, and what is known is written down, 2. the new rows are copied.
    A row is deleted, not updated, because a run whose root came late begins earlier, and its
    begin is part of its key.
    """
    places = [(ns_to_datetime(at_ns), run_id) for run_id, at_ns in replaced.items()]
    write(*_retract(stamp, places), *_keep(stamp, new))
    return copy_rows(RUNS, [trace.row for trace in new], stamp)


def forget_traces(moment: datetime) -> int:
    """Forget traces of which nothing came for TRACE_LIFE; their runs stay as they are."""
    return OtlpTrace.objects.filter(updated_at__lt=moment - TRACE_LIFE).delete()[0]


def _keep(stamp: Stamp, new: Sequence[NewTrace]) -> list[Statement]:
    rows = [
        {
            "run_id": trace.run_id,
            "start_ns": trace.start_ns,
            "seq": trace.seq,
            "said": trace.said,
            "counts": trace.counts,
        }
        for trace in new
    ]
    if connection.vendor == "postgresql":
        text = (
            f"INSERT INTO {_TRACES} ({_COLUMNS}) SELECT %s, t.*, %s "  # noqa: S608 -- our own model's table
            "FROM jsonb_to_recordset(%s::jsonb) "
            "t(run_id text, start_ns bigint, seq bigint, said jsonb, counts jsonb) " + _UPDATE
        )
        data = msgspec.json.encode(rows).decode()
        return [Statement(text, [stamp.install_id, stamp.received_at, data])]
    text = f"INSERT INTO {_TRACES} ({_COLUMNS}) VALUES (%s, %s, %s, %s, %s, %s, %s) {_UPDATE}"  # noqa: S608 -- our own model's table
    moment = connection.ops.adapt_datetimefield_value(stamp.received_at)
    return [
        Statement(
            text,
            [
                *(stamp.install_id.hex, row["run_id"], row["start_ns"], row["seq"]),
                *(json.dumps(row["said"]), json.dumps(row["counts"]), moment),
            ],
        )
        for row in rows
    ]


def _retract(stamp: Stamp, places: Sequence[tuple[datetime, str]]) -> list[Statement]:
    """Statements that keep the rows of runs for the rollups, and delete them."""
    if not places:
        return []
    quote = connection.ops.quote_name
    run, replaced = quote(Run.table_name()), quote(ReplacedRun._meta.db_table)
    columns = ", ".join(map(quote, _KEPT))
    if connection.vendor == "postgresql":
        text = (
            f"WITH gone AS (DELETE FROM {run} WHERE install_id = %s AND start_at = ANY(%s) "  # noqa: S608 -- names of our own models
            f"AND run_id = ANY(string_to_array(%s, ',')) RETURNING {columns}) "
            f"INSERT INTO {replaced} ({columns}, replaced_by) SELECT {columns}, %s FROM gone"
        )
        begins = [start_at for start_at, _ in places]
        run_ids = ",".join(run_id for _, run_id in places)
        return [Statement(text, [stamp.install_id, begins, run_ids, stamp.batch_id])]
    found: list[Statement] = []
    mine = f"FROM {run} WHERE install_id = %s AND start_at = %s AND run_id = %s"
    for start_at, run_id in places:
        at = connection.ops.adapt_datetimefield_value(start_at)
        place = [stamp.install_id.hex, at, run_id]
        found += [
            Statement(
                f"INSERT INTO {replaced} ({columns}, replaced_by) SELECT {columns}, %s {mine}",
                [stamp.batch_id.hex, *place],
            ),
            Statement(f"DELETE {mine}", place),
        ]
    return found
