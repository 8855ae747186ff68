"""How the verbs speak: data on stdout, talk on stderr, colour only for a person who wants it."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Final, TextIO

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_REFUSED: Final = 3
EXIT_CREDENTIAL: Final = 4
EXIT_NETWORK: Final = 5
EXIT_PARTIAL: Final = 6
EXIT_INTERRUPTED: Final = 130

EXIT_CODES: Final = """\
exit codes:
  0  done
  1  failed, or a problem was found
  2  wrong usage
  3  consent or policy refuses
  4  not enrolled, or the credential was rejected
  5  network or a busy console: try again later
  6  pushed, but the console refused some lines
  130  interrupted
"""

JSON_SCHEMA: Final = 1
"""Raised when a field of a ``--json`` answer changes meaning or goes away."""

_STYLES: Final = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}


def say(text: str = "") -> None:
    """A line of the answer, on stdout."""
    sys.stdout.write(text + "\n")


def say_json(value: Mapping[str, object], *, to_stderr: bool = False) -> None:
    """The answer as JSON with its schema number, on stdout unless that carries data."""
    shown = {"schema": JSON_SCHEMA, **value}
    text = json.dumps(shown, indent=2, ensure_ascii=False, default=str)
    (talk if to_stderr else say)(text)


def talk(text: str) -> None:
    """A line for the person, on stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def fail(message: str, hint: str = "") -> None:
    """What went wrong, and what to do about it, on stderr."""
    talk(f"{paint('error:', 'red', stream=sys.stderr)} {message}")
    if hint:
        talk(f"  {hint}")


def paint(text: str, style: str, *, stream: TextIO | None = None) -> str:
    """The text in a style where the stream is a terminal and ``NO_COLOR`` is not set."""
    out = sys.stdout if stream is None else stream
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not out.isatty():
        return text
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m"


def rows(pairs: Iterable[tuple[str, str]]) -> None:
    """Lines of a label and its value; a value's further lines are indented below it."""
    for label, value in pairs:
        first, *more = value.split("\n")
        say(f"{paint(f'{label:<12}', 'bold')} {first}")
        for line in more:
            say(f"{'':<12} {line}")


def number(count: int, noun: str, plural: str = "") -> str:
    """1 row, 2 rows, 12,345 rows."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def size_text(size_bytes: int) -> str:
    """Bytes for people: 812 B, 1.4 kB, 3.0 MB."""
    if size_bytes < 1000:
        return f"{size_bytes} B"
    amount = float(size_bytes)
    for unit in ("kB", "MB", "GB"):
        amount /= 1000
        if amount < 1000 or unit == "GB":
            return f"{amount:.1f} {unit}"
    return ""


def time_text(at_ns: int) -> str:
    """When something was: UTC, and how long ago. "never" for 0."""
    if not at_ns:
        return "never"
    at = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at_ns / 1e9))
    return f"{at} ({age_text(time.time_ns() - at_ns)})"


def age_text(age_ns: int) -> str:
    """How long ago: 12 s, 3 min, 5 h or 2 days; a time in the future says a wrong clock."""
    age_s = age_ns / 1e9
    if age_s < -1:
        return "in the future: is the clock right?"
    for limit_s, unit_s, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if age_s < limit_s:
            return f"{max(age_s, 0) / unit_s:.0f} {unit} ago"
    return f"{age_s / 86_400:.0f} days ago"


def value_text(value: object, max_chars: int = 200) -> str:
    """A configuration value on one line."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= max_chars else text[: max_chars - 1] + "…"
