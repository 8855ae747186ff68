"""Rows that an export would have, before it is ordered: exact while few, else a guess, said so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from django.db import DatabaseError

from fleet.lib.clock import now
from telemetry.exports.choice import Choice
from telemetry.exports.datasets import Dataset
from telemetry.exports.parts import pages_of
from telemetry.models.exports import ExportJob
from telemetry.store.pages import count_up_to, estimate

EXACT_ROWS: Final = 10_000
"""Counted by looking, which takes some milliseconds; above it the database's statistics answer."""


@dataclass(frozen=True, slots=True)
class Guess:
    """Rows of one dataset; None when the database could not say."""

    title: str
    row_count: int | None
    is_exact: bool


@dataclass(frozen=True, slots=True)
class Estimate:
    """What an order would bring now."""

    guesses: tuple[Guess, ...]
    start_at: datetime
    end_at: datetime

    @property
    def row_count(self) -> int | None:
        """All together; None when one is not known."""
        counts = [guess.row_count for guess in self.guesses]
        return sum(count for count in counts if count is not None) if None not in counts else None

    @property
    def is_exact(self) -> bool:
        """Whether every one was counted."""
        return all(guess.is_exact for guess in self.guesses)


def estimate_of(
    datasets: Sequence[Dataset], choice: Choice, start_at: datetime, end_at: datetime
) -> Estimate:
    """Count or guess. Never raises for a database that does not answer."""
    job = ExportJob(start_at=start_at, end_at=end_at, chosen=choice.to_dict(), created_at=now())
    return Estimate(tuple(_guess(job, dataset) for dataset in datasets), start_at, end_at)


def _guess(job: ExportJob, dataset: Dataset) -> Guess:
    title = str(dataset.title)
    try:
        pages = pages_of(job, dataset)
        counted = count_up_to(pages, EXACT_ROWS + 1)
        if counted <= EXACT_ROWS:
            return Guess(title, counted, is_exact=True)
        return Guess(title, max(estimate(pages), counted), is_exact=False)
    except DatabaseError:
        return Guess(title, None, is_exact=False)
