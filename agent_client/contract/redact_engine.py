"""The matcher: a set of keywords first, then only the rules that hit, then one replacement pass.

Works on UTF-8 bytes read as Latin-1, which keeps RE2's automata small and spares the translation
of offsets. The keyword set, not the set of full patterns, is what makes it fast: counted
repetitions in a large set make its automaton outgrow any memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Protocol

Span = tuple[int, int, int, str]
"""Start, end, rank (lower wins where spans meet), replacement."""

# The most an automaton of RE2 may grow to before it starts anew. Ours come to 15 MiB together on
# hostile text; a Set that would not fit fails to compile.
MAX_MEM_BYTES = 32 << 20
# Keywords of letters, of classes (`[0-9a-f]`) and of runs (`{20}`) are kept in sets apart: in one,
# their half matches multiply into an automaton of 250 MiB that takes a second to build per MiB.
_RUN = re.compile(r"(?<!\\)[{*+]")
_CLASS = re.compile(r"(?<!\\)\[|\\[wdWDsS]")
# Long texts are matched in blocks, so that a rule that hits one line does not run over a megabyte.
BLOCK_BYTES = 4096
_BLANKS = (b" ", b"\t", b"\r", b"\n")
_BLANK = re.compile(rb"[ \t\r\n]")
# What can match a blank, or tells where a line begins or ends; escaped dots and classes with a dot
# in them are taken for such too, which costs time only.
_MAY_HOLD_BLANK = re.compile(r"\s|\\[sWDtnrxfv]|\[\^|[\^$]|(?<!\\)\.")
_LINE_START = re.compile(rb"\n(?=[^ \t\r\n])")


class Match(Protocol):
    """The part of a re2 match that is used."""

    def span(self, group: int = 0) -> tuple[int, int]:
        """Byte offsets; (-1, -1) for a group that took no part."""

    def group(self, group: int = 0) -> bytes:
        """The bytes of a group."""


class Pattern(Protocol):
    """The part of a compiled re2 pattern that is used."""

    def finditer(self, text: bytes) -> Iterable[Match]:
        """The matches from left to right, none overlapping another."""


class KeywordSet(Protocol):
    """The part of `re2.Set` that is used, under its own names."""

    def Add(self, pattern: bytes) -> int:  # noqa: N802 - the name in re2
        """Number the pattern; raises re2.error for a bad one."""

    def Compile(self) -> None:  # noqa: N802 - the name in re2
        """Close the set; raises re2.error when `max_mem` does not suffice."""

    def Match(self, text: bytes) -> list[int] | None:  # noqa: N802 - the name in re2
        """The numbers of the patterns that occur; None, not an empty list, when none does."""


class Compiler(Protocol):
    """What `redact` makes from the re2 module."""

    def compile(self, pattern: bytes) -> Pattern:
        """A pattern over bytes read as Latin-1."""

    def new_set(self) -> KeywordSet:
        """An empty set of unanchored patterns."""


Finder = Callable[[bytes], Iterable[tuple[int, int, str]]]


class Matcher:
    """Keyword sets with the finders behind it; immutable once closed but for late compilation.

    Threads: patterns compile at most once too often under a race, which is harmless.
    """

    def __init__(self, compiler: Compiler, first_rank: int = 0) -> None:
        self._first_rank = first_rank
        self._compiler = compiler
        self._finders: list[Finder] = []
        self._narrow: set[int] = set()
        self._finders_of_keyword: dict[str, list[int]] = {}
        self._sets: list[tuple[KeywordSet, list[list[int]]]] = []

    def add(self, keywords: Iterable[str], finder: Finder, *, is_narrow: bool = False) -> None:
        """A finder that runs only on texts in which a keyword occurs. Order is rank.

        `is_narrow` when what it matches, and what it looks at around, never holds a blank.
        """
        self._finders.append(finder)
        if is_narrow:
            self._narrow.add(len(self._finders) - 1)
        for keyword in keywords:
            self._finders_of_keyword.setdefault(keyword, []).append(len(self._finders) - 1)

    def close(self) -> None:
        """Compile the sets; nothing can be added after."""
        by_kind: dict[int, list[str]] = {}
        for keyword in self._finders_of_keyword:
            kind = 2 if _RUN.search(keyword) else 1 if _CLASS.search(keyword) else 0
            by_kind.setdefault(kind, []).append(keyword)
        for keywords in by_kind.values():
            keyword_set = self._compiler.new_set()
            for keyword in keywords:
                keyword_set.Add(keyword.encode())
            keyword_set.Compile()
            self._sets.append((keyword_set, [self._finders_of_keyword[k] for k in keywords]))

    def pattern(self, source: str) -> Callable[[bytes], Iterable[Match]]:
        """A search that compiles its pattern when first used."""
        compiled: list[Pattern] = []

        def search(data: bytes) -> Iterable[Match]:
            if not compiled:
                compiled.append(self._compiler.compile(source.encode()))
            return compiled[0].finditer(data)

        return search

    def hits(self, data: bytes) -> list[int]:
        """The finders worth running, in rank order."""
        hit: set[int] = set()
        for keyword_set, finders in self._sets:
            for keyword in keyword_set.Match(data) or ():
                hit.update(finders[keyword])
        return sorted(hit) if hit else []

    def changes(self, data: bytes, *, narrow: bool) -> list[Span]:
        """What either the narrow finders or all the others would replace."""
        return self.spans(data, [n for n in self.hits(data) if (n in self._narrow) == narrow])

    def spans(self, data: bytes, hits: Iterable[int]) -> list[Span]:
        """What the given finders would replace, overlaps included."""
        return [
            (start, end, self._first_rank + rank, replacement)
            for rank in hits
            for start, end, replacement in self._finders[rank](data)
            if end > start
        ]


def is_narrow_pattern(source: str) -> bool:
    """Whether the pattern surely matches no blank. Errs on the side of no."""
    return _MAY_HOLD_BLANK.search(source) is None


def mark(rule_id: str) -> str:
    """The replacement that names a rule: no head, no tail, no hash of what stood there."""
    return f"[REDACTED:{rule_id}]"


def blocks_of(data: bytes) -> list[bytes]:
    """The text in blocks of about `BLOCK_BYTES`, cut where a line begins without a blank.

    A line with no such end in reach makes a longer block; joined they are the text.
    """
    blocks: list[bytes] = []
    start = 0
    while len(data) - start > BLOCK_BYTES:
        cut = _LINE_START.search(data, start + BLOCK_BYTES)
        if cut is None:
            break
        blocks.append(data[start : cut.start() + 1])
        start = cut.start() + 1
    blocks.append(data[start:])
    return blocks


def replace_spans(data: bytes, spans: list[Span]) -> tuple[bytes, list[tuple[int, int]]]:
    """The text with each span replaced, and where the replacements stand in it, in order.

    Spans that meet become one, named by the lowest rank.
    """
    out: list[bytes] = []
    places: list[tuple[int, int]] = []
    at = length = index = 0
    spans.sort()
    while index < len(spans):
        start, end, rank, replacement = spans[index]
        index += 1
        while index < len(spans) and spans[index][0] <= end:
            _, other_end, other_rank, other = spans[index]
            end = max(end, other_end)
            if other_rank < rank:
                rank, replacement = other_rank, other
            index += 1
        start, end = _char_bounds(data, start, end)
        length += start - at
        places.append((length, length + len(replacement)))
        length += len(replacement)
        out += (data[at:start], replacement.encode("ascii"))
        at = end
    out.append(data[at:])
    return b"".join(out), places


def windows_around(data: bytes, places: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The lines that hold the places, with one line before and after, overlaps joined."""
    windows: list[tuple[int, int]] = []
    seen_to = -1
    for start, end in places:
        if end <= seen_to:  # on the line of the place before; looking again is quadratic there
            continue
        first = data.rfind(b"\n", 0, max(0, data.rfind(b"\n", 0, start))) + 1
        line_end = data.find(b"\n", end)
        seen_to = line_end if line_end >= 0 else len(data)
        last = data.find(b"\n", line_end + 1) if line_end >= 0 else -1
        last = last if last >= 0 else len(data)
        if windows and first <= windows[-1][1]:
            windows[-1] = (windows[-1][0], max(last, windows[-1][1]))
        else:
            windows.append((first, last))
    return windows


def words_around(data: bytes, places: list[tuple[int, int]]) -> bytes:
    """The runs without a blank that hold the places, parted by blanks."""
    words: list[bytes] = []
    seen_to = 0
    for start, end in places:
        if end <= seen_to:
            continue
        first = max(data.rfind(blank, seen_to, start) for blank in _BLANKS) + 1
        stop = _BLANK.search(data, end)
        last = stop.start() if stop else len(data)
        words.append(data[max(first, seen_to) : last])
        seen_to = last
    return b" ".join(words)


def _char_bounds(data: bytes, start: int, end: int) -> tuple[int, int]:
    """The span widened to whole UTF-8 characters."""
    while start > 0 and data[start] & 0xC0 == 0x80:
        start -= 1
    while end < len(data) and data[end] & 0xC0 == 0x80:
        end += 1
    return start, end
