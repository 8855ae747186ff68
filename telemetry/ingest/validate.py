"""Lines to typed rows: each line is accepted, or refused with a code and its column.

Two ways that give the same verdicts. The fast one decodes the whole batch in one C call, into
structs generated from ``contract.tables``; it takes only bytes in which the traps cannot hide (see
``_is_plain``). Anything else goes line by line through the careful one, which names the fault.
"""

from __future__ import annotations

import functools
import json
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Final, NoReturn

import msgspec

from agent_client.contract import tables, wire
from agent_client.contract.events import EVENT_TYPES, fault_of
from agent_client.contract.tables import Column, Table
from telemetry.ingest.decode import split_lines
from telemetry.ingest.otlp_traces import TraceFacts
from telemetry.store.content import Content
from telemetry.store.copy import Row
from telemetry.store.pack import Value
from telemetry.store.summaries import Summary

SEQ: Final = Column("seq", "time", required=True)
"""The agent's row counter; its bounds are those of a signed 64-bit integer."""
TOO_BIG: Final = 2**70
"""Stands for an integer that is not worth parsing: outside every bound."""
KINDS_OF_PLANE: Final[Mapping[str, Mapping[str, Table]]] = {
    "local": tables.BY_NAME,
    "trajectories": {},
}
"""The tables whose rows a plane may carry: one that comes in under another plane's consent is
refused. The aggregate plane's records are no rows of a table: see ``summaries``."""
_QUOTED: Final = re.compile(rb'"(?:[^"\\]|\\.)*"?', re.DOTALL)
"""A string, or the rest of the line: were its end asked for, each of a million escaped quotes in a
string that never ends would be looked at to the end of the line."""


@dataclass(frozen=True, slots=True)
class TimeBounds:
    """Accepted times: rows begin in ``[oldest_ns, newest_ns]``, nothing is later than that."""

    oldest_ns: int
    newest_ns: int


@dataclass(frozen=True, slots=True)
class Refused:
    """One refused line; ``raw`` is what came and goes nowhere before it is scrubbed."""

    line: int
    code: str
    detail: str
    raw: bytes


@dataclass(frozen=True, slots=True)
class Verdicts:
    """received = number of all rows, summaries and traces + number of refused."""

    """received = number of all rows, summaries and items of content + number of refused."""

    received: int
    rows: dict[str, list[Row]] = field(default_factory=dict)
    refused: list[Refused] = field(default_factory=list)
    summaries: list[Summary] = field(default_factory=list)
    traces: dict[str, TraceFacts] = field(default_factory=dict)
    content: Content | None = None


