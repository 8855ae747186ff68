"""Rows on their way out, redacted once more: the rules may have grown since they came in.

Column by column, each distinct text once; what was found clean before is remembered for the life
of the process. Fails closed: a text that cannot be judged becomes the redactor's mark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from agent_client.contract.tables import ERRORS, EVENT_TABLES, Table
from telemetry.ingest.scrub import changes_of, scrub_id, scrub_text
from telemetry.store.relay_facts import Facts, InstallFacts, RunFacts
from telemetry.store.relay_rows import EntryRows, Row

NEVER_LEAVE: Final = frozenset({"span_id", "parent_span_id"})
"""Only hashes of these go out; they are hashed as they were recorded."""
_TEXTS: Final = {
    table.name: tuple(
        (at, column.kind == "id")
        for at, column in enumerate(table.columns)
        if column.max_chars and column.name not in NEVER_LEAVE
    )
    for table in EVENT_TABLES
}


@dataclass(frozen=True, slots=True)
class CleanRows:
    """Rows of one table of one entry, as recorded and as they may be read, one for one."""

    raw: Sequence[Row]
    rows: Sequence[Row]


def clean_rows(table: Table, rows: Sequence[Row]) -> Sequence[Row]:
    """The rows with every secret replaced; the same object when there is none."""
    if not rows:
        return rows
    columns = list(zip(*rows, strict=True))
    is_changed = False
    for at, is_id in _TEXTS[table.name]:
        change = changes_of(columns[at], is_id=is_id)
        if change:
            is_changed = True
            columns[at] = tuple(change.get(value, value) for value in columns[at])
    return list(zip(*columns, strict=True)) if is_changed else rows


def clean_entries(entries: Sequence[EntryRows], table: Table) -> list[CleanRows]:
    """What each entry brought to a table: judged together, which is cheaper."""
    together = [row for entry in entries for row in entry.rows.get(table.name, ())]
    cleaned = clean_rows(table, together)
    found: list[CleanRows] = []
    start = 0
    for entry in entries:
        raw = entry.rows.get(table.name, ())
        end = start + len(raw)
        found.append(CleanRows(raw, raw if cleaned is together else cleaned[start:end]))
        start = end
    return found


def clean_facts(facts: Facts) -> dict[str, InstallFacts]:
    """The facts of each install, by its id as text; errors stay as they were recorded."""
    return {
        str(install_id): replace(
            found,
            runs={run_id: _clean_run(run) for run_id, run in found.runs.items()},
            providers={run_id: scrub_text(text) for run_id, text in found.providers.items()},
        )
        for install_id, found in facts.items()
    }


def clean_errors(rows: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Errors of a run, each as recorded and as it may be read."""
    return list(zip(rows, clean_rows(ERRORS, rows), strict=True))


def _clean_run(run: RunFacts) -> RunFacts:
    return RunFacts(
        _id(run.trace_id),
        _id(run.session_id),
        _id(run.profile_id),
        _text(run.agent_version),
        run.is_closed,
    )


def _id(value: str | None) -> str | None:
    return scrub_id(value) if value else value


def _text(value: str | None) -> str | None:
    return scrub_text(value) if value else value
