"""One part of a result: the rows after a place, written to a file, and the place after them.

The same rows give the same bytes and the same places, whoever writes them and however often.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from django.db import connection

from telemetry.exports.choice import Choice
from telemetry.exports.columns import Kind
from telemetry.exports.datasets import Dataset
from telemetry.exports.destinations import NewFile, ResultStore
from telemetry.exports.formats import extension_of, writer_of
from telemetry.exports.rows import check_redaction, page_of
from telemetry.models import ExportJob
from telemetry.store.pages import PageRow, Pages, estimate, read_page

PART_ROWS: Final = 200_000
"""A few seconds of work: what a death costs, and how long a task runs past its budget."""
PART_BYTES: Final = 256 * 1024**2
"""Of content a part may be large before it is long."""
DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a dataset's next row is sought: after a key, in a day where days are tables."""

    after: tuple[object, ...] | None = None
    day: datetime | None = None

    def to_list(self) -> list[object]:
        """Its JSON form."""
        day = self.day.isoformat() if self.day else None
        after = None if self.after is None else [_plain(value) for value in self.after]
        return [after, day]

    @classmethod
    def from_list(cls, data: object, kinds: tuple[Kind, ...]) -> Place:
        """The place of ``to_list``; what is stored is ours."""
        if not isinstance(data, list):
            return cls()
        after, day = data
        read = [_moment if kind == "time" else _as_it_is for kind in kinds]
        values = None if after is None else tuple(f(v) for f, v in zip(read, after, strict=True))
        return cls(values, None if day is None else datetime.fromisoformat(day))


def _plain(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else value


def _moment(value: str) -> datetime:
    return datetime.fromisoformat(value)


def _as_it_is(value: object) -> object:
    return value


@dataclass(frozen=True, slots=True)
class Part:
    """A part that is whole but has not its name yet. ``place`` None: the dataset has no more."""

    file: NewFile
    row_count: int
    size_bytes: int
    redacted_count: int
    sha256: str
    place: Place | None


def order_of(dataset: Dataset) -> tuple[str, ...]:
    """The columns that order it, as this database has an index of them.

    Event tables are read day by day in the order of their key on PostgreSQL, where a day is a
    table; on SQLite, where one table holds all days, by time first.
    """
    if dataset.is_partitioned and connection.vendor != "postgresql":
        return (dataset.time, *(name for name in dataset.key if name != dataset.time))
    return dataset.key


def key_kinds(dataset: Dataset) -> tuple[Kind, ...]:
    """The kinds of those columns."""
    kinds = {column.stored: column.kind for column in dataset.columns}
    return tuple(kinds[name] for name in order_of(dataset))


def pages_of(job: ExportJob, dataset: Dataset) -> Pages:
    """What of a dataset a job is about."""
    among = Choice.from_dict(job.chosen).among(dataset)
    uuids = {column.stored for column in dataset.columns if column.kind == "uuid"}
    return Pages(
        table=dataset.table,
        columns=tuple((column.stored, column.kind) for column in dataset.columns),
        order=order_of(dataset),
        time=dataset.time,
        start=job.start_at,
        end=job.end_at,
        arrived=dataset.arrived,
        by=job.created_at,
        among={
            name: [UUID(str(one)) for one in some] if name in uuids else some
            for name, some in among.items()
        },
    )


def estimate_rows(job: ExportJob, datasets: list[Dataset]) -> int:
    """About how many rows the job is about."""
    return sum(estimate(pages_of(job, dataset)) for dataset in datasets)


def read_from(
    job: ExportJob, dataset: Dataset, place: Place
) -> Iterator[tuple[list[PageRow], Place | None]]:
    """Pages of rows from a place on, each with the place after it; None after the last one.

    The last page may be empty. An empty day gives no page.
    """
    pages = pages_of(job, dataset)
    names = [column.stored for column in dataset.columns]
    at = [names.index(name) for name in pages.order]
    by_day = dataset.is_partitioned and connection.vendor == "postgresql"
    day = place.day or _floor_day(job.start_at) if by_day else None
    while True:
        found = _of_day(pages, day, job) if day else pages
        rows = read_page(found, place.after, dataset.page_rows)
        is_last_page = len(rows) < dataset.page_rows
        if not is_last_page:
            place = Place(tuple(rows[-1][index] for index in at), day)
            yield rows, place
            continue
        if day is None or day + DAY >= job.end_at:
            yield rows, None
            return
        day += DAY
        place = Place(None, day)
        if rows:
            yield rows, place


def _floor_day(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def _of_day(pages: Pages, day: datetime, job: ExportJob) -> Pages:
    """One day of it: one partition is opened, and its key's index gives the order."""
    return replace(pages, start=max(day, job.start_at), end=min(day + DAY, job.end_at))


def write_part(
    job: ExportJob,
    dataset: Dataset,
    number: int,
    place: Place,
    store: ResultStore,
    *,
    on_page: Callable[[int], None],
) -> Part | None:
    """Write part ``number``; None when there is no row left and it is not the first.

    ``on_page`` is told after each page how many rows the part has; what it raises ends the part.
    Errors: ExportFault, RedactionAway, and whatever the database raises.
    """
    check_redaction()
    found = read_from(job, dataset, place)
    first = next(found)
    if not first[0] and first[1] is None and number > 1:
        return None
    ending = extension_of(job.fmt, is_gzipped=job.is_gzipped)
    file = store.create(f"{dataset.name}-{number:05d}.{ending}")
    try:
        return _write(job, dataset, file, first, found, on_page)
    except BaseException:
        file.abort()
        raise


def _write(
    job: ExportJob,
    dataset: Dataset,
    file: NewFile,
    first: tuple[list[PageRow], Place | None],
    found: Iterator[tuple[list[PageRow], Place | None]],
    on_page: Callable[[int], None],
) -> Part:
    writer = writer_of(job.fmt, dataset, is_gzipped=job.is_gzipped)
    digest = hashlib.sha256()
    row_count = size_bytes = redacted_count = 0

    def put(data: bytes) -> None:
        nonlocal size_bytes
        if data:
            digest.update(data)
            file.write(data)
            size_bytes += len(data)

    put(writer.start())
    current: tuple[list[PageRow], Place | None] | None = first
    after: Place | None = None
    while current is not None:
        rows, after = current
        current = None  # the page before is given back before the next one is read
        if rows:
            page = page_of(dataset, rows)
            row_count += page.row_count
            redacted_count += page.redacted_count
            del rows
            put(writer.rows(page))
            del page
        on_page(row_count)
        if after is not None and row_count < PART_ROWS and size_bytes < PART_BYTES:
            current = next(found)
    put(writer.finish())
    file.complete()
    return Part(file, row_count, size_bytes, redacted_count, digest.hexdigest(), after)


def schema_of(dataset: Dataset) -> list[Mapping[str, str]]:
    """The columns as a manifest names them."""
    return [
        {"name": column.name, "type": column.kind, "unit": column.unit}
        for column in dataset.columns
    ]
