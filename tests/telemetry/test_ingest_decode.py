"""Bodies: bounded while they stream, refused with a documented code."""

from __future__ import annotations

import gzip
import io
import tracemalloc

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from telemetry.ingest.decode import Body, IngestError, Limits, read_body, split_lines

SMALL = Limits(body_bytes=1000, decoded_bytes=5000, lines=3)


def read(data: bytes, encoding: str = "identity", **more: object) -> Body:
    return read_body(io.BytesIO(data), encoding, **more)  # type: ignore[arg-type]  # a test's overrides


def code_of(data: bytes, encoding: str, **more: object) -> str:
    with pytest.raises(IngestError) as refused:
        read(data, encoding, **more)
    return refused.value.code


def compress(data: bytes, encoding: str) -> bytes:
    if encoding == "gzip":
        return gzip.compress(data)
    return zstandard.compress(data) if encoding == "zstd" else data


@pytest.mark.parametrize("encoding", ["identity", "gzip", "zstd"])
@given(parts=st.lists(st.binary(max_size=300), min_size=1, max_size=4))
def test_what_was_compressed_comes_back(encoding: str, parts: list[bytes]) -> None:
    wire_form = b"".join(compress(part, encoding) for part in parts)
    body = read(wire_form, encoding, expected_bytes=len(wire_form))
    assert body.data == b"".join(parts)
    assert body.wire_bytes == len(wire_form)


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_stream_cut_at_any_byte_is_malformed(encoding: str) -> None:
    whole = compress(b"some telemetry, not much of it", encoding)
    for length in range(len(whole)):
        assert code_of(whole[:length], encoding) == "malformed_body"


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_garbage_after_the_stream_is_malformed(encoding: str) -> None:
    assert code_of(compress(b"x", encoding) + b"garbage", encoding) == "malformed_body"


def test_a_body_shorter_than_promised_is_malformed() -> None:
    assert code_of(b"{}\n", "identity", expected_bytes=4) == "malformed_body"


def test_a_promise_over_the_limit_is_refused_unread() -> None:
    stream = io.BytesIO(b"x" * 10)
    with pytest.raises(IngestError, match="more than"):
        read_body(stream, "identity", expected_bytes=1001, limits=SMALL)
    assert stream.tell() == 0


def test_a_body_over_the_limit_is_refused_while_it_streams() -> None:
    assert code_of(b"x" * 1001, "identity", limits=SMALL) == "body_too_large"


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_bomb_is_refused_before_its_memory_is_spent(encoding: str) -> None:
    bomb = compress(b"\0" * 100_000_000, encoding)
    tracemalloc.start()
    assert code_of(bomb, encoding, limits=Limits(decoded_bytes=1_000_000)) == "decoded_too_large"
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 30_000_000


def test_a_window_over_8_mib_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=26)
    whole = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    data = whole.compress(b"ab" * 10_000) + whole.flush()
    assert code_of(data, "zstd") == "malformed_body"


def test_an_unknown_encoding_is_refused() -> None:
    assert code_of(b"", "br") == "unsupported_encoding"


def test_lines_keep_their_numbers_and_blank_ones_fall_away() -> None:
    assert split_lines(b"a\r\n\n  \nb") == [(1, b"a"), (4, b"b")]


@pytest.mark.parametrize("data", [b"a\nb\nc\nd\n", b"a\nb\nc\nd", b"\n\n\n\n"])
def test_more_lines_than_the_limit_refuse_the_batch(data: bytes) -> None:
    with pytest.raises(IngestError) as refused:
        split_lines(data, SMALL)
    assert refused.value.code == "too_many_lines"
