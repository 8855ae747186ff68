"""OTLP bodies to spans: both encodings give the same, and hostile bytes give a code."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.ingest.decode import IngestError
from telemetry.ingest.otlp_counts import count_logs, count_points
from telemetry.ingest.otlp_json import decode_json
from telemetry.ingest.otlp_protobuf import decode_protobuf
from telemetry.ingest.otlp_spans import Decoded
from telemetry.ingest.otlp_walk import MAX_ELEMENTS
from tests.telemetry import otlp_builders as otlp
from tests.telemetry.builders import recent_ns

ATTRIBUTES: dict[str, object] = {
    "gen_ai.operation.name": "chat",
    "gen_ai.usage.input_tokens": 2**53,
    "gen_ai.response.time_to_first_chunk": 0.25,
    "gen_ai.response.finish_reasons": ["stop", "length"],
    "hermes.event": "span",
    "hermes.retryable": True,
    "hermes.attrs.note": "ü",
    "gen_ai.input.messages": "what a person said",
}
DECODERS = {"protobuf": decode_protobuf, "json": decode_json}


def code_of(data: bytes, encoding: str = "json") -> str:
    with pytest.raises(IngestError) as caught:
        DECODERS[encoding](data)
    return caught.value.code


def span_json(**values: object) -> bytes:
    """A request with one span: what a JSON sender writes, then overrides."""
    document = json.loads(otlp.as_json(otlp.span()))
    document["resourceSpans"][0]["scopeSpans"][0]["spans"][0] |= values
    return json.dumps(document).encode()


def raw_json(span: str) -> bytes:
    return b'{"resourceSpans":[{"scopeSpans":[{"spans":[%s]}]}]}' % span.encode()


def refused(decoded: Decoded) -> list[tuple[int, str, str]]:
    return [(one.line, one.code, one.detail) for one in decoded.refused]


def test_both_encodings_give_the_same_spans() -> None:
    spans = otlp.span(attributes=ATTRIBUTES, is_error=True), otlp.agent(flags=0x301)
    from_protobuf = decode_protobuf(otlp.protobuf(*spans))
    assert from_protobuf == decode_json(otlp.as_json(*spans))
    assert from_protobuf.received == 2


def test_only_known_attributes_get_past_the_decoder() -> None:
    for decoded in (
        decode_protobuf(otlp.protobuf(otlp.span(attributes=ATTRIBUTES))),
        decode_json(otlp.as_json(otlp.span(attributes=ATTRIBUTES))),
    ):
        (span,) = decoded.spans
        assert set(span.attributes) == set(ATTRIBUTES) - {"gen_ai.input.messages"}
        assert span.attributes["gen_ai.response.finish_reasons"] == "stop"


@pytest.mark.parametrize("encoding", ["protobuf", "json"])
def test_names_of_our_own_agents_spans_are_read_of_no_other(encoding: str) -> None:
    make = otlp.protobuf if encoding == "protobuf" else otlp.as_json
    (span,) = DECODERS[encoding](make(otlp.span(attributes={"hermes.attrs.x": "y"}))).spans
    assert span.attributes == {}


@pytest.mark.parametrize("encoding", ["protobuf", "json"])
def test_a_request_without_spans_is_none_and_no_fault(encoding: str) -> None:
    empty = b"" if encoding == "protobuf" else b'{"resourceSpans": []}'
    assert DECODERS[encoding](empty).received == 0


@pytest.mark.parametrize(
    "data",
    [
        b"\xff",
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x0a\x05abc",
        b"\x0b\x0c",
        b"\x08\x01",
        b"<html>",
        b"\x80" * 100,
    ],
)
def test_an_envelope_that_is_no_protobuf_is_malformed(data: bytes) -> None:
    assert code_of(data, "protobuf") == "malformed_body"


def test_a_span_that_is_no_protobuf_is_refused_alone() -> None:
    good = otlp.protobuf(otlp.span())
    bad_span = b"\x0a\x05"  # a trace id that ends before it begins
    scope = b"\x12" + bytes([len(bad_span)]) + bad_span
    group = b"\x12" + bytes([len(scope)]) + scope
    decoded = decode_protobuf(b"\x0a" + bytes([len(group)]) + group + good)
    assert refused(decoded) == [(1, "malformed_line", "span")]
    assert [span.number for span in decoded.spans] == [2]


def test_text_that_is_no_utf_8_refuses_its_span_alone() -> None:
    data = otlp.protobuf(otlp.span(name="chat XX"), otlp.agent()).replace(
        b"chat XX", b"chat \xff\xfe"
    )
    decoded = decode_protobuf(data)
    assert (refused(decoded), len(decoded.spans)) == ([(1, "malformed_line", "span")], 1)


def test_a_resource_that_stands_behind_its_spans_counts_too() -> None:
    made = otlp.request(otlp.span())
    resource = made.resource_spans[0].resource.SerializeToString()
    made.resource_spans[0].ClearField("resource")
    group = made.resource_spans[0].SerializeToString() + b"\x0a" + bytes([len(resource)]) + resource
    assert len(group) > 127
    size = bytes([len(group) & 0x7F | 0x80, len(group) >> 7])
    (span,) = decode_protobuf(b"\x0a" + size + group).spans
    assert span.resource == {"service.name": "bot", "service.version": "1.2"}


@pytest.mark.parametrize("encoding", ["protobuf", "json"])
def test_a_bomb_of_empty_spans_is_refused_before_it_is_built(encoding: str) -> None:
    count = MAX_ELEMENTS + 1
    if encoding == "json":
        data = raw_json(",".join(["{}"] * count))
    else:
        scope = b"\x12\x00" * count
        data = b"".join([b"\x12", _varint(len(scope)), scope])
        data = b"".join([b"\x0a", _varint(len(data)), data])
    assert code_of(data, encoding) == "too_many_lines"


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


@pytest.mark.parametrize("encoding", ["protobuf", "json"])
def test_a_span_that_is_too_long_or_has_too_many_attributes_is_refused(encoding: str) -> None:
    make = otlp.protobuf if encoding == "protobuf" else otlp.as_json
    long = otlp.span(attributes={"gen_ai.input.messages": "x" * 2**20})
    many = otlp.span(attributes={f"a{n}": 1 for n in range(1025)})
    decoded = DECODERS[encoding](make(long, many))
    assert refused(decoded) == [(1, "line_too_long", "span"), (2, "out_of_range", "attributes")]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null x",
        b"{}{}",
        b'{"resourceSpans": {}}',
        b'{"resourceSpans": [[]]}',
        b'{"resourceSpans": [1]}',
        b'{"resourceSpans": [], "resourceSpans": []}',
        b'{"resourceSpans": [{"scopeSpans": [{"spans": [], "spans": []}]}]}',
        b'{"resourceSpans": [{"scopeSpans": [{"spans": [{"a": 1]}]}]}',
        b'{"resourceSpans": [{"resource": {"a": NaN}, "scopeSpans": [{"spans": [{}]}]}]}',
        b'{"resourceSpans": [',
        b'{"resourceSpans": [],}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_an_envelope_that_is_no_otlp_json_is_malformed(data: bytes) -> None:
    assert code_of(data) == "malformed_body"


@pytest.mark.parametrize(
    ("span", "code", "detail"),
    [
        ('{"name": NaN}', "malformed_line", "NaN is not JSON"),
        ('{"name": "a", "name": "b"}', "malformed_line", "a key stands twice"),
        ('{"name": ' + "[" * 70 + "]" * 70 + "}", "too_deep", "span"),
        ('{"name": "\\ud800"}', "invalid_text", "name"),
        ('{"traceId": 7}', "wrong_type", "traceId"),
        ('{"traceId": "xyz"}', "invalid_value", "traceId"),
        ('{"startTimeUnixNano": "soon"}', "wrong_type", "startTimeUnixNano"),
        ('{"startTimeUnixNano": 99999999999999999999999}', "out_of_range", "startTimeUnixNano"),
        ('{"kind": true}', "wrong_type", "kind"),
        ('{"status": []}', None, None),
        ('{"status": 3}', "wrong_type", "status"),
        ('{"attributes": {}}', "wrong_type", "attributes"),
        ('{"attributes": [3]}', "wrong_type", "attributes"),
        ('{"attributes": [{"key": "error.type", "value": 3}]}', "wrong_type", "error.type"),
        (
            '{"attributes": [{"key": "error.type", "value": {"doubleValue": [1]}}]}',
            "wrong_type",
            "error.type",
        ),
        (
            '{"attributes": [{"key": "error.type", "value": {"stringValue": "\\udfff"}}]}',
            "invalid_text",
            "error.type",
        ),
        ("3", "malformed_line", "not an object"),
    ],
)
def test_a_bad_json_span_is_refused_with_a_code(
    span: str, code: str | None, detail: str | None
) -> None:
    decoded = decode_json(raw_json(span))
    assert refused(decoded) == ([] if code is None else [(1, code, detail)])


def test_unknown_fields_blanks_and_numbers_for_texts_are_taken() -> None:
    at_ns = recent_ns()
    data = span_json(startTimeUnixNano=at_ns, later={"x": [1, "]"]}, kind=3.0)
    (span,) = decode_json(
        b" \n" + data.replace(b'"resourceSpans"', b'"new": "}", "resourceSpans"')
    ).spans
    assert (span.start_ns, span.kind) == (at_ns, 3)


def test_ids_in_capitals_are_the_same_ids() -> None:
    (span,) = decode_json(span_json(traceId=otlp.TRACE.upper())).spans
    assert span.trace_id == otlp.TRACE


@given(data=st.binary(max_size=200))
def test_any_bytes_are_spans_or_a_code(data: bytes) -> None:
    for decode in DECODERS.values():
        try:
            decode(data)
        except IngestError as error:
            assert error.code in {"malformed_body", "too_many_lines"}  # noqa: PT017 -- either is fine


@given(data=st.data())
def test_a_request_with_a_byte_changed_is_spans_or_a_code(data: st.DataObject) -> None:
    encoding = data.draw(st.sampled_from(sorted(DECODERS)))
    make = otlp.protobuf if encoding == "protobuf" else otlp.as_json
    body = bytearray(make(otlp.span(start_ns=1, attributes=ATTRIBUTES)))
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        decoded = DECODERS[encoding](bytes(body))
    except IngestError as error:
        assert error.code in {"malformed_body", "too_many_lines"}  # noqa: PT017 -- either is fine
    else:
        assert len(decoded.spans) + len(decoded.refused) == decoded.received


# ------------------------------------------------------------------- signals that are only counted


def test_log_records_are_counted_in_both_encodings() -> None:
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

    made = ExportLogsServiceRequest()
    for size in (2, 3):
        scope = made.resource_logs.add().scope_logs.add()
        for _ in range(size):
            scope.log_records.add().body.string_value = "x"
    scopes = [{"scopeLogs": [{"logRecords": [{"body": {"stringValue": "]"}}] * 5}]}]
    as_json = json.dumps({"resourceLogs": scopes}).encode()
    assert count_logs(made.SerializeToString(), is_json=False) == 5
    assert count_logs(as_json, is_json=True) == 5
    assert count_logs(b"{}", is_json=True) == count_logs(b"", is_json=False) == 0


def test_data_points_of_every_kind_are_counted_in_both_encodings() -> None:
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
        ExportMetricsServiceRequest,
    )

    kinds = ("gauge", "sum", "histogram", "exponential_histogram", "summary")
    made = ExportMetricsServiceRequest()
    metrics = made.resource_metrics.add().scope_metrics.add().metrics
    for kind in kinds:
        points = getattr(metrics.add(), kind).data_points
        points.add()
        points.add()
    camel = [re.sub("_(.)", lambda match: match[1].upper(), kind) for kind in kinds]
    listed = [{"name": "m", kind: {"dataPoints": [{}, {}]}} for kind in camel]
    document = {"resourceMetrics": [{"scopeMetrics": [{"metrics": listed}]}]}
    assert count_points(made.SerializeToString(), is_json=False) == 10
    assert count_points(json.dumps(document).encode(), is_json=True) == 10


def test_escaped_quotes_in_a_string_that_never_ends_are_looked_at_once() -> None:
    # Looked at from each of its quotes, this body would take hours.
    data = b'{"resourceSpans":[{"x":["' + b'\\"' * 1_000_000
    assert code_of(data) == "malformed_body"
