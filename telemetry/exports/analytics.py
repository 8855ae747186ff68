"""The analytics copy: rows and sums as partitioned Parquet in a folder, a day at a time.

Shape: ``<folder>/<dataset>/day=YYYY-MM-DD/<dataset>-00001.parquet``, columns as ``datasets`` says,
of the local plane only: neither summaries nor content are ever copied. ``_copy.json`` says which
days are there, from when, with how many rows.

Steps for each day: 1. one snapshot of the database for all its datasets; every file is written
under another name and made durable; 2. the files take their names, those of an earlier copy that
are too many go; 3. ``_copy.json`` is replaced. Death before 3 has the day copied again.

What changes a day (late rows, replaced runs, an erasure) marks its hours as filled anew, and the
day is copied again. Days whose rows are gone here by retention stay in the copy; an erased install
is removed from those as well.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final

from django.db.models import Max
from django.db.models.functions import TruncDate

from fleet.lib.clock import now
from fleet.lib.sql import try_session_lock
from fleet.models import Erasure
from telemetry.exports.datasets import DATASETS, Dataset
from telemetry.exports.destinations import FolderStore
from telemetry.exports.parts import DAY, Part, Place, write_part
from telemetry.exports.without import rewrite_without
from telemetry.models import ExportFormat, ExportJob, FillState
from telemetry.store.pages import one_state

STATE_FILE: Final = "_copy.json"
SETTLE: Final = timedelta(minutes=10)
"""A fill writes down its time before it commits: what was filled this shortly before a day was
copied may not have been seen, and is copied again."""
LOCK: Final = "telemetry-analytics"


class CopyRefused(Exception):
    """The copy cannot be made here; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class DayDone:
    """What one day became. ``erased_count``: rows of erased installs that were taken out."""

    day: date
    row_count: int
    size_bytes: int
    erased_count: int = 0


def copied_datasets() -> list[Dataset]:
    """What is copied: rows and sums of the local plane, which have a time."""
    return [one for one in DATASETS.values() if one.plane == "local" and one.time]


def copy(folder: Path, *, on_day: Callable[[DayDone], None] = lambda _done: None) -> list[DayDone]:
    """Bring the copy to date; the days that were written.

    Errors: CopyRefused when the folder is not one, or another copy is under way; ExportFault of a
    disk, RedactionAway, and whatever the database raises. What was done before stays.
    """
    with try_session_lock(LOCK) as is_ours:
        if not is_ours:
            raise CopyRefused("Another copy is under way; it brings the same folder to date.")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = State.read(folder)
        state.write()
        done = []
        for day in due_days(state):
            one = _copy_day(folder, day, state)
            on_day(one)
            done.append(one)
        for one in forget_erased(folder, state):
            on_day(one)
            done.append(one)
        return done


class State:
    """``_copy.json``: of each day when its snapshot was taken, and its rows; who was erased."""

    def __init__(self, folder: Path, days: dict[str, dict[str, object]], erased: list[str]) -> None:
        self._folder = folder
        self.days = days
        self.erased = set(erased)

    @classmethod
    def read(cls, folder: Path) -> State:
        """What is there; nothing in an empty folder. Errors: CopyRefused for files of others."""
        path = folder / STATE_FILE
        if not path.exists():
            if any(folder.iterdir()):
                raise CopyRefused(f"{folder} is not empty and holds no copy: name an empty folder.")
            return cls(folder, {}, [])
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            return cls(folder, dict(data["days"]), list(data["erased"]))
        except (ValueError, KeyError, TypeError) as error:
            raise CopyRefused(
                f"{path} cannot be read: move it away and copy into an empty folder."
            ) from error

    def write(self) -> None:
        """Replace the file, whole."""
        data = {"version": 1, "days": self.days, "erased": sorted(self.erased)}
        part = self._folder / f".{STATE_FILE}.{secrets.token_hex(4)}.part"
        with part.open("w", encoding="utf-8") as stream:
            json.dump(data, stream, indent=1, sort_keys=True)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(self._folder / STATE_FILE)


