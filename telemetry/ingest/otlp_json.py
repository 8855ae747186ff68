"""ExportTraceServiceRequest in OTLP/JSON to spans, one span at a time.

Not protobuf's own JSON: ids are hexadecimal, enums are integers, names are lowerCamelCase, 64-bit
integers come as text or as numbers, and unknown fields are ignored. Each span goes through the
careful reader that lines of the wire go through, which bounds its depth and refuses NaN and keys
that stand twice.
Source: opentelemetry.io/docs/specs/otlp, "JSON Protobuf Encoding".
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Final

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
from telemetry.ingest.otlp_walk import JsonWalk
from telemetry.ingest.validate import LineFault, Refused, read_record

_ERROR: Final = 2
_UINT64_MAX: Final = 2**64 - 1
_HEX: Final = re.compile(r"[0-9A-Fa-f]*", re.ASCII)
_DIGITS: Final = re.compile(r"-?[0-9]{1,20}", re.ASCII)
_REFUSED_RAW: Final = b"(a span that is no OTLP/JSON)"


def decode_json(data: bytes, *, max_spans: int = wire.MAX_LINES) -> Decoded:
    """The spans of a request.

    Errors: IngestError malformed_body for an envelope that is no OTLP/JSON, too_many_lines.
    """
    walk = JsonWalk(data)
    decoded = Decoded()
    for name in walk.members():
        if name == "resourceSpans":
            for _ in walk.items():
                _take_group(walk, decoded, max_spans)
    walk.end()
    return decoded


def _take_group(walk: JsonWalk, decoded: Decoded, max_spans: int) -> None:
    """One ResourceSpans; its resource may stand behind its spans."""
    raws: list[bytes] = []
    resource = b"{}"
    for name in walk.members():
        if name == "resource":
            resource = walk.skip()
        elif name == "scopeSpans":
            for _ in walk.items():
                for inner in walk.members():
                    if inner == "spans":
                        raws += (walk.skip() for _ in walk.items())
    if decoded.received + len(raws) > max_spans:
        raise IngestError("too_many_lines", f"more than {max_spans} spans")
    if raws:
        known = _resource(resource)
        for raw in raws:
            _take(raw, known, decoded)


def _resource(raw: bytes) -> Mapping[str, Attribute]:
    if raw == b"null":
        return {}
    try:
        resource = read_record(raw, MAX_SPAN_BYTES)
        return _known(resource.get("attributes"), RESOURCE_NAMES)
    except LineFault as fault:
        raise IngestError("malformed_body", f"a resource: {fault.code}") from None


def _take(raw: bytes, resource: Mapping[str, Attribute], decoded: Decoded) -> None:
    decoded.received += 1
    number = decoded.received
    try:
        decoded.spans.append(_span(read_record(raw, MAX_SPAN_BYTES), number, resource))
    except LineFault as fault:
        detail = fault.detail or "span"
        decoded.refused.append(Refused(number, fault.code, detail, _REFUSED_RAW))


def _span(record: Mapping[str, object], number: int, resource: Mapping[str, Attribute]) -> OtlpSpan:
    """A span. Errors: LineFault wrong_type, invalid_value, out_of_range, invalid_text."""
    attributes = _known(record.get("attributes"), KNOWN)
    if HERMES_EVENT not in attributes:  # names that only our own agent's spans have
        attributes = {k: v for k, v in attributes.items() if not k.startswith(HERMES_ATTRIBUTES)}
    status = record.get("status") or {}
    if not isinstance(status, dict):
        raise LineFault("wrong_type", "status")
    return OtlpSpan(
        number,
        _hex(record, "traceId"),
        _hex(record, "spanId"),
        _hex(record, "parentSpanId"),
        _whole(record.get("flags"), "flags"),
        _text(record.get("name") or "", "name"),
        _whole(record.get("kind"), "kind"),
        _whole(record.get("startTimeUnixNano"), "startTimeUnixNano"),
        _whole(record.get("endTimeUnixNano"), "endTimeUnixNano"),
        _whole(status.get("code"), "status") == _ERROR,
        attributes,
        resource,
        tuple(_events(record.get("events"))) if HERMES_EVENT in attributes else (),
    )


def _hex(record: Mapping[str, object], name: str) -> str:
    value = record.get(name) or ""
    if not isinstance(value, str):
        raise LineFault("wrong_type", name)
    if not _HEX.fullmatch(value):
        raise LineFault("invalid_value", name)
    return value.lower()


def _whole(value: object, name: str) -> int:
    """A 64-bit integer, which comes as text or as a number. Errors: LineFault."""
    if value is None:
        return 0
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise LineFault("wrong_type", name)
    if not -(2**63) <= value <= _UINT64_MAX:
        raise LineFault("out_of_range", name)
    return value


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise LineFault("wrong_type", name)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise LineFault("invalid_text", name) from None
    return value


def _events(value: object) -> Iterator[SpanEvent]:
    if not isinstance(value, list | None):
        raise LineFault("wrong_type", "events")
    for event in (value or [])[:MAX_EVENTS]:
        if not isinstance(event, dict):
            raise LineFault("wrong_type", "events")
        name = _text(event.get("name") or "", "events")
        time_ns = _whole(event.get("timeUnixNano"), "events")
        yield SpanEvent(name, time_ns, _known(event.get("attributes"), KNOWN))


def _known(value: object, names: Mapping[str, str]) -> dict[str, Attribute]:
    """The attributes that are read, under the newest of their names."""
    if not isinstance(value, list | None):
        raise LineFault("wrong_type", "attributes")
    pairs, found = value or [], dict[str, Attribute]()
    if len(pairs) > MAX_ATTRIBUTES:
        raise LineFault("out_of_range", "attributes")
    for pair in pairs:
        name = pair.get("key") if isinstance(pair, dict) else None
        if not isinstance(name, str):
            raise LineFault("wrong_type", "attributes")
        kept = names.get(name) or (name if name.startswith(HERMES_ATTRIBUTES) else None)
        if kept is not None and (kept not in found or kept == name):  # the newest name wins
            # A name that is on no closed list is the sender's word, and goes into no message.
            said = _value(pair.get("value"), name if name in names else "attributes")
            if said is not None:
                found[_text(kept, "attributes")] = said
    return found


def _value(value: object, name: str) -> Attribute | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise LineFault("wrong_type", name)
    if "stringValue" in value:
        return _text(value["stringValue"], name)
    if "intValue" in value:
        return _whole(value["intValue"], name)
    if "doubleValue" in value:
        return _double(value["doubleValue"], name)
    if "boolValue" in value:
        found = value["boolValue"]
        if not isinstance(found, bool):
            raise LineFault("wrong_type", name)
        return found
    array = value.get("arrayValue")
    items = array.get("values") if isinstance(array, dict) else None
    first = items[0] if isinstance(items, list) and items else None
    text = first.get("stringValue") if isinstance(first, dict) else None
    return None if text is None else _text(text, name)


def _double(value: object, name: str) -> float:
    """A number, or one of the texts that stand for what JSON has no number for."""
    if isinstance(value, str):
        if value in {"NaN", "Infinity", "-Infinity"}:
            return math.nan
        try:
            return float(value)
        except ValueError:
            raise LineFault("wrong_type", name) from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise LineFault("wrong_type", name)
    return float(value)
