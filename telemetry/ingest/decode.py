"""Bounded reading: compressed bytes from a stream to decoded lines, limits held while streaming.

Memory never holds more than the limits allow plus one step: gzip inflates at most 64 KiB a step,
zstd gets 512 bytes a step, which a bomb can blow up to 16 MiB and no more.
"""

from __future__ import annotations

import hashlib
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

import zstandard

from agent_client.contract import wire

CHUNK_BYTES: Final = 64 * 1024
ZSTD_STEP_BYTES: Final = 512
"""A zstd RLE block turns 4 bytes into 128 KiB: a larger step would be a larger bomb."""
ZSTD_WINDOW_BYTES: Final = 8 * 1024 * 1024
ENCODINGS: Final = ("identity", "gzip", "zstd")


class IngestError(Exception):
    """The batch as a whole is refused; ``code`` is one of wire.PROBLEM_CODES.

    ``retry_after_s``: when it is worth another try, for those that know better than the default.
    """

    def __init__(self, code: str, detail: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.retry_after_s = retry_after_s


class Readable(Protocol):
    """What a body is read from: a request, a file."""

    def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes; b"" at the end."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds that discovery publishes."""

    body_bytes: int = wire.MAX_BODY_BYTES
    decoded_bytes: int = wire.MAX_DECODED_BYTES
    lines: int = wire.MAX_LINES
    line_bytes: int = wire.MAX_LINE_BYTES


DEFAULT_LIMITS: Final = Limits()


@dataclass(frozen=True, slots=True)
class Body:
    """A decoded body; ``wire_sha256`` is over the bytes as sent, ``content_sha256`` decoded."""

    data: bytes
    encoding: str
    wire_bytes: int
    wire_sha256: bytes
    content_sha256: str


def read_body(
    stream: Readable,
    encoding: str,
    *,
    expected_bytes: int | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Body:
    """The decoded body of a stream.

    ``expected_bytes``: what Content-Length promised; a body cut short is refused, or the complete
    one that is sent again would be "other content" under the same batch id.
    Errors: IngestError body_too_large, decoded_too_large, malformed_body, unsupported_encoding.
    """
    if expected_bytes is not None and expected_bytes > limits.body_bytes:
        raise IngestError("body_too_large", f"more than {limits.body_bytes} bytes")
    source = _Wire(stream, limits.body_bytes)
    data = io.BytesIO()  # its value is no second copy
    for piece in _decoded(source, encoding):
        if data.tell() + len(piece) > limits.decoded_bytes:
            raise IngestError("decoded_too_large", f"more than {limits.decoded_bytes} bytes")
        data.write(piece)
    if expected_bytes is not None and source.count_bytes != expected_bytes:
        raise IngestError("malformed_body", "shorter than its Content-Length")
    content = data.getvalue()
    return Body(
        data=content,
        encoding=encoding,
        wire_bytes=source.count_bytes,
        wire_sha256=source.digest.digest(),
        content_sha256=hashlib.sha256(content).hexdigest(),
    )


def split_lines(data: bytes, limits: Limits = DEFAULT_LIMITS) -> list[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers from 1.

    Errors: IngestError too_many_lines, found before a list is made.
    """
    if data.count(b"\n") > limits.lines:
        raise IngestError("too_many_lines", f"more than {limits.lines} lines")
    lines = [
        (number, line.rstrip(b"\r"))
        for number, line in enumerate(data.split(b"\n"), start=1)
        if line and not line.isspace()
    ]
    if len(lines) > limits.lines:
        raise IngestError("too_many_lines", f"more than {limits.lines} lines")
    return lines


class _Wire:
    """The stream as chunks, counted and hashed."""

    def __init__(self, stream: Readable, limit_bytes: int) -> None:
        self._stream = stream
        self._limit_bytes = limit_bytes
        self.count_bytes = 0
        self.digest = hashlib.sha256()

    def chunks(self) -> Iterator[bytes]:
        while chunk := self._stream.read(CHUNK_BYTES):
            self.count_bytes += len(chunk)
            if self.count_bytes > self._limit_bytes:
                raise IngestError("body_too_large", f"more than {self._limit_bytes} bytes")
            self.digest.update(chunk)
            yield chunk


def _decoded(source: _Wire, encoding: str) -> Iterator[bytes]:
    if encoding == "identity":
        return source.chunks()
    if encoding == "gzip":
        return _gunzip(source)
    if encoding == "zstd":
        return _unzstd(source)
    raise IngestError("unsupported_encoding", f"use one of {', '.join(ENCODINGS)}")


def _gunzip(source: _Wire) -> Iterator[bytes]:
    """All members of a gzip stream (RFC 1952), at most CHUNK_BYTES a piece."""
    member = zlib.decompressobj(wbits=31)
    is_open = True  # an empty body is no gzip stream
    for chunk in source.chunks():
        rest = chunk
        while rest:
            if member.eof:
                member = zlib.decompressobj(wbits=31)
            try:
                yield member.decompress(rest, CHUNK_BYTES)
            except zlib.error:
                raise IngestError("malformed_body", "not a gzip stream") from None
            rest = member.unused_data if member.eof else member.unconsumed_tail
        is_open = not member.eof
    # What inflate still holds when the input is used up: bounded, a flush would not be.
    while is_open and (piece := member.decompress(member.unconsumed_tail, CHUNK_BYTES)):
        yield piece
        is_open = not member.eof
    if is_open:
        raise IngestError("malformed_body", "the gzip stream is cut short")


def _unzstd(source: _Wire) -> Iterator[bytes]:
    """All frames of a zstd stream (RFC 8878), windows of at most 8 MiB."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES)
    frame = decompressor.decompressobj()
    is_open = True
    for chunk in source.chunks():
        for start in range(0, len(chunk), ZSTD_STEP_BYTES):
            rest = chunk[start : start + ZSTD_STEP_BYTES]
            while rest:
                if frame.eof:
                    frame = decompressor.decompressobj()
                try:
                    yield frame.decompress(rest)
                except zstandard.ZstdError:
                    raise IngestError("malformed_body", "not a zstd stream") from None
                rest = frame.unused_data if frame.eof else b""
            is_open = not frame.eof
    if is_open:
        raise IngestError("malformed_body", "the zstd stream is cut short")
