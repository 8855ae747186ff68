"""encode_metrics(): the fleet's cumulative metrics as one OTLP body, and the state that goes on.

Series begin at 0 when a collector is first sent metrics, and keep that start time through a
restart: the state holds for each what its settled days came to and what was said last. The newest
days are summed up anew each time, because late rows and replaced runs still change them. What would
make a counter go down (a run that came again with another end, an erased install) begins its series
anew: a new start time, at 0. Costs are no counter: they may fall. Specification: A3, A5.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from agent_client.contract.otlp_metrics import INSTRUMENTS
from agent_client.contract.otlp_names import Attributes
from fleet.lib.clock import datetime_to_ns
from telemetry.models import RelayDestination
from telemetry.relay import metric_cells as cells
from telemetry.relay import resource
from telemetry.relay.wire import POINT_ATTRIBUTE, attributes, delimited, text_of, varint

LIVE_DAYS: Final = 3
"""Today and two before: a row that comes in later than that is in the cells and in no metric."""
MAX_SERIES: Final = 2_000
"""Models and tools have few names; a flood of made-up ones ends in one overflow series each."""
VERSION: Final = 1
_OVERFLOW: Final = (("otel.metric.overflow", "true"),)
_HISTOGRAM_ATTRIBUTE: Final = b"\x4a"
_CUMULATIVE: Final = b"\x10\x02"
_NUSD: Final = 1e9
_NOT_COUNTERS: Final = frozenset({"hermes.cost.usd"})
_fixed64: Final = struct.Struct("<Q").pack
_double: Final = struct.Struct("<d").pack
_times: Final = struct.Struct("<BQBQ").pack
_START_TAG: Final = 0x11
_TIME_TAG: Final = 0x19

type Key = cells.Key


@dataclass(slots=True)
class _Series:
    """``carry``: settled days, less what there was when it began. ``last``: what was said last."""

    start_ns: int
    carry: cells.Numbers
    last: cells.Numbers


@dataclass(frozen=True, slots=True)
class MetricsBody:
    """One request, and the state to keep before it is sent: ``data`` is the protobuf.

    ``record_count`` counts data points; of none there is no body to send.
    """

    data: bytes
    record_count: int
    state: dict[str, Any]


def encode_metrics(
    destination: RelayDestination, state: Mapping[str, Any], moment: datetime
) -> MetricsBody:
    """The metrics of a collector at a moment; ``state`` is that of the last body, or empty.

    Cells are read, never events; at most 9 queries. Keep the new state before the body is sent: a
    body that is lost is made up for by the next one, which says everything again.
    """
    now_ns = datetime_to_ns(moment)
    group_ids = [int(one) for one in destination.group_ids]
    book = _Book(state, moment, destination.profile, group_ids)
    days = cells.day_totals(destination.profile, book.since, group_ids)
    points = book.update(days, cells.dropped(group_ids), now_ns)
    gauges: dict[Key, float] = {
        key: float(numbers[0]) for key, numbers in cells.installs(group_ids).items()
    }
    gauges |= cells.lags(destination.pk)
    metrics = [*_counted(points, now_ns), *_gauged(gauges, now_ns)]
    said: Attributes = {
        "service.name": "hermes-fleet",
        "service.namespace": resource.fleet_id(),
        "service.version": resource.relay_version(),
        "hermes.relay.version": resource.relay_version(),
    }
    count = len(points) + len(gauges)
    data = resource.envelope(resource.resource_field(said), destination.profile, metrics)
    return MetricsBody(data if count else b"", count, book.to_json())


class _Book:
    """The series of one collector."""

    def __init__(
        self, state: Mapping[str, Any], moment: datetime, profile: str, group_ids: list[int]
    ) -> None:
        self._about = {"version": VERSION, "profile": profile, "groups": sorted(group_ids)}
        self._today = moment.astimezone(UTC).date()
        self._series: dict[Key, _Series] = {}
        self._start_ns = datetime_to_ns(moment)
        self._live_from = self._today - timedelta(days=LIVE_DAYS - 1)
        self._is_new = not self._read(state)

    @property
    def since(self) -> datetime:
        """From which day on cells are needed."""
        return datetime(
            self._live_from.year, self._live_from.month, self._live_from.day, tzinfo=UTC
        )

    def _read(self, state: Mapping[str, Any]) -> bool:
        """Whether the state could be read; one of another form, profile or choice begins anew."""
        try:
            if any(state[name] != value for name, value in self._about.items()):
                return False
            live_from = date.fromisoformat(state["live_from"])
            series = {
                (str(name), tuple((str(k), str(v)) for k, v in said)): _Series(
                    int(start_ns), [int(n) for n in carry], [int(n) for n in last]
                )
                for name, said, start_ns, carry, last in state["series"]
            }
            if any(len(one.carry) != _width(key[0]) for key, one in series.items()):
                return False
            self._start_ns = int(state["start_ns"])
        except (KeyError, TypeError, ValueError):
            return False
        # A clock that was set back, or a state of the future: today decides.
        self._live_from, self._series = min(live_from, self._live_from), series
        return True

    def update(
        self, days: Mapping[date, cells.Totals], dropped: cells.Totals, now_ns: int
    ) -> list[tuple[Key, int, cells.Numbers]]:
        """Each series with its start and its numbers. Settles the days that are old by now."""
        live = self._today - timedelta(days=LIVE_DAYS - 1)
        current: dict[Key, cells.Numbers] = defaultdict(list)
        for day, totals in sorted(days.items()):
            for wanted, numbers in totals.items():
                key = self._place(wanted)
                if day < live:
                    one = self._of(key, len(numbers))
                    one.carry = cells.add(one.carry, numbers)
                else:
                    held = current.get(key)
                    current[key] = numbers if held is None else cells.add(held, numbers)
        for wanted, numbers in dropped.items():
            key = self._place(wanted)
            held = current.get(key)
            current[key] = numbers if held is None else cells.add(held, numbers)
        self._live_from = live
        points = []
        for key in {**self._series, **current}:
            numbers = current.get(key) or [0] * _width(key[0])
            points.append((key, *self._say(key, numbers, now_ns)))
        self._is_new = False
        return points

    def _say(self, key: Key, numbers: cells.Numbers, now_ns: int) -> tuple[int, cells.Numbers]:
        one = self._of(key, len(numbers))
        if self._is_new:  # what was before the first body is history, not an increase
            one.carry = cells.add(one.carry, cells.add(one.carry, numbers), -1)
        value = cells.add(one.carry, numbers)
        is_counter = key[0] not in _NOT_COUNTERS
        if is_counter and any(new < old for new, old in zip(value, one.last, strict=True)):
            one.start_ns = now_ns
            one.carry = cells.add([0] * len(numbers), numbers, -1)
            value = [0] * len(numbers)
        one.last = value
        return one.start_ns, value

    def _of(self, key: Key, width: int) -> _Series:
        found = self._series.get(key)
        if found is None:
            zeros = [0] * width
            found = self._series[key] = _Series(self._start_ns, zeros, list(zeros))
        return found

    def _place(self, key: Key) -> Key:
        """The series that takes a value: its own while there is room."""
        if key in self._series or len(self._series) < MAX_SERIES:
            self._of(key, _width(key[0]))
            return key
        return key[0], _OVERFLOW

    def to_json(self) -> dict[str, Any]:
        """The state as bookkeeping."""
        return {
            **self._about,
            "start_ns": self._start_ns,
            "live_from": self._live_from.isoformat(),
            "series": [
                [name, [list(pair) for pair in said], one.start_ns, one.carry, one.last]
                for (name, said), one in self._series.items()
            ],
        }


def _width(name: str) -> int:
    """How many numbers a series of a metric has."""
    made = INSTRUMENTS[name]
    if name in cells.NO_BOUNDS:
        return 2
    return len(made.bounds) + 2 if made.bounds else 1


def _counted(points: Iterable[tuple[Key, int, cells.Numbers]], now_ns: int) -> Iterable[bytes]:
    by_name: dict[str, list[bytes]] = defaultdict(list)
    for (name, said), start_ns, numbers in points:
        times = _times(_START_TAG, start_ns, _TIME_TAG, now_ns)
        by_name[name].append(delimited(b"\x0a", times + _point(name, said, numbers)))
    for name, made in by_name.items():
        if _width(name) > 1:
            yield _metric(name, b"\x4a", b"".join(made) + _CUMULATIVE)
        else:
            monotonic = b"" if name in _NOT_COUNTERS else b"\x18\x01"
            yield _metric(name, b"\x3a", b"".join(made) + _CUMULATIVE + monotonic)


def _attributes(tag: bytes, said: Iterable[tuple[str, str]]) -> bytes:
    pairs = tuple(said)
    return attributes(tag, {_OVERFLOW[0][0]: True} if pairs == _OVERFLOW else dict(pairs))


def _point(name: str, said: Iterable[tuple[str, str]], numbers: cells.Numbers) -> bytes:
    if _width(name) == 1:
        if name in _NOT_COUNTERS:
            value = b"\x21" + _double(numbers[0] / _NUSD)
        else:
            value = b"\x31" + struct.pack("<q", min(numbers[0], 2**63 - 1))
        return value + _attributes(POINT_ATTRIBUTE, said)
    *buckets, total = numbers
    bounds = () if name in cells.NO_BOUNDS else INSTRUMENTS[name].bounds
    parts = [
        b"\x21" + _fixed64(sum(buckets)),
        b"\x29" + _double(total / cells.MILLION),
    ]
    if bounds:
        parts.append(delimited(b"\x32", b"".join(map(_fixed64, buckets))))
        parts.append(delimited(b"\x3a", b"".join(map(_double, bounds))))
    return b"".join(parts) + _attributes(_HISTOGRAM_ATTRIBUTE, said)


def _gauged(gauges: Mapping[Key, float], now_ns: int) -> Iterable[bytes]:
    by_name: dict[str, list[bytes]] = defaultdict(list)
    for (name, said), value in gauges.items():
        is_whole = INSTRUMENTS[name].is_whole
        number = b"\x31" + struct.pack("<q", int(value)) if is_whole else b"\x21" + _double(value)
        time = bytes((_TIME_TAG,)) + _fixed64(now_ns)
        point = time + number + _attributes(POINT_ATTRIBUTE, said)
        by_name[name].append(delimited(b"\x0a", point))
    for name, made in by_name.items():
        yield _metric(name, b"\x2a", b"".join(made))


def _metric(name: str, kind: bytes, data: bytes) -> bytes:
    """A metric as a field of its scope."""
    message = (
        delimited(b"\x0a", text_of(name))
        + delimited(b"\x1a", text_of(INSTRUMENTS[name].unit))
        + delimited(kind, data)
    )
    return b"\x12" + varint(len(message)) + message
