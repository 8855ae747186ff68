"""ExportTraceServiceRequest in protobuf to spans, one span at a time.

Source: opentelemetry-proto 1.x, trace_service.proto and trace.proto; protobuf's wire format.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource as ResourceMessage
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from agent_client.contract import wire
from telemetry.ingest.decode import IngestError
from telemetry.ingest.otlp_names import HERMES_ATTRIBUTES, HERMES_EVENT, KNOWN, RESOURCE_NAMES
from telemetry.ingest.otlp_spans import (
    MAX_ATTRIBUTES,
    MAX_EVENTS,
    MAX_SPAN_BYTES,
    Attribute,
    Decoded,
    OtlpSpan,
    SpanEvent,
)
from telemetry.ingest.otlp_walk import ProtobufWalk
from telemetry.ingest.validate import Refused

if TYPE_CHECKING:
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue

type _Entry = tuple[str, bool, Attribute] | tuple[()]
"""What an attribute says: the name it is kept under, whether that is the name it came with, and
its value; nothing when it is not kept."""

_PLAIN: Final = frozenset({"bool_value", "double_value", "int_value", "string_value"})
_RESOURCE_SPANS: Final = 1
_RESOURCE: Final = 1
_SCOPE_SPANS: Final = 2
_SPANS: Final = 2
_ERROR: Final = Status.STATUS_CODE_ERROR
_REFUSED_RAW: Final = b"(a span that is no protobuf message)"
_ATTRIBUTES: Final = 9
_KEY_TAG, _VALUE_TAG = 0x0A, 0x12
_STRING_TAG, _INT_TAG, _DOUBLE_TAG = 0x0A, 0x18, 0x21
_LONG: Final = 0x80
"""Lengths and integers from here on take more than one byte."""
_KNOWN_KEYS: Final = {name.encode(): (kept, kept == name) for name, kept in KNOWN.items()}
_DOUBLE_FORM: Final = struct.Struct("<d")


def decode_protobuf(data: bytes, *, max_spans: int = wire.MAX_LINES) -> Decoded:
    """The spans of a request.

    Errors: IngestError malformed_body for an envelope that is no protobuf, too_many_lines.
    """
    walk = ProtobufWalk(data)
    decoded = Decoded()
    for start, end in walk.elements(0, len(data), _RESOURCE_SPANS):
        slices = [
            span
            for scope in walk.elements(start, end, _SCOPE_SPANS)
            for span in walk.elements(*scope, _SPANS)
        ]
        if decoded.received + len(slices) > max_spans:
            raise IngestError("too_many_lines", f"more than {max_spans} spans")
        if slices:
            _take(data, slices, _resource(walk, data, start, end), decoded)
    return decoded


def _malformed() -> IngestError:
    return IngestError("malformed_body", "not an ExportTraceServiceRequest in protobuf")


def _resource(walk: ProtobufWalk, data: bytes, start: int, end: int) -> Mapping[str, Attribute]:
    """What of the resource is known; a field that stands twice is one, as protobuf merges."""
    parts = list(walk.elements(start, end, _RESOURCE))
    if sum(stop - begin for begin, stop in parts) > MAX_SPAN_BYTES:
        raise IngestError("malformed_body", f"a resource of more than {MAX_SPAN_BYTES} bytes")
    try:
        message = ResourceMessage.FromString(b"".join(data[begin:stop] for begin, stop in parts))
    except DecodeError:
        raise _malformed() from None
    return _known(message.attributes, RESOURCE_NAMES)


def _take(
    data: bytes,
    slices: Iterable[tuple[int, int]],
    resource: Mapping[str, Attribute],
    decoded: Decoded,
) -> None:
    seen: dict[bytes, _Entry] = {}
    for start, end in slices:
        decoded.received += 1
        number = decoded.received
        if end - start > MAX_SPAN_BYTES:
            decoded.refused.append(Refused(number, "line_too_long", "span", _REFUSED_RAW))
            continue
        raw = data[start:end]
        try:
            message = SpanMessage.FromString(raw)
        except DecodeError:
            decoded.refused.append(Refused(number, "malformed_line", "span", _REFUSED_RAW))
            continue
        pairs = _CutSpan.FromString(raw).attributes[:]
        if len(pairs) > MAX_ATTRIBUTES:
            decoded.refused.append(Refused(number, "out_of_range", "attributes", _REFUSED_RAW))
            continue
        attributes = _known_raw(pairs, seen)
        decoded.spans.append(_span(message, number, attributes, resource))


def _span(
    message: SpanMessage,
    number: int,
    attributes: dict[str, Attribute],
    resource: Mapping[str, Attribute],
) -> OtlpSpan:
    is_ours = HERMES_EVENT in attributes
    if is_ours:
        attributes |= _recorded(message.attributes)
    return OtlpSpan(
        number,
        message.trace_id.hex(),
        message.span_id.hex(),
        message.parent_span_id.hex(),
        message.flags,
        message.name,
        message.kind,
        message.start_time_unix_nano,
        message.end_time_unix_nano,
        message.status.code == _ERROR,
        attributes,
        resource,
        # Only our own agent says something in events that rows have a place for.
        _events(message) if is_ours else (),
    )


def _events(message: SpanMessage) -> tuple[SpanEvent, ...]:
    return tuple(
        SpanEvent(event.name, event.time_unix_nano, _known(event.attributes, KNOWN))
        for event in message.events[:MAX_EVENTS]
    )


def _cut_span_class() -> Any:  # noqa: ANN401 -- a class that is made here has no stub
    """A message that takes a span's attributes as they stand, each as its bytes.

    The span was parsed before, which has checked them; to ask every pair for its key and its value
    costs several times as much as to look at its bytes.
    """
    file = FileDescriptorProto(name="fleet/cut_span.proto", package="fleet", syntax="proto3")
    file.message_type.add(name="CutSpan").field.add(
        name="attributes",
        number=_ATTRIBUTES,
        type=FieldDescriptorProto.TYPE_BYTES,
        label=FieldDescriptorProto.LABEL_REPEATED,
    )
    pool = DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return GetMessageClass(pool.FindMessageTypeByName("fleet.CutSpan"))


_CutSpan: Final = _cut_span_class()


def _known_raw(pairs: Iterable[bytes], seen: dict[bytes, _Entry]) -> dict[str, Attribute]:
    """``_known`` for the attributes of a span as bytes.

    ``seen``: those of the request so far; most stand in it many times, and each is read once.
    """
    found: dict[str, Attribute] = {}
    look = seen.get
    for pair in pairs:
        entry = look(pair)
        if entry is None:
            entry = seen[pair] = _entry(pair)
        if entry:
            kept, is_newest, value = entry
            if is_newest or kept not in found:
                found[kept] = value
    return found


def _entry(pair: bytes) -> _Entry:
    """What an attribute says, looked at in the form that all senders write.

    That form is: key, then value, all of it shorter than 128 bytes and nothing behind them; the
    value a text or a number that fills it. Whatever else there is, the parser reads.
    """
    size = len(pair)
    if 4 < size < _LONG and pair[0] == _KEY_TAG:
        at = pair[1] + 2  # where the value begins: its tag, its length
        if at + 2 < size and pair[at] == _VALUE_TAG and pair[at + 1] == size - at - 2:
            known = _KNOWN_KEYS.get(pair[2:at])
            if known is None:
                return ()
            short = _short_value(pair[at + 2 :])
            if short is not None:
                return (*known, short)
    message = KeyValue.FromString(pair)
    kept = KNOWN.get(message.key)
    value = None if kept is None else message.value.string_value or _value(message.value)
    return () if kept is None or value is None else (kept, kept == message.key, value)


def _short_value(data: bytes) -> Attribute | None:
    """A value in its usual form; None for any other, which says nothing about what it is."""
    kind, size = data[0], len(data)
    if kind == _STRING_TAG:
        return data[2:].decode() if size > 2 and data[1] == size - 2 else None
    if kind == _INT_TAG:
        if size == 2 and data[1] < _LONG:
            return data[1]
        if size == 3 and data[1] >= _LONG > data[2]:
            return data[1] - _LONG | data[2] << 7
    elif kind == _DOUBLE_TAG and size == 9:
        number: float = _DOUBLE_FORM.unpack_from(data, 1)[0]
        return number
    return None


def _known(pairs: Iterable[KeyValue], names: Mapping[str, str]) -> dict[str, Attribute]:
    """The attributes that are read, under the newest of their names."""
    found: dict[str, Attribute] = {}
    for pair in pairs:
        name = pair.key
        kept = names.get(name)
        if kept is None or (kept in found and kept != name):  # the newest name wins
            continue
        value = pair.value
        # Asked for first: most are texts, and to ask which one it is costs more than to look.
        text = value.string_value
        if text:
            found[kept] = text
        elif (other := _value(value)) is not None:
            found[kept] = other
    return found


def _recorded(pairs: Iterable[KeyValue]) -> dict[str, Attribute]:
    """The attributes that a span of our own agent has in its row, under their whole names."""
    return {
        pair.key: value
        for pair in pairs
        if pair.key.startswith(HERMES_ATTRIBUTES) and (value := _value(pair.value)) is not None
    }


def _value(value: AnyValue) -> Attribute | None:
    number = value.int_value
    if number:
        return number
    kind = value.WhichOneof("value")
    if kind == "array_value" and value.array_value.values:
        first = value.array_value.values[0]
        return first.string_value if first.WhichOneof("value") == "string_value" else None
    if kind in _PLAIN:
        plain: Attribute = getattr(value, kind)
        return plain
    return None
