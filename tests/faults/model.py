"""What the console should have of a fleet, kept in dictionaries: the model of the state machine."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from agent_client.contract.tables import BY_NAME
from telemetry.store.copy import Row
from tests.telemetry import builders as make

type Record = Mapping[str, object]
type Place = tuple[str, int, object]
"""Table, microsecond of the start, key: where a row of an install lies."""


@dataclass(frozen=True, slots=True)
class Junk:
    """A line that is refused, and the code it is refused with."""

    line: bytes
    code: str


@dataclass(frozen=True, slots=True)
class Expected:
    """What the receipt of a batch has to say."""

    received: int
    accepted: dict[str, int]
    duplicates: int
    rejected_counts: dict[str, int]


@dataclass(slots=True)
class Model:
    """Rows by install and place, and the sums of all batches."""

    rows: defaultdict[UUID, dict[Place, Record]] = field(default_factory=lambda: defaultdict(dict))
    sums: Counter[str] = field(default_factory=Counter)

    def take(self, install_id: UUID, lines: Sequence[Record | Junk]) -> Expected:
        """Take in one batch."""
        known = self.rows[install_id]
        records = [line for line in lines if not isinstance(line, Junk)]
        accepted: Counter[str] = Counter()
        for place, record in _newest(records).items():
            held, table = known.get(place), BY_NAME[place[0]]
            is_new = held is None
            if held is not None and not (table.merges and _seq(held) < _seq(record)):
                continue
            known[place] = record
            accepted[place[0]] += 1
            self.sums["inserted" if is_new else "merged"] += 1
        expected = Expected(
            received=len(lines),
            accepted=dict(accepted),
            duplicates=len(records) - accepted.total(),
            rejected_counts=dict(Counter(line.code for line in lines if isinstance(line, Junk))),
        )
        self.sums["received"] += expected.received
        self.sums["duplicate"] += expected.duplicates
        self.sums["rejected"] += sum(expected.rejected_counts.values())
        return expected

    def every(self, table: str) -> list[Record]:
        """The rows of a table, of all installs."""
        return [
            record
            for known in self.rows.values()
            for place, record in known.items()
            if place[0] == table
        ]

    def stored(self, install_id: UUID, table: str) -> set[Row]:
        """The rows of a table as they should lie there."""
        places = self.rows[install_id].items()
        return {make.row(record) for place, record in places if place[0] == table}


def place_of(record: Record) -> Place:
    """Where a record's row lies."""
    table = BY_NAME[str(record["_kind"])]
    time_ns = record[table.time]
    assert isinstance(time_ns, int)
    return table.name, time_ns // 1000, record[table.key]


def _seq(record: Record) -> int:
    seq = record["seq"]
    assert isinstance(seq, int)
    return seq


def _newest(records: Iterable[Record]) -> dict[Place, Record]:
    """Of several copies in one batch the one that counts: the first, of runs the highest seq."""
    best: dict[Place, Record] = {}
    for record in records:
        place = place_of(record)
        held = best.get(place)
        if held is None or (BY_NAME[place[0]].merges and _seq(record) > _seq(held)):
            best[place] = record
    return best