class LineFault(Exception):
    """One line is refused: ``code`` is of wire.LINE_CODES, ``detail`` a column, never a value."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(code)
        self.code = code
        self.detail = detail


def validate_body(data: bytes, bounds: TimeBounds, *, plane: str = "local") -> Verdicts:
    """A verdict on each line of a body, as ``validate_lines`` would give it.

    A body that is beyond doubt as a whole is never cut into lines.
    Errors: IngestError too_many_lines.
    """
    if KINDS_OF_PLANE[plane]:
        content = data[:-1] if data.endswith(b"\n") else data
        rows = _take_all(content, content.count(b"\n") + 1, bounds)
        if rows is not None:
            return Verdicts(sum(map(len, rows.values())), rows)
    return validate_lines(split_lines(data), bounds, plane=plane)


def validate_lines(
    lines: Sequence[tuple[int, bytes]],
    bounds: TimeBounds,
    *,
    plane: str = "local",
    line_bytes: int = wire.MAX_LINE_BYTES,
) -> Verdicts:
    """A verdict on each line; never raises, whatever the bytes are."""
    kinds = KINDS_OF_PLANE[plane]
    if kinds:
        taken = _take_all(b"\n".join(line for _, line in lines), len(lines), bounds)
        if taken is not None:
            return Verdicts(len(lines), taken)
    rows: dict[str, list[Row]] = {name: [] for name in tables.BY_NAME}
    refused: list[Refused] = []
    for number, line in lines:
        found = _take_all(line, 1, bounds) if kinds else None
        if found is not None:
            for name, more in found.items():
                rows[name] += more
            continue
        try:
            table, row = _careful(line, kinds, bounds, line_bytes)
        except LineFault as fault:
            refused.append(Refused(number, fault.code, fault.detail, line))
        else:
            rows[table.name].append(row)
    return Verdicts(len(lines), rows, refused)


# ------------------------------------------------------------------------------- the fast way


def _struct_of(table: Table) -> type[msgspec.Struct]:
    """A struct with every column required, so that the number of keys proves there is no more."""
    specs = [(column.name, _annotation(column)) for column in (*table.columns, SEQ)]
    return msgspec.defstruct(
        f"Line_{table.name}", specs, tag_field="_kind", tag=table.name, gc=False
    )


def _annotation(column: Column) -> object:
    kind: object
    if column.max_chars:
        least = 1 if column.required else 0
        kind = Annotated[str, msgspec.Meta(min_length=least, max_length=column.max_chars)]
    elif column.kind == "flag":
        kind = bool
    elif column.kind in {"ms", "usd"}:
        bound = tables.MS_MAX if column.kind == "ms" else tables.USD_MAX
        kind = Annotated[float, msgspec.Meta(ge=0, le=bound)]
    else:
        most = tables.TIME_MAX_NS if column.kind == "time" else tables.COUNT_MAX
        kind = Annotated[int, msgspec.Meta(ge=0, le=most)]
    return kind if column.required else kind | None


@dataclass(frozen=True, slots=True)
class _Shape:
    """What the loops need of a table, looked up once."""

    table: Table
    key_count: int
    time_at: int
    other_times: tuple[int, ...]
    defaults: tuple[Value, ...]


def _shape_of(table: Table) -> _Shape:
    names = table.column_names()
    event = EVENT_TYPES[table.event]
    spec = event.__dataclass_fields__
    return _Shape(
        table=table,
        key_count=len(names) + 2,
        time_at=names.index(table.time),
        other_times=tuple(
            at
            for at, column in enumerate(table.columns)
            if column.kind == "time" and column.name != table.time
        ),
        defaults=tuple(
            None if column.required else _plain_default(spec[column.name].default)
            for column in table.columns
        ),
    )


def _plain_default(default: object) -> Value:
    assert default is None or isinstance(default, str | int | float)  # noqa: S101 -- as the contract has it
    return default


_SHAPES: Final = {table.name: _shape_of(table) for table in tables.EVENT_TABLES}
_STRUCTS: Final = {_struct_of(shape.table): shape for shape in _SHAPES.values()}
_DECODER: Final[msgspec.json.Decoder[msgspec.Struct]] = msgspec.json.Decoder(
    functools.reduce(operator.or_, _STRUCTS)
)


def _is_plain(data: bytes, line_count: int) -> bool:
    """Whether the keys of all lines can be counted by the two bytes quote and colon.

    Without a backslash every quote opens or closes a string, and without a blank behind it the
    quote that closes a key stands before its colon. Lines begin and end with a brace, and no
    line's end lies within an object: after a closing brace JSON has an opening one only where a
    new value begins.
    """
    return (
        b"\\" not in data
        and b"\t" not in data
        and b"\r" not in data
        and (b" " not in data or b'" ' not in data)
        and data[:1] == b"{"
        and data[-1:] == b"}"
        and data.count(b"}\n{") == line_count - 1
    )


def _take_all(data: bytes, line_count: int, bounds: TimeBounds) -> dict[str, list[Row]] | None:
    """The rows of all lines by table, or None when any is not beyond doubt.

    ``line_count`` is one more than the ends of lines in ``data``.
    """
    if line_count > wire.MAX_LINES or not _is_plain(data, line_count):
        return None
    try:
        items = _DECODER.decode_lines(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    taken: dict[type[msgspec.Struct], list[Row]] = {struct: [] for struct in _STRUCTS}
    add_to = {struct: rows.append for struct, rows in taken.items()}
    as_row = msgspec.structs.astuple
    for item in items:
        add_to[type(item)](as_row(item))
    key_count = sum(_STRUCTS[struct].key_count * len(found) for struct, found in taken.items())
    # Each line has every key at least once; with this total it has each exactly once, and no
    # other: nothing unknown, nothing nested, nothing twice.
    if len(items) != line_count or data.count(b'":') != key_count:
        return None
    if not all(_are_timely(_STRUCTS[struct], found, bounds) for struct, found in taken.items()):
        return None
    return {_STRUCTS[struct].table.name: found for struct, found in taken.items()}


def _are_timely(shape: _Shape, rows: Sequence[Row], bounds: TimeBounds) -> bool:
    """Whether no row has a fault of time, found column by column."""
    if not rows:
        return True
    times_ns = [row[shape.time_at] for row in rows]
    latest_ns = [max(times_ns)]  # type: ignore[type-var]  # required: all are int
    for at in shape.other_times:
        latest_ns += filter(None, [row[at] for row in rows])
    return min(times_ns) >= bounds.oldest_ns and max(latest_ns) <= bounds.newest_ns  # type: ignore[type-var,operator]  # the same


def time_fault(table: Table, row: Row, bounds: TimeBounds) -> tuple[str, str] | None:
    """Code and column of the first time of a row that is not accepted, wherever it came from."""
    return _time_fault(_SHAPES[table.name], row, bounds)


def _time_fault(shape: _Shape, row: Row, bounds: TimeBounds) -> tuple[str, str] | None:
    """Code and column of the first time that is out of bounds."""
    time_ns = row[shape.time_at]
    if time_ns > bounds.newest_ns:  # type: ignore[operator]  # a required column
        return "time_in_future", shape.table.time
    if time_ns < bounds.oldest_ns:  # type: ignore[operator]  # a required column
        return "time_too_old", shape.table.time
    for at in shape.other_times:
        other_ns = row[at]
        if other_ns is not None and other_ns > bounds.newest_ns:  # type: ignore[operator]  # checked
            return "time_in_future", shape.table.columns[at].name
    return None


# ---------------------------------------------------------------------------- the careful way


def _careful(
    line: bytes, kinds: Mapping[str, Table], bounds: TimeBounds, line_bytes: int
) -> tuple[Table, Row]:
    """Table and row of a line. Errors: LineFault."""
    record = read_record(line, line_bytes)
    kind = record.get("_kind")
    table = kinds.get(kind) if isinstance(kind, str) else None
    if table is None:
        raise LineFault("unknown_kind")
    shape = _SHAPES[table.name]
    row = tuple(
        _value_of(column, record, default)
        for column, default in zip((*table.columns, SEQ), (*shape.defaults, None), strict=True)
    )
    fault = _time_fault(shape, row, bounds)
    if fault:
        raise LineFault(*fault)
    return table, row


def read_record(line: bytes, line_bytes: int = wire.MAX_LINE_BYTES) -> dict[str, object]:
    """The JSON object of a line, no key twice, bounded in size and depth. Errors: LineFault."""
    if len(line) > line_bytes:
        raise LineFault("line_too_long")
    if _depth_of(line) > wire.MAX_DEPTH:
        raise LineFault("too_deep")
    return _parse(line)


def _depth_of(line: bytes) -> int:
    """How deep brackets nest outside of strings, no further than to the limit; exact for JSON."""
    if line.count(b"{") + line.count(b"[") <= wire.MAX_DEPTH:
        return 0
    depth = deepest = 0
    for byte in _QUOTED.sub(b"", line):
        if byte in b"{[":
            depth += 1
            deepest = max(deepest, depth)
            if deepest > wire.MAX_DEPTH:
                break
        elif byte in b"}]":
            depth -= 1
    return deepest


def _parse(line: bytes) -> dict[str, object]:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        raise LineFault("invalid_text", "not UTF-8") from None
    try:
        record = json.loads(
            text,
            object_pairs_hook=_no_repeats,
            parse_constant=_no_constant,
            parse_int=lambda digits: int(digits) if len(digits) <= 20 else TOO_BIG,
        )
    except (ValueError, RecursionError):
        raise LineFault("malformed_line") from None
    if not isinstance(record, dict):
        raise LineFault("malformed_line", "not an object")
    return record


def _no_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    record = dict(pairs)
    if len(record) != len(pairs):
        raise LineFault("malformed_line", "a key stands twice")
    return record


def _no_constant(name: str) -> NoReturn:
    raise LineFault("malformed_line", f"{name} is not JSON")


def _value_of(column: Column, record: Mapping[str, object], default: Value) -> Value:
    """The column's value in its storage type. Errors: LineFault."""
    if column.name not in record and not column.required:
        return default
    value = record.get(column.name)
    code = fault_of(column, value)
    if code:
        raise LineFault(code, column.name)
    if value is None:
        return None
    if isinstance(value, str):
        if "\x00" in value or not _is_encodable(value):
            raise LineFault("invalid_text", column.name)
        return value
    if column.kind == "flag":
        return bool(value)
    assert isinstance(value, (int, float))  # noqa: S101 -- fault_of let nothing else pass
    return float(value) if column.kind in {"ms", "usd"} else int(value)


def _is_encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
