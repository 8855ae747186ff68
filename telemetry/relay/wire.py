"""OTLP's protobuf written by hand: pieces of bytes that are made once and joined.

The names, models and enumerations of a fleet repeat for ever, so nearly all of a span is bytes that
were made before. Ten times as fast as the protobuf library with ``.add()``; a test holds what it
reads of our bytes against what the agent's encoder and the SDK write.
Source: protobuf encoding; opentelemetry-proto 1.7 for the numbers of fields.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from typing import Any, Final

from agent_client.contract.otlp_names import AttributeValue

SPAN_ATTRIBUTE: Final = b"\x4a"
"""``Span.attributes``: field 9."""
LOG_ATTRIBUTE: Final = b"\x32"
"""``LogRecord.attributes``: field 6."""
EVENT_ATTRIBUTE: Final = b"\x1a"
"""``Span.Event.attributes`` and ``InstrumentationScope.attributes``: field 3."""
RESOURCE_ATTRIBUTE: Final = b"\x0a"
"""``Resource.attributes``: field 1."""
POINT_ATTRIBUTE: Final = b"\x3a"
"""``NumberDataPoint.attributes``: field 7; a histogram's are field 9."""

REMEMBERED: Final = 8_192
"""Values of one attribute; a hostile stream of new ones only empties the memory early."""
REMEMBERED_BYTES: Final = 512
_SHORT: Final = 128
_UINT64: Final = 2**64 - 1
_pack_double: Final = struct.Struct("<d").pack


def _varint(value: int) -> bytes:
    made = bytearray()
    value &= _UINT64
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)


_VARINTS: Final = tuple(_varint(value) for value in range(16_384))


def varint(value: int) -> bytes:
    """A number; a negative one as the 64 bits that stand for it."""
    return _VARINTS[value] if 0 <= value < 16_384 else _varint(value)


def delimited(tag: bytes, data: bytes) -> bytes:
    """A field of bytes, text or a message."""
    return tag + varint(len(data)) + data


def text_of(value: str) -> bytes:
    """UTF-8; half of a surrogate pair, which no UTF-8 can spell, becomes a question mark."""
    return value.encode("utf-8", "replace")


def _pair(tag: bytes, key: bytes, value: bytes) -> bytes:
    return delimited(tag, delimited(b"\x0a", key) + delimited(b"\x12", value))


def _any_value(value: AttributeValue) -> bytes:
    if isinstance(value, str):
        return delimited(b"\x0a", text_of(value))
    if isinstance(value, bool):  # before int: a bool is one
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, int):
        return b"\x18" + varint(value)
    if isinstance(value, float):
        return b"\x21" + _pack_double(value)
    items = b"".join(delimited(b"\x0a", delimited(b"\x0a", text_of(item))) for item in value)
    return delimited(b"\x2a", items)


def attribute(tag: bytes, key: str, value: AttributeValue) -> bytes:
    """One attribute, of whatever type; a number that is none is left out."""
    if isinstance(value, float) and not math.isfinite(value):
        return b""
    return _pair(tag, text_of(key), _any_value(value))


def attributes(tag: bytes, values: Mapping[str, AttributeValue]) -> bytes:
    """Attributes, in their order."""
    return b"".join(attribute(tag, key, value) for key, value in values.items())


class Texts(dict[str | None, bytes]):
    """An attribute's bytes by its text, made when asked for; of None, nothing."""

    def __init__(self, key: str, tag: bytes = SPAN_ATTRIBUTE) -> None:
        self._key, self._tag = key, tag
        self[None] = b""

    def __missing__(self, value: str | None) -> bytes:
        made = attribute(self._tag, self._key, value or "")
        return _keep(self, value, made)


class Numbers(dict[int | None, bytes]):
    """An attribute's bytes by its whole number; of None, nothing."""

    def __init__(self, key: str, tag: bytes = SPAN_ATTRIBUTE) -> None:
        self._key, self._tag = key, tag
        self[None] = b""

    def __missing__(self, value: int | None) -> bytes:
        made = attribute(self._tag, self._key, int(value or 0))
        return _keep(self, value, made)


def _keep(into: dict[Any, bytes], value: object, made: bytes) -> bytes:
    if len(made) <= REMEMBERED_BYTES:
        if len(into) >= REMEMBERED:
            into.clear()
            into[None] = b""
        into[value] = made
    return made


def unique_text(key: str, tag: bytes = SPAN_ATTRIBUTE) -> Callable[[str], bytes]:
    """Writes an attribute whose texts hardly come again: all but the text is made before."""
    name = text_of(key)
    heads = [_pair(tag, name, _any_value("x" * size))[: -size or None] for size in range(_SHORT)]

    def write(value: str) -> bytes:
        data = value.encode("utf-8", "replace")
        if len(data) < _SHORT:
            return heads[len(data)] + data
        return attribute(tag, key, value)

    return write


def double(key: str, tag: bytes = SPAN_ATTRIBUTE) -> Callable[[float], bytes]:
    """Writes an attribute that is a fraction; one that is no number is left out."""
    head = _pair(tag, text_of(key), _any_value(1.5))[:-8]

    def write(value: float) -> bytes:
        return head + _pack_double(value) if math.isfinite(value) else b""

    return write
