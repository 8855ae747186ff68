"""A trace as a run: what each span says of it, put together in any order to the same run. Pure.

Spans come when they end: children first, the root last, in as many requests as the sender likes,
and some twice. So a run is gathered: it begins with the earliest span, ends when a root was seen,
and each of its fields is what the best-placed span says that says it. ``merged`` is commutative,
associative and idempotent in all of that; the counts of its calls are added, and are exact because
only rows that were really inserted are counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from agent_client.contract.tables import ERRORS, MODEL_CALLS, TOOL_CALLS
from telemetry.store.copy import Row

ROOT, LOCAL_ROOT, AGENT, OTHER = range(4)
"""How well placed a span is to speak for its run: the trace's root; one whose parent is another
process's; an agent or workflow inside; anything else."""
END: Final = "end"
FIELDS: Final = ("session_id", "profile_id", "platform", "agent_version")
ENTRYPOINT: Final = "otlp"
COUNTED: Final = (MODEL_CALLS.name, TOOL_CALLS.name, ERRORS.name)

type Place = tuple[int, int, str]
"""Rank, begin in ns and id of a span."""
type Said = tuple[int, int, str, str]
"""Rank, time in ns, span id and value: the least one stands. An end's time is negative, so that of
two roots of one rank the one that ended last closes the run."""


@dataclass(slots=True)
class TraceFacts:
    """What is known of one trace. ``counts``: rows of COUNTED by table."""

    run_id: str
    start_ns: int
    said: dict[str, Said] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add_span(self, rank: int, start_ns: int, span_id: str) -> Place:
        """Take in a span; the place from which it speaks."""
        self.start_ns = min(self.start_ns, start_ns)
        return rank, start_ns, span_id

    def say(self, name: str, place: Place, value: str) -> None:
        """What the span at a place says of the run."""
        said = (*place, value)
        known = self.said.get(name)
        if known is None or said < known:
            self.said[name] = said

    def end(self, rank: int, end_ns: int, span_id: str, reason: str) -> None:
        """A root ended, and how."""
        self.say(END, (rank, -end_ns, span_id), reason)

    def replace(self, change: Mapping[str, str]) -> None:
        """Values exchanged for others: what the scrubber made of them."""
        self.said = {
            name: (rank, at_ns, span_id, change.get(value, value))
            for name, (rank, at_ns, span_id, value) in self.said.items()
        }

    def count(self, table: str) -> None:
        """One row more of a table."""
        self.counts[table] = self.counts.get(table, 0) + 1

    @property
    def end_ns(self) -> int | None:
        """When the run ended; None while no root was seen."""
        end = self.said.get(END)
        return None if end is None else max(-end[1], self.start_ns)


def merged(known: TraceFacts, found: TraceFacts, added: Mapping[str, int]) -> TraceFacts:
    """Both together; ``added``: the rows that are new with ``found``, by table."""
    said = dict(known.said)
    for name, one in found.said.items():
        other = said.get(name)
        if other is None or one < other:
            said[name] = one
    counts = dict(known.counts)
    for table, count in added.items():
        counts[table] = counts.get(table, 0) + count
    return TraceFacts(known.run_id, min(known.start_ns, found.start_ns), said, counts)


def is_same(one: TraceFacts, other: TraceFacts) -> bool:
    """Whether both make the same run."""
    return (one.start_ns, one.said, one.counts) == (other.start_ns, other.said, other.counts)


def run_row(facts: TraceFacts, seq: int) -> Row:
    """The run of a trace, as the ``seq``-th version of it."""

    def of(name: str) -> str | None:
        found = facts.said.get(name)
        return None if found is None else found[3]

    return (
        facts.run_id,
        facts.run_id,
        of("session_id"),
        of("profile_id"),
        ENTRYPOINT,
        of("platform"),
        facts.start_ns,
        facts.end_ns,
        of(END),
        facts.counts.get(MODEL_CALLS.name, 0),
        facts.counts.get(TOOL_CALLS.name, 0),
        facts.counts.get(ERRORS.name, 0),
        None,
        "unknown",
        1,
        None,
        of("agent_version"),
        0,
        seq,
    )


def said_from_json(data: object) -> dict[str, Said]:
    """What was kept of a trace, from its JSON; nothing of what has another form."""
    found: dict[str, Said] = {}
    items: Iterable[tuple[object, object]] = data.items() if isinstance(data, dict) else ()
    for name, said in items:
        match said:
            case [int(rank), int(at_ns), str(span_id), str(value)]:
                found[str(name)] = (rank, at_ns, span_id, value)
            case _:
                pass
    return found
