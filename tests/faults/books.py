"""The books of both sides compared: what was emitted, what is stored, and whether they balance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from django.db import connection

from agent_client.contract.tables import BY_NAME
from telemetry.models import EVENT_MODELS, IngestBatch, InstallIntake
from telemetry.rollup.fill import pending_hours
from telemetry.rollup.verify import verify_cells
from tests.agent_client import builders as agent

type Ids = Mapping[str, set[object]]
"""Row ids by table."""
type Ask = Callable[[str], list[tuple[Any, ...]]]
"""Answers a SELECT; Any: a database's own values."""


@dataclass(frozen=True, slots=True)
class Books:
    """What the console has of the installs: rows by table, and the sums of its ledger."""

    rows: dict[str, Counter[object]] = field(default_factory=dict)
    received: int = 0
    inserted: int = 0
    merged: int = 0
    duplicate: int = 0
    rejected: int = 0
    intake: int = 0

    @property
    def row_count(self) -> int:
        """All event rows."""
        return sum(ids.total() for ids in self.rows.values())


def _ask(statement: str) -> list[tuple[Any, ...]]:
    """Rows of the database of the test."""
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return list(cursor.fetchall())


def read_books(ask: Ask = _ask) -> Books:
    """The console's books of all installs."""
    names = ("received", "inserted", "merged", "duplicate", "rejected")
    sums = ", ".join(f"coalesce(sum({name}_count), 0)" for name in names)
    (found,) = ask(f"SELECT {sums} FROM {IngestBatch._meta.db_table}")
    (intake,) = ask(f"SELECT coalesce(sum(stored_count), 0) FROM {InstallIntake._meta.db_table}")
    rows = {
        model.CONTRACT.name: Counter[object](
            key for (key,) in ask(f"SELECT {model.CONTRACT.key} FROM {model.table_name()}")
        )
        for model in EVENT_MODELS
    }
    counts = dict(zip(names, map(int, found), strict=True))
    return Books(rows=rows, intake=int(intake[0]), **counts)


def faults_of(books: Books, sent: Ids) -> list[str]:
    """Every way in which the console's books differ from what was sent; [] is lost 0, doubled 0,
    unexplained 0."""
    faults: list[str] = []
    for table in books.rows.keys() | sent.keys():
        found, wanted = books.rows.get(table, Counter()), sent.get(table, set())
        faults += [f"lost: {table} {key}" for key in wanted - found.keys()]
        faults += [f"from nowhere: {table} {key}" for key in found.keys() - wanted]
        faults += [f"doubled: {table} {key}" for key, count in found.items() if count > 1]
    explained = books.inserted + books.merged + books.duplicate + books.rejected
    if books.received != explained:
        faults.append(f"unexplained: received {books.received}, explained {explained}")
    if not books.inserted == books.row_count == books.intake:
        sums = f"inserted {books.inserted}, rows {books.row_count}, intake {books.intake}"
        faults.append(f"unexplained: {sums}")
    return faults


def sent_from(home: Path) -> dict[str, set[object]]:
    """What a home has recorded, by its own index; it must have dropped nothing."""
    stored, dropped = agent.ledger(home)
    sent: dict[str, set[object]] = {}
    for name, table in BY_NAME.items():
        rows = agent.query(home, f"SELECT {table.key} FROM {name}")
        sent[name] = {key for (key,) in rows}
    assert dropped == {}
    assert stored >= sum(map(len, sent.values()))  # a run is recorded each time it changes
    return sent


def check_books(home: Path) -> None:
    """Everything a home recorded is on the console, once, and both ledgers balance."""
    assert faults_of(read_books(), sent_from(home)) == []


def check_cells(first: datetime, last: datetime) -> None:
    """Nothing waits to be folded, and from ``first`` to ``last`` each cell is what its rows say."""
    assert pending_hours() == []
    report = verify_cells(first, last + timedelta(hours=1))
    assert report.differences == []
    assert (report.waiting_touches, report.skipped_hours) == (0, 0)
