"""A stream that says it is a terminal, and an output captured as if on one."""

from __future__ import annotations

import io
import threading


class Terminal(io.StringIO):
    """Remembers what is written; ``drawn`` is set with the first write."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn = threading.Event()

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        count = super().write(text)
        self.drawn.set()
        return count
