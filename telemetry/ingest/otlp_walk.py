"""The envelopes of OTLP requests walked by hand: elements by their offsets, nothing built of them.

A request of 64 MiB may hold thirty million empty elements, which a parser would make into
gigabytes of objects. Walked, it costs offsets, and only one span at a time is parsed; so a span
that cannot be read is also refused alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from agent_client.contract import wire
from telemetry.ingest.decode import IngestError

MAX_ELEMENTS: Final = 4 * wire.MAX_LINES
"""Elements of one envelope, empty ones included: a walk of millions would hold a worker."""
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_BLANK: Final = re.compile(rb"[ \t\r\n]*+")
_KEY: Final = re.compile(rb'[ \t\r\n]*+"([^"\\]*+)"[ \t\r\n]*+:[ \t\r\n]*+')
_STRING: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_SCALAR: Final = re.compile(_STRING + rb"|true|false|null|-?[0-9][0-9.eE+-]*+", re.DOTALL)
_TOKEN: Final = re.compile(_STRING + rb"?|[\[\]{}]", re.DOTALL)
"""A bracket, or a string, or what is left of the document when one never ends: were its end asked
for, each of a million escaped quotes in such a string would be looked at to the document's end."""


class _Counted:
    """Counts the elements that were walked."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._element_count = 0

    def _count(self) -> None:
        self._element_count += 1
        if self._element_count > MAX_ELEMENTS:
            raise IngestError("too_many_lines", f"more than {MAX_ELEMENTS} elements")

    def _malformed(self) -> IngestError:
        return IngestError("malformed_body", f"not an OTLP request in {self._what}")


class ProtobufWalk(_Counted):
    """Length-delimited elements of nested messages. Errors: IngestError."""

    def __init__(self, data: bytes) -> None:
        super().__init__("protobuf")
        self._data = data

    def nested(self, *fields: int) -> Iterator[tuple[int, int]]:
        """Where each element at the end of a path of fields begins and ends."""
        return self._below(0, len(self._data), fields)

    def _below(self, start: int, end: int, fields: tuple[int, ...]) -> Iterator[tuple[int, int]]:
        for found in self.elements(start, end, fields[0]):
            if len(fields) == 1:
                yield found
            else:
                yield from self._below(*found, fields[1:])

    def elements(self, start: int, end: int, wanted: int) -> Iterator[tuple[int, int]]:
        """Where each element of one field of a message begins and ends."""
        at, data = start, self._data
        while at < end:
            tag = data[at]
            if tag < 0x80:  # most by far, and a call costs more than to look
                at += 1
            else:
                tag, at = self._varint(at, end)
            kind = tag & 7
            begin = at
            if kind == _LENGTH:
                size, begin = self._varint(at, end)
                at = begin + size
            elif kind == _VARINT:
                _, at = self._varint(at, end)
            elif kind in {_FIXED64, _FIXED32}:
                at += 8 if kind == _FIXED64 else 4
            else:
                raise self._malformed()
            self._count()
            if at > end:
                raise self._malformed()
            if tag >> 3 == wanted:
                if kind != _LENGTH:
                    raise self._malformed()
                yield begin, at

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        data, value, shift = self._data, 0, 0
        while at < end and shift < 64:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
            shift += 7
        raise self._malformed()


class JsonWalk(_Counted):
    """A cursor in a JSON document: whoever iterates steps into a value, or it is skipped.

    What is skipped is only followed to its end; whoever takes a slice has it checked by a parser.
    Errors: IngestError, also for an object with one key twice: what the first held would be lost.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__("JSON")
        self._data = data
        self._at = 0
        self._blank()

    def members(self) -> Iterator[str]:
        """The keys of the object here, in turn; nothing for null."""
        if self._take_null():
            return
        self._expect(b"{")
        seen: set[str] = set()
        while not (not seen and self._take(b"}")):
            key = _KEY.match(self._data, self._at)
            if key is None:
                raise self._malformed()
            name = key[1].decode("utf-8", "replace")
            if name in seen:
                raise IngestError("malformed_body", "a key stands twice in the envelope")
            seen.add(name)
            self._at = start = key.end()
            self._count()
            yield name
            if self._at == start:
                self.skip()
            if not self._take(b","):
                self._expect(b"}")
                return

    def items(self) -> Iterator[None]:
        """Stands before each element of the array here, in turn; nothing for null."""
        if self._take_null():
            return
        self._expect(b"[")
        is_first = True
        while not (is_first and self._take(b"]")):
            is_first = False
            start = self._at
            self._count()
            yield
            if self._at == start:
                self.skip()
            if not self._take(b","):
                self._expect(b"]")
                return

    def skip(self) -> bytes:
        """The value here, as it stands there; the cursor is behind it."""
        start = self._at
        if self._data[start : start + 1] not in {b"{", b"["}:
            scalar = _SCALAR.match(self._data, start)
            if scalar is None:
                raise self._malformed()
            end = scalar.end()
        else:
            end = self._end_of_nest(start)
        self._at = end
        self._blank()
        return self._data[start:end]

    def end(self) -> None:
        """Nothing may stand behind the document."""
        if self._at != len(self._data):
            raise self._malformed()

    def _end_of_nest(self, start: int) -> int:
        depth = 0
        for token in _TOKEN.finditer(self._data, start):
            kind = token[0]
            if kind in {b"{", b"["}:
                depth += 1
            elif kind in {b"}", b"]"}:
                depth -= 1
                if not depth:
                    return token.end()
        raise self._malformed()

    def _blank(self) -> None:
        blank = _BLANK.match(self._data, self._at)
        if blank is not None:
            self._at = blank.end()

    def _take(self, byte: bytes) -> bool:
        if self._data[self._at : self._at + 1] != byte:
            return False
        self._at += 1
        self._blank()
        return True

    def _take_null(self) -> bool:
        if self._data[self._at : self._at + 4] != b"null":
            return False
        self._at += 4
        self._blank()
        return True

    def _expect(self, byte: bytes) -> None:
        if not self._take(byte):
            raise self._malformed()