def due_days(state: State) -> list[date]:
    """Days whose sums were filled after they were copied, oldest first. 2 queries.

    A day that has expired here is never written anew: its rows are only in the copy.
    """
    day = TruncDate("hour", tzinfo=UTC)
    filled = FillState.objects.exclude(filled_at=None).annotate(day=day).values("day")
    last = dict(filled.annotate(last=Max("filled_at")).values_list("day", "last"))
    gone = FillState.objects.filter(state=FillState.State.EXPIRED).annotate(day=day)
    expired = set(gone.values_list("day", flat=True))
    return sorted(
        found
        for found, filled_at in last.items()
        if not (found in expired and found.isoformat() in state.days)
        and filled_at + SETTLE > _copied_at(state, found)
    )


def _copied_at(state: State, day: date) -> datetime:
    known = state.days.get(day.isoformat())
    return datetime.fromisoformat(str(known["at"])) if known else datetime.min.replace(tzinfo=UTC)


def _copy_day(folder: Path, day: date, state: State) -> DayDone:
    """Steps 1 to 3 for one day."""
    moment = now()
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    job = ExportJob(
        pk=0,
        fmt=ExportFormat.PARQUET,
        start_at=start,
        end_at=start + DAY,
        created_at=moment,
    )
    written: list[_Written] = []
    try:
        with one_state():
            for dataset in copied_datasets():
                (folder / dataset.name).mkdir(mode=0o700, exist_ok=True)
                one = _Written(
                    dataset, FolderStore(folder / dataset.name, f"day={day}", is_own=True)
                )
                written.append(one)
                one.parts.extend(_parts(job, one))
        for one in written:
            one.publish()
    finally:
        for one in written:
            one.abort()
    state.days[day.isoformat()] = {
        "at": moment.isoformat(),
        "rows": {one.dataset.name: one.row_count for one in written if one.row_count},
    }
    state.write()
    size_bytes = sum(part.size_bytes for one in written for part in one.parts)
    return DayDone(day, sum(one.row_count for one in written), size_bytes)


@dataclass(frozen=True, slots=True)
class _Written:
    """The files of one dataset and day, not under their names yet."""

    dataset: Dataset
    store: FolderStore
    parts: list[Part] = field(default_factory=list)

    @property
    def row_count(self) -> int:
        return sum(part.row_count for part in self.parts)

    def publish(self) -> None:
        """The files take their names; what an earlier copy had more, or a death left, goes."""
        for part in self.parts:
            part.file.publish()
        names = {part.file.name for part in self.parts}
        self.store.delete([name for name in self.store.names() if name not in names])

    def abort(self) -> None:
        for part in self.parts:
            part.file.abort()


def _parts(job: ExportJob, one: _Written) -> Iterator[Part]:
    """The parts of a dataset's day; none of a day without rows."""
    place: Place | None = Place()
    number = 1
    while place is not None:
        part = write_part(job, one.dataset, number, place, one.store, on_page=lambda _count: None)
        if part is None:
            return
        if not part.row_count:
            part.file.abort()
            return
        yield part
        place, number = part.place, number + 1


def forget_erased(folder: Path, state: State) -> Iterator[DayDone]:
    """Take the rows of installs that were erased since the last copy out of every day.

    A day that is still here was copied again without them; this is for the days that are not.
    """
    asked = dict(Erasure.objects.values_list("install_id", "state"))
    ids = {str(pk) for pk in asked} - state.erased
    if not ids:
        return
    named = [one for one in copied_datasets() if any(c.name == "install_id" for c in one.columns)]
    for day in sorted(state.days):
        gone = 0
        for dataset in named:
            for path in sorted((folder / dataset.name / f"day={day}").glob("*.parquet")):
                gone += rewrite_without(path, "install_id", ids)
        if gone:
            yield DayDone(date.fromisoformat(day), 0, 0, gone)
    # While one is under way its rows may be copied once more: it is looked at again.
    state.erased |= {str(pk) for pk, word in asked.items() if word == Erasure.State.DONE}
    state.write()
