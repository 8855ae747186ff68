"""What an install of a crowd records: rows in the order in which they come into being.

The whole is a function of seed, begin, tempo and install: asked for again, or in other pieces, it
gives the same rows under the same numbers. That is what makes a second run double nothing.
"""

from __future__ import annotations

import hashlib
import heapq
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from agent_client.contract.events import Event, RunEvent
from agent_client.contract.tables import BY_NAME, RUNS, Table
from agent_client.simulation.cast import HOURS
from agent_client.simulation.crowd.members import Member
from agent_client.simulation.script import (
    DAY_NS,
    HOUR_NS,
    Run,
    S,
    World,
    make_run,
    runs_between,
    wakefulness,
)

ROWS_PER_RUN: Final = 12.1
"""Rows of a run on average, its subagents' included; a test holds it to the script."""
RUNS_PER_DAY: Final = 9.2
"""Of an install on average, over the cast."""
MARK_DIGITS: Final = 8
WARM_UP_NS: Final = 300 * S
"""Runs are under way when life begins; without them the first minutes would be empty."""
_ID: Final = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Tempo:
    """How much is done. ``pace`` 1 is life; ``is_always_on``: no nights and no weekends."""

    pace: float = 1.0
    is_always_on: bool = False


def tempo_of(rows_per_minute: float, *, is_always_on: bool) -> Tempo:
    """The tempo at which an install that is awake makes so many rows a minute; 0 is life's own."""
    if not rows_per_minute:
        return Tempo(1.0, is_always_on)
    return Tempo(rows_per_minute * 24 * 60 / (RUNS_PER_DAY * ROWS_PER_RUN), is_always_on)


@dataclass(frozen=True, slots=True)
class Story:
    """What a whole crowd shares: its seed, when its life begins, and how busy it is."""

    seed: int
    base_ns: int
    tempo: Tempo

    @property
    def world(self) -> World:
        """The script's world."""
        return World(self.seed, self.base_ns)

    @property
    def mark(self) -> str:
        """The first digits of every id of this story, by which its rows are found again."""
        text = f"{self.seed}/{self.base_ns}/{self.tempo}"
        return hashlib.sha256(text.encode()).hexdigest()[:MARK_DIGITS]


@dataclass(frozen=True, slots=True)
class Made:
    """One row. ``is_new`` is False for a later copy of a run; ``at_ns``: when it came into being.

    ``values``: ``seq``, then the contract's columns.
    """

    table: Table
    at_ns: int
    values: tuple[object, ...]
    is_new: bool


