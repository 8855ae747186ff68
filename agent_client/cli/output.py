"""How the verbs speak: data on stdout, talk on stderr, colour only for a person who wants it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, TextIO

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_REFUSED: Final = 3
EXIT_CREDENTIAL: Final = 4
EXIT_NETWORK: Final = 5
EXIT_PARTIAL: Final = 6
EXIT_INTERRUPTED: Final = 130

MEANING_OF_EXIT: Final[dict[int, str]] = {
    EXIT_OK: "done",
    EXIT_FAILED: "failed, or a problem was found",
    EXIT_USAGE: "wrong usage",
    EXIT_REFUSED: "consent or policy refuses",
    EXIT_CREDENTIAL: "not enrolled, or the credential was rejected",
    EXIT_NETWORK: "network or a busy console: try again later",
    EXIT_PARTIAL: "sent, but some of it was refused",
    EXIT_INTERRUPTED: "interrupted",
}
"""What scripts may rely on: a code is never given another meaning."""

JSON_SCHEMA: Final = 1
"""Raised when a field of a ``--json`` answer changes meaning or goes away."""

_STYLES: Final = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}
_LABEL_COLUMNS: Final = 13


def say(text: str = "") -> None:
    """A line of the answer, on stdout."""
    sys.stdout.write(text + "\n")


def say_json(value: Mapping[str, object], *, to_stderr: bool = False) -> None:
    """The answer as JSON with its schema number, on stdout unless that carries data."""
    import json

    shown = {"schema": JSON_SCHEMA, **value}
    text = json.dumps(shown, indent=2, ensure_ascii=True, default=str)
    (talk if to_stderr else say)(text)


def tolerate(stream: TextIO) -> None:
    """Let a stream of another encoding show what it cannot hold as an escape."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")


def talk(text: str) -> None:
    """A line for the person, on stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def fail(message: str, hint: str = "") -> None:
    """What went wrong, and what to do about it, on stderr."""
    talk(f"{paint('error:', 'red', stream=sys.stderr)} {message}")
    if hint:
        talk(f"  {hint}")


def is_terminal(stream: TextIO) -> bool:
    """Whether a person looks at this stream; a dumb terminal (an editor's) does not count."""
    return os.environ.get("TERM") != "dumb" and stream.isatty()


def paint(text: str, style: str, *, stream: TextIO | None = None) -> str:
    """The text in a style where the stream is a terminal and ``NO_COLOR`` is not set."""
    out = sys.stdout if stream is None else stream
    if os.environ.get("NO_COLOR") or not is_terminal(out):
        return text
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m"


def columns() -> int:
    """The width to write for: the terminal's between 60 and 100, else 80."""
    try:
        return max(60, min(100, os.get_terminal_size(sys.stdout.fileno()).columns))
    except (OSError, ValueError):
        return 80


def rows(pairs: Iterable[tuple[str, str]], indent: str = "") -> None:
    """Lines of a label and its value; a value's further lines stand below its first."""
    width = columns() - len(indent) - _LABEL_COLUMNS - 1
    for label, value in pairs:
        first, *more = [line for part in value.split("\n") for line in wrapped(part, width)]
        say(f"{indent}{paint(f'{label:<{_LABEL_COLUMNS}}', 'bold')} {first}".rstrip())
        for line in more:
            say(f"{indent}{'':<{_LABEL_COLUMNS}} {line}")


def wrapped(text: str, width: int) -> Iterator[str]:
    """The text in lines of at most ``width``; a longer word (a path, a URL) is left whole."""
    line, length = "", 0
    for word in text.split(" "):
        shown = len(word) - sum(len(style) + 3 for style in _escapes(word))
        if line and length + 1 + shown > width:
            yield line
            line, length = word, shown
        else:
            line, length = (f"{line} {word}", length + 1 + shown) if line else (word, shown)
    yield line


def _escapes(word: str) -> list[str]:
    """The styles of ``paint`` in a word: they take no place on the screen."""
    return [part.partition("m")[0] for part in word.split("\x1b[")[1:]]


def clean(text: str) -> str:
    """Text of others (a console, a policy, a file) without what would steer a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)


def number(count: int, noun: str, plural: str = "") -> str:
    """1 row, 2 rows, 12,345 rows."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def counts_text(counts: Mapping[str, int]) -> str:
    """Rows by table in words, empty tables left out: 1 run, 12,345 model calls. "" for none."""
    names = {name: name.removeprefix("tel_").replace("_", " ") for name in counts}
    return ", ".join(
        number(count, names[name].removesuffix("s"), names[name])
        for name, count in counts.items()
        if count
    )


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
    if age_ns < -1e9:
        return "in the future: is the clock right?"
    return f"{span_text(age_ns)} ago"


def span_text(span_ns: int) -> str:
    """A length of time: 12 s, 3 min, 5 h or 2 days."""
    span_s = max(span_ns, 0) / 1e9
    for limit_s, unit_s, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if span_s < limit_s:
            return f"{span_s / unit_s:.0f} {unit}"
    return f"{span_s / 86_400:.0f} days"


def value_text(value: object, max_chars: int = 200) -> str:
    """A configuration value on one line."""
    import json

    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= max_chars else text[: max_chars - 1] + "…"
