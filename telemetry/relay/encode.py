"""encode_traces(), encode_logs(): rows of feed entries as OTLP bodies of bounded size, in order.

A body says which row is its last, so that whoever sends can go on behind it. The bytes of the
same rows are the same: ids are hashes, nothing is invented here.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from agent_client.contract.tables import RUNS, Table
from telemetry.models import RelayDestination
from telemetry.relay import resource
from telemetry.relay.cleaned import CleanRows, clean_entries, clean_facts
from telemetry.relay.logs import InstallLogs, run_events
from telemetry.relay.spans import InstallSpans, Origin
from telemetry.relay.wire import varint
from telemetry.store.relay_facts import look_up
from telemetry.store.relay_rows import LOG_TABLES, TRACE_TABLES, EntryRows, Place, Row, place_of

MAX_RECORDS: Final = 2_000
"""Receivers parse a body as a whole; larger ones save nothing."""
MAX_BYTES: Final = 4 * 1024 * 1024
"""Before compression: what gRPC-minded receivers take at most by default."""
GZIP_LEVEL: Final = 1
"""Level 6 is an eighth smaller and takes twice the time."""
_RECORD_OVERHEAD: Final = 6
_GROUP_OVERHEAD: Final = 256
_RUN_END: Final = RUNS.column_names().index("end_ns")
_SPAN_TAG: Final = b"\x12"

type Write = Callable[[Row, Row], tuple[bytes, Origin]]
"""A row, as recorded and as it may be read, as the bytes of a message and its origin."""


@dataclass(frozen=True, slots=True)
class Target:
    """What of a collector decides the bytes."""

    profile: str = "1.41"
    errors_as_span_events: bool = False
    shows_hosts: bool = False
    max_records: int = MAX_RECORDS
    max_bytes: int = MAX_BYTES

    @classmethod
    def of(cls, destination: RelayDestination) -> Target:
        """The target that a destination describes."""
        return cls(destination.profile, destination.errors_as_span_events, destination.shows_hosts)


@dataclass(frozen=True, slots=True)
class Body:
    """One request: ``data`` is the protobuf, not compressed.

    Shape: ``oldest_at`` and ``newest_at`` are when its rows came in; ``last`` is its last row.
    """

    data: bytes
    record_count: int
    oldest_at: datetime
    newest_at: datetime
    last: Place

    def compressed(self) -> bytes:
        """The body as it travels; the same bytes for the same body."""
        return compressed(self.data)


def compressed(data: bytes) -> bytes:
    """A body as it travels."""
    return gzip.compress(data, GZIP_LEVEL, mtime=0)


@dataclass(frozen=True, slots=True)
class Chosen:
    """Rows that a destination wants, and how many of the others were only too old."""

    entries: list[EntryRows]
    expired_count: int


def choose(
    entries: Iterable[EntryRows], *, group_ids: Sequence[int] = (), oldest_ns: int = 0
) -> Chosen:
    """The rows of some groups (none named: all) that began at or after a time."""
    kept: list[EntryRows] = []
    expired_count = 0
    for entry in entries:
        if group_ids and entry.group_id not in group_ids:
            continue
        if oldest_ns:
            young = {
                name: [row for row in rows if row[_TIMES[name]] >= oldest_ns]
                for name, rows in entry.rows.items()
            }
            expired_count += entry.count() - sum(map(len, young.values()))
            entry = replace(entry, rows=young)  # noqa: PLW2901 -- the same entry, narrowed
        kept.append(entry)
    return Chosen(kept, expired_count)


def encode_traces(
    entries: Sequence[EntryRows], target: Target, *, after: Place | None = None
) -> Iterator[Body]:
    """The spans of some entries behind a place; at most 8 queries, before the first body.

    A run that has not ended is left out: it comes again when it ends, or as one of
    ``store.relay_open``. Its children go at once: its span id is known before it is.
    """
    facts = clean_facts(
        look_up(
            entries,
            with_providers=target.profile != "next",
            with_errors=target.errors_as_span_events,
        )
    )
    writers: dict[str, dict[str, Write]] = {}
    for install_id, known in facts.items():
        events = run_events(install_id, known) if target.errors_as_span_events else None
        spans = InstallSpans(install_id, target.profile, known, events)
        kinds = (spans.run, spans.model_call, spans.tool_call, spans.span)
        writers[install_id] = {
            table.name: write for table, write in zip(TRACE_TABLES, kinds, strict=True)
        }
    yield from _encode(entries, TRACE_TABLES, writers, target, after)


def encode_logs(
    entries: Sequence[EntryRows], target: Target, *, after: Place | None = None
) -> Iterator[Body]:
    """The errors and happenings of some entries behind a place; at most 6 queries."""
    facts = clean_facts(look_up(entries))
    writers: dict[str, dict[str, Write]] = {}
    for install_id, known in facts.items():
        logs = InstallLogs(install_id, InstallSpans(install_id, target.profile, known))
        writers[install_id] = {table.name: logs.of(table) for table in LOG_TABLES}
    yield from _encode(entries, LOG_TABLES, writers, target, after)


def _encode(
    entries: Sequence[EntryRows],
    tables: Sequence[Table],
    writers: dict[str, dict[str, Write]],
    target: Target,
    after: Place | None,
) -> Iterator[Body]:
    making = _Making(target, entries)
    cleaned = {table.name: clean_entries(entries, table) for table in tables}
    for at, entry in enumerate(entries):
        install_id = str(entry.install_id)
        for table_no, table in enumerate(tables):
            rows = cleaned[table.name][at]
            if not rows.raw:
                continue
            if after is not None and (entry.position, table_no) <= after[:2]:
                rows = _behind(rows, entry, table_no, table, after)
            yield from making.add_all(entry, table_no, table, rows, writers[install_id][table.name])
    if making.record_count:
        yield making.body()


def _behind(
    rows: CleanRows, entry: EntryRows, table_no: int, table: Table, after: Place
) -> CleanRows:
    kept = [
        (raw, row)
        for raw, row in zip(rows.raw, rows.rows, strict=True)
        if place_of(entry, table_no, table, raw) > after
    ]
    return CleanRows([raw for raw, _ in kept], [row for _, row in kept])


class _Making:
    """The body that is being filled."""

    def __init__(self, target: Target, entries: Iterable[EntryRows]) -> None:
        self._target = target
        self._installs = resource.read_installs(entry.install_id for entry in entries)
        self._namespace = resource.fleet_id()
        self._resources: dict[tuple[str, Origin], bytes] = {}
        self._clear()

    def _clear(self) -> None:
        self.record_count = 0
        self._size = 0
        self._groups: dict[tuple[str, Origin], list[bytes]] = {}
        self._oldest_at: datetime | None = None
        self._newest_at: datetime | None = None
        self._last: tuple[EntryRows, int, Table, Row] | None = None

    def add_all(
        self, entry: EntryRows, table_no: int, table: Table, rows: CleanRows, write: Write
    ) -> Iterator[Body]:
        """Take rows in; a body whenever one is full."""
        target, install_id = self._target, str(entry.install_id)
        is_run = table is RUNS
        noted: EntryRows | None = None
        for raw, row in zip(rows.raw, rows.rows, strict=True):
            if is_run and raw[_RUN_END] is None:
                continue
            message, origin = write(raw, row)
            size = len(message) + _RECORD_OVERHEAD
            if self.record_count and (
                self.record_count >= target.max_records or self._size + size > target.max_bytes
            ):
                yield self.body()
                noted = None
            key = (install_id, origin)
            group = self._groups.get(key)
            if group is None:
                group = self._groups[key] = []
                size += len(self._resource_of(key)) + _GROUP_OVERHEAD
            group += (_SPAN_TAG, varint(len(message)), message)
            self.record_count += 1
            self._size += size
            self._last = (entry, table_no, table, raw)
            if entry is not noted:
                self._note_time(entry.received_at)
                noted = entry

    def _note_time(self, received_at: datetime) -> None:
        self._oldest_at = min(self._oldest_at or received_at, received_at)
        self._newest_at = max(self._newest_at or received_at, received_at)

    def body(self) -> Body:
        """What was taken in, as a body; the next one begins."""
        assert self._last and self._oldest_at and self._newest_at  # noqa: S101, PT018 -- there is a record
        profile = self._target.profile
        data = b"".join(
            resource.envelope(self._resource_of(key), profile, records)
            for key, records in self._groups.items()
        )
        made = Body(
            data, self.record_count, self._oldest_at, self._newest_at, place_of(*self._last)
        )
        self._clear()
        return made

    def _resource_of(self, key: tuple[str, Origin]) -> bytes:
        found = self._resources.get(key)
        if found is None:
            install_id, (agent_version, profile_id) = key
            said = resource.resource_of(
                install_id,
                self._installs.get(install_id, resource.InstallDetails()),
                namespace=self._namespace,
                agent_version=agent_version,
                profile_id=profile_id,
                shows_hosts=self._target.shows_hosts,
            )
            found = self._resources[key] = resource.resource_field(said)
        return found


_TIMES: Final = {
    table.name: table.column_names().index(table.time) for table in (*TRACE_TABLES, *LOG_TABLES)
}