class Maker:
    """Makes one install's rows, history first, then life, numbering them from 1."""

    def __init__(self, story: Story, member: Member) -> None:
        self.story, self.member = story, member
        self._world, self._mark = story.world, story.mark
        self._seq = 0
        self._order = 0
        self._begins_ns = story.base_ns - member.habits.late_s * S
        self._next_hour = (self._begins_ns - WARM_UP_NS) // HOUR_NS
        self._starts: list[tuple[int, float]] = []
        self._waiting: list[tuple[int, int, Event]] = []

    def history(self, days: int) -> Iterator[Made]:
        """The rows of the days before the story's begin; call it once, before ``life``."""
        until_ns = self.story.base_ns
        for run in runs_between(
            self._world, self.member.persona, until_ns - days * DAY_NS, until_ns
        ):
            for event in run.events:
                yield self._made(event, _end_ns(event), is_new=True)

    def warm_up(self) -> None:
        """Make the runs that are under way when life begins, ahead of the first ``life``."""
        self._begin_runs(self._begins_ns)

    def life(self, until_ns: int) -> list[Made]:
        """The rows that came into being since the last call, up to and with ``until_ns``."""
        self._begin_runs(until_ns)
        made: list[Made] = []
        while self._waiting and self._waiting[0][0] <= until_ns:
            at_ns, _order, event = heapq.heappop(self._waiting)
            made.append(self._made(event, at_ns, is_new=not self._is_copy(event)))
        return made

    def _is_copy(self, event: Event) -> bool:
        """Whether the run was recorded before, when it began."""
        is_over = isinstance(event, RunEvent) and event.end_ns is not None
        return is_over and (event.start_ns or 0) >= self._begins_ns

    def _begin_runs(self, until_ns: int) -> None:
        while self._next_hour * HOUR_NS <= until_ns:
            self._starts.extend(self._starts_of(self._next_hour))
            self._next_hour += 1
        begun = sum(start_ns <= until_ns for start_ns, _chance in self._starts)
        for start_ns, chance in self._starts[:begun]:
            run = make_run(self._world, self.member.persona, start_ns, random.Random(chance))
            for at_ns, event in _unfolded(run):
                if at_ns < self._begins_ns:
                    continue
                self._order += 1
                heapq.heappush(self._waiting, (at_ns, self._order, event))
        del self._starts[:begun]

    def _starts_of(self, hour: int) -> list[tuple[int, float]]:
        """Starts of runs in one UTC hour, in order, each with the seed of its run."""
        persona, tempo = self.member.persona, self.story.tempo
        rng = random.Random(f"{self.story.seed}/{persona.name}/life/{hour}/{tempo}")
        share = 1 / 24
        if not tempo.is_always_on:
            share = wakefulness(persona, hour * HOUR_NS) / sum(HOURS[persona.rhythm])
        expected = persona.runs_per_day * share * tempo.pace
        count = int(expected) + (rng.random() < expected % 1)
        starts = sorted(hour * HOUR_NS + rng.randrange(HOUR_NS) for _index in range(count))
        found = [(start_ns, rng.random()) for start_ns in starts]
        return [each for each in found if each[0] >= self._begins_ns - WARM_UP_NS]

    def _made(self, event: Event, at_ns: int, *, is_new: bool) -> Made:
        self._seq += 1
        skew_ns = self.member.habits.skew_ms * 1_000_000
        table = event.TABLE
        values = [self._seq, *(getattr(event, name) for name in table.column_names())]
        for place, kind in _PLACES[table.name]:
            value = values[place]
            if kind == "time" and isinstance(value, int):
                values[place] = value + skew_ns
            elif kind == "id" and isinstance(value, str) and _ID.fullmatch(value):
                values[place] = self._mark + value[MARK_DIGITS:]
            elif kind == "json" and isinstance(value, str):  # a span names its subagent's run
                values[place] = _ID.sub(lambda found: self._mark + found[0][MARK_DIGITS:], value)
        return Made(table, at_ns, tuple(values), is_new)


_PLACES: Final = {
    name: tuple(
        (place, column.kind)
        for place, column in enumerate(table.columns, 1)
        if column.kind in {"time", "id", "json"}
    )
    for name, table in BY_NAME.items()
}
"""Where ids and times stand among a row's values, behind its ``seq``."""


def _unfolded(run: Run) -> Iterator[tuple[int, Event]]:
    """A run's events with the moment each is recorded; a run is recorded when it begins, too."""
    for event in run.events:
        if isinstance(event, RunEvent):
            yield event.start_ns, _opened(event)
        yield _end_ns(event), event


def _opened(run: RunEvent) -> RunEvent:
    return replace(
        run,
        end_ns=None,
        end_reason=None,
        model_call_count=0,
        tool_call_count=0,
        error_count=0,
        estimated_cost_usd=None,
        cost_status=None,
        turn_count=0,
    )


def _end_ns(event: Event) -> int:
    return event.end_ns or getattr(event, "ts_ns", 0) or event.start_ns or 0


def without_superseded(rows: list[Made]) -> list[Made]:
    """The rows without copies of runs that a later one replaces, as the local plane has them."""
    place = RUNS.column_names().index(RUNS.key) + 1
    last = {row.values[place]: row for row in rows if row.table is RUNS}
    return [row for row in rows if row.table is not RUNS or last[row.values[place]] is row]
