"""An HTTP answer with a deadline as a whole: a peer that drips it, header lines included, ends it.

A socket's own timeout begins anew with each byte; a byte every few seconds would hold the one who
waits, and the lock they hold, for ever.
"""

from __future__ import annotations

import io
import socket
import time
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection, HTTPResponse


@dataclass(slots=True)
class Pace:
    """When the answer that is read has to be whole; ``step_s`` bounds the wait for each byte."""

    step_s: float
    ends_at_s: float = 0.0

    def begin(self, deadline_s: float) -> None:
        """Give the next answer this long from now."""
        self.ends_at_s = time.monotonic() + deadline_s

    def hold(self, connection: HTTPConnection) -> None:
        """Make the answers of a connection keep to this pace; they raise TimeoutError past it."""
        connection.response_class = partial(_PacedResponse, self)  # type: ignore[assignment]  # called, never subclassed


class _PacedReader(io.RawIOBase):
    """A socket's bytes; each read has no more time than the whole answer has left."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, pace: Pace) -> None:
        self._raw, self._sock, self._pace = raw, sock, pace

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int | None:  # type: ignore[override]  # what BufferedReader hands over
        left_s = self._pace.ends_at_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self._sock.settimeout(min(left_s, self._pace.step_s))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _PacedResponse(HTTPResponse):
    def __init__(
        self, pace: Pace, sock: socket.socket, debuglevel: int = 0, method: str | None = None
    ) -> None:
        super().__init__(sock, debuglevel, method)
        raw = self.fp.detach()
        self.fp = io.BufferedReader(_PacedReader(raw, sock, pace))
