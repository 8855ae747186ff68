"""Progress for a person who waits: one line on the terminal, from the second second, then gone."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import Final, Self, TextIO

from agent_client.cli.output import is_terminal

QUIET_S: Final = 1.0
"""What is done within a second needs no word."""
REDRAW_S: Final = 0.1
MAX_COLUMNS: Final = 79
"""A line that wraps cannot be erased."""
_ERASE: Final = "\r\x1b[K"


class Ticker:
    """A context manager: shows what is going on, for how long, and what ``note`` was told last.

    Draws from a thread of its own, so that work which reports nothing is seen to go on as well.
    Writes nothing when ``stream`` is no terminal, and leaves no trace on one that is.
    """

    def __init__(
        self, what: str, *, stream: TextIO | None = None, quiet_s: float | None = None
    ) -> None:
        self._what = what
        self._stream = sys.stderr if stream is None else stream
        self._quiet_s = QUIET_S if quiet_s is None else quiet_s
        self._detail = ""
        self._is_drawn = False
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def note(self, detail: object) -> None:
        """What has been reached, in a few words. Costs next to nothing, however often."""
        self._detail = f", {detail}"

    def __enter__(self) -> Self:
        if is_terminal(self._stream):
            self._thread = threading.Thread(
                target=self._draw, name="hermes-telemetry-ticker", daemon=True
            )
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        if self._is_drawn:
            self._stream.write(_ERASE)
            self._stream.flush()

    def _draw(self) -> None:
        since_s = time.monotonic()
        pause_s = self._quiet_s
        while not self._over.wait(pause_s):
            took_s = time.monotonic() - since_s
            line = f"{self._what} … {took_s:.0f} s{self._detail}"
            self._stream.write(_ERASE + line[:MAX_COLUMNS])
            self._stream.flush()
            self._is_drawn, pause_s = True, REDRAW_S
