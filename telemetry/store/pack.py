"""pack(): the columns of one table of a batch as the bytes that binary COPY reads.

psycopg's own writer asks a dumper for every value of every row. Here a column is looked at once:
what is the same in every row becomes a constant, numbers and texts of one length go through one
compiled ``struct`` a row, and texts that repeat are encoded once. All loops over rows are C's.

Source: PostgreSQL, "COPY", Binary Format: a header, then per tuple a 16-bit count of fields and
per field a 32-bit length (-1: NULL) with its bytes, all big-endian; a count of -1 ends it.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain, repeat
from typing import Final, Literal
from uuid import UUID

from fleet.lib.clock import datetime_to_ns

type Value = str | int | float | bool | None
type Values = Sequence[Value]
"""One column: a value for each row."""
type Kind = Literal["text", "int8", "float8", "bool"]
"""How PostgreSQL stores a column."""

_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER: Final = b"\xff\xff"
_NULL: Final = b"\xff\xff\xff\xff"
_EIGHT: Final = b"\0\0\0\x08"
_EPOCH_2000_US: Final = 946_684_800_000_000
"""PostgreSQL counts time in microseconds since 2000-01-01 UTC."""
_INT8: Final = struct.Struct(">iq")
_FLOAT8: Final = struct.Struct(">id")
_LENGTH: Final = struct.Struct(">i")
_FLAGS: Final = {None: _NULL, False: b"\0\0\0\x01\0", True: b"\0\0\0\x01\x01"}


def uuid_field(value: UUID) -> bytes:
    """A uuid with its length."""
    return _LENGTH.pack(16) + value.bytes


def time_field(moment: datetime) -> bytes:
    """A timestamptz with its length."""
    return _INT8.pack(8, datetime_to_ns(moment) // 1000 - _EPOCH_2000_US)


def int_field(value: int) -> bytes:
    """An int8 with its length."""
    return _INT8.pack(8, value)


@dataclass(slots=True)
class Packer:
    """Takes a table's columns one by one, in storage order, and gives the rows' bytes.

    Shape: every column added has ``row_count`` values; ``row_count`` is at least 1.
    """

    row_count: int
    column_count: int
    _parts: list[Iterable[bytes]] = field(default_factory=list)
    _constant: bytes = b""
    _format: list[str] = field(default_factory=list)
    _arguments: list[Iterable[object]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._constant = struct.pack(">h", self.column_count)

    def add_constant(self, field_bytes: bytes) -> None:
        """The same field, length included, in every row."""
        self._constant += field_bytes

    def add(self, kind: Kind, values: Values) -> None:
        """One column."""
        if kind == "text":
            self._add_texts(values)
        elif kind == "bool":
            self._add_fields([_FLAGS[value] for value in values])  # type: ignore[index]  # bool or None
        elif kind == "int8":
            self._add_numbers(values, "q", _INT8)
        else:
            self._add_numbers(values, "d", _FLOAT8)

    def add_times(self, times_ns: Iterable[int]) -> None:
        """A timestamptz column, from nanoseconds since 1970; below a microsecond they are cut."""
        microseconds = [time_ns // 1000 - _EPOCH_2000_US for time_ns in times_ns]
        self._add_packed(_EIGHT, "q", microseconds)

    def data(self) -> bytes:
        """Everything that was added, as one COPY stream."""
        self._close_run()
        if self._constant:
            self._parts.append(repeat(self._constant, self.row_count))
            self._constant = b""
        rows = chain.from_iterable(zip(*self._parts, strict=True))
        return b"".join((_HEADER, *rows, _TRAILER))

    def _add_texts(self, values: Values) -> None:
        first = values[0]
        if first == values[-1] and values.count(first) == self.row_count:
            self.add_constant(_text_field(first))
            return
        if None not in values:
            encoded = list(map(str.encode, values))  # type: ignore[arg-type]  # texts, all of them
            sizes = set(map(len, encoded))
            if len(sizes) == 1:
                size = sizes.pop()
                self._add_packed(_LENGTH.pack(size), f"{size}s", encoded)
                return
        fields = {value: _text_field(value) for value in set(values)}
        self._add_fields(list(map(fields.__getitem__, values)))

    def _add_numbers(self, values: Values, code: str, packed: struct.Struct) -> None:
        # Equality is no test here: 0.0 == -0.0 and 1 == True.
        kinds = set(map(type, values))
        if kinds == {type(None)}:
            self.add_constant(_NULL)
        elif type(None) not in kinds:
            self._add_packed(_EIGHT, code, values)
        else:
            pack = packed.pack
            self._add_fields([_NULL if value is None else pack(8, value) for value in values])

    def _add_packed(self, length: bytes, code: str, values: Iterable[object]) -> None:
        """Fields of one size: they join the run of such fields, with what is constant before."""
        prefix = self._constant + length
        self._constant = b""
        self._format += (f"{len(prefix)}s", code)
        self._arguments += (repeat(prefix), values)

    def _add_fields(self, fields: Sequence[bytes]) -> None:
        """Fields of several sizes: they end the run."""
        self._close_run()
        if self._constant:
            self._parts.append(repeat(self._constant, self.row_count))
            self._constant = b""
        self._parts.append(fields)

    def _close_run(self) -> None:
        if not self._format:
            return
        if self._constant:
            self._format.append(f"{len(self._constant)}s")
            self._arguments.append(repeat(self._constant))
            self._constant = b""
        pack = _compiled(">" + "".join(self._format)).pack
        self._parts.append(list(map(pack, *self._arguments)))
        self._format, self._arguments = [], []


def _text_field(value: Value) -> bytes:
    if value is None:
        return _NULL
    encoded = str(value).encode()
    return _LENGTH.pack(len(encoded)) + encoded


@functools.lru_cache(maxsize=1024)
def _compiled(layout: str) -> struct.Struct:
    """Layouts repeat: they follow which columns are NULL and how long ids are."""
    return struct.Struct(layout)
