"""Attributes read from their bytes say what the protobuf parser says of them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from telemetry.ingest.otlp_names import KNOWN
from telemetry.ingest.otlp_protobuf import _CutSpan, _known, _known_raw, decode_protobuf
from tests.telemetry import otlp_builders as otlp

NAMES = st.sampled_from(
    [
        *("gen_ai.operation.name", "gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens"),
        *("llm.token_count.prompt", "error.type", "not.known", "", "ü", "x" * 200),
    ]
)
TEXTS = st.one_of(st.text(max_size=20), st.integers(60, 140).map("y".__mul__))
INTS = st.sampled_from([0, 1, 127, 128, 255, 300, 16383, 16384, 2**31, 2**63 - 1, -1, -(2**63)])
VALUES = st.one_of(
    st.builds(AnyValue, string_value=TEXTS),
    st.builds(AnyValue, int_value=INTS),
    st.builds(AnyValue, double_value=st.floats(allow_nan=False)),
    st.builds(AnyValue, bool_value=st.booleans()),
    st.builds(AnyValue, bytes_value=st.binary(max_size=5)),
    st.just(AnyValue()),
)
PAIRS = st.builds(lambda key, value: KeyValue(key=key, value=value), NAMES, VALUES)


def sized(data: bytes) -> bytes:
    """A length of up to 16,383 in two bytes, then the data."""
    return bytes([len(data) & 0x7F | 0x80, len(data) >> 7]) + data


def raw_span(*pairs: bytes) -> bytes:
    """A span's bytes with these attributes, however they are encoded."""
    return b"".join(b"\x4a" + sized(pair) for pair in pairs)


def both_ways(raw: bytes) -> tuple[object, object]:
    cut = _CutSpan.FromString(raw).attributes
    return _known_raw(cut, {}), _known(Span.FromString(raw).attributes, KNOWN)


def typed(found: object) -> list[tuple[str, type, object]]:
    assert isinstance(found, dict)
    return [(name, type(value), value) for name, value in found.items()]


@given(st.lists(PAIRS, max_size=8))
def test_bytes_say_what_the_parser_says(pairs: list[KeyValue]) -> None:
    one, other = both_ways(Span(attributes=pairs).SerializeToString())
    assert typed(one) == typed(other)


@given(PAIRS, PAIRS, st.sampled_from([b"", b"\x18\x05", b"\x1a\x02hi"]))
def test_fields_that_stand_twice_are_merged_as_the_parser_does(
    first: KeyValue, second: KeyValue, unknown: bytes
) -> None:
    pair = first.SerializeToString() + unknown + second.SerializeToString()
    value = second.value.SerializeToString() + first.value.SerializeToString()
    merged = KeyValue(key=first.key).SerializeToString() + b"\x12" + sized(value)
    one, other = both_ways(raw_span(pair, merged))
    assert typed(one) == typed(other)


def test_a_value_that_is_read_once_is_the_same_in_every_span() -> None:
    spans = [otlp.span(span_id=f"{n + 1:016x}") for n in range(3)]
    found = decode_protobuf(otlp.protobuf(*spans)).spans
    assert [span.attributes["gen_ai.request.model"] for span in found] == ["gpt-6"] * 3


def test_an_attribute_that_is_no_pair_refuses_its_span_alone() -> None:
    bad = otlp.span().SerializeToString() + b"\x4a\x02\x0a\x05"
    group = b"\x12" + sized(b"\x12" + sized(bad))
    decoded = decode_protobuf(otlp.protobuf(otlp.span()) + b"\x0a" + sized(group))
    assert [(one.line, one.code) for one in decoded.refused] == [(2, "malformed_line")]
    assert len(decoded.spans) == 1
