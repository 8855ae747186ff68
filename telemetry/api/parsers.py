"""The raw body as a stream: nothing of it is read before the view says so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, cast

from django.http import HttpRequest
from django.http.request import UnreadablePostError

from telemetry.ingest.decode import IngestError, Readable

MAX_LENGTH_DIGITS: Final = 12


def body_stream(request: HttpRequest) -> tuple[Readable, int | None]:
    """The body of a request as a stream, and the length it promised; None when chunked.

    Django gives a chunked request an empty body, because WSGI does not say where it ends. A
    server that cuts the body off itself says so with ``wsgi.input_terminated``, and then its
    input is read as it is.
    Errors: IngestError malformed_body without a length and without such a server.
    """
    meta: Mapping[str, object] = request.META
    length = str(meta.get("CONTENT_LENGTH") or "")
    if length.isascii() and length.isdigit() and len(length) <= MAX_LENGTH_DIGITS:
        return request, int(length)
    if length or not meta.get("wsgi.input_terminated"):
        raise IngestError("malformed_body", "the body's length is not known")
    return _Chunked(cast("Readable", meta["wsgi.input"])), None


class _Chunked:
    """A chunked body as the server reads it; whatever it finds wrong is an unreadable body."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream

    def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes. Errors: UnreadablePostError."""
        try:
            return self._stream.read(size)
        except Exception as error:
            raise UnreadablePostError("the chunks cannot be read") from error
