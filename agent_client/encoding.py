"""Rows as the bytes that leave: one redacted JSON object a row, the same for export and push.

What a value becomes depends on its column's name and on the value alone, so each distinct value of
a column is scrubbed once. A block of rows is encoded a column at a time; what SQLite may hold
against a column's type (bytes, text for a number, an infinity) still makes valid JSON.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable, Sequence
from typing import Final

from agent_client.contract.redact import redact_record, redact_text
from agent_client.contract.redact_names import name_class
from agent_client.contract.tables import Table
from agent_client.store import Row

MEMO_VALUES: Final = 2_048
MEMO_CHARS: Final = 128
"""Both bound what is remembered: 15 text columns of a table at their longest are some 10 MB."""
FEW: Final = 4
"""Values that are not worth a pass of their own."""
_WORD: Final = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_.:-]{{0,{MEMO_CHARS - 1}}}")
"""A text that can stand on a line between others without changing what they mean to the redactor:
no blank, quote or bracket, and nothing at its start that could belong to the line before."""
_WORDS: Final = re.compile(rf"{_WORD.pattern}(?:\n{_WORD.pattern})*")
_HEX_IDS: Final = re.compile(r"[0-9a-f]{16,64}(?:\n[0-9a-f]{16,64})*")
"""Ids of ours, which the redactor leaves alone too."""
_TEXTS: Final = frozenset({str, type(None)})
_WHOLE: Final = frozenset({int, type(None)})

Values = tuple[object, ...]


def encode(row: Row) -> bytes:
    """One redacted record as JSON, without the line end."""
    record = {name: _plain(value) for name, value in row.record().items()}
    return dumps(redact_record(record)).encode("ascii")


def dumps(value: object) -> str:
    """A value as JSON, in ASCII, on one line; a number that JSON has no form for becomes null."""
    try:
        return json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), separators=(",", ":"), ensure_ascii=True)


class RowEncoder:
    """Encodes the rows of one table; keeps what it has seen, so make one for each export."""

    def __init__(self, table: Table) -> None:
        self._head = f'{{"_kind":"{table.name}"'
        self._columns = [_Column(name) for name in ("seq", *table.column_names())]

    def lines(self, rows: Sequence[Values]) -> list[str]:
        """Redacted records as ASCII JSON, one a row of ``seq`` and the contract's columns."""
        return self.block(rows, "\n").split("\n") if rows else []

    def block(self, rows: Sequence[Values], between: str) -> str:
        """The same as one text, with ``between`` between the records."""
        frame, varying = self._head, []
        for column, values in zip(self._columns, zip(*rows, strict=True), strict=True):
            form, texts = column.texts(values)
            frame += column.label + form
            if texts is not None:
                varying.append(texts)
        frame += "}"
        if not varying:
            return between.join([frame % ()] * len(rows))
        # Made and joined in one go: a list of them in between costs a tenth of the whole.
        return between.join(map(frame.__mod__, zip(*varying, strict=True)))


class _Column(dict["str | None", str]):
    """The JSON text of the values of a column that were seen."""

    def __init__(self, name: str) -> None:
        super().__init__({None: "null"})
        self.label = f',"{name}":'
        self._name = name
        # Below the name of a secret a value goes whatever it looks like.
        self._has_plain_name = name_class(name) is None

    def texts(self, values: Values) -> tuple[str, Iterable[object] | None]:
        """The values' JSON: its form, and what goes into it for each; None when all are alike."""
        kinds = set(map(type, values))
        if kinds <= _TEXTS:
            distinct: set[str] = set(values)  # type: ignore[arg-type]  # see the line above
            if len(distinct) == 1:
                return self._text(values[0]).replace("%", "%%"), None
            if len(distinct) * 2 > len(values) and kinds == {str} and self._stay(distinct):
                return '"%s"', values  # ids of its own for each row: not worth remembering
            self._learn(distinct.difference(self))
            return "%s", map(self.__getitem__, values)  # type: ignore[arg-type]  # str or None, see above
        if kinds == {int}:
            is_same = values[0] == values[-1] and values.count(values[0]) == len(values)
            return (str(values[0]), None) if is_same else ("%s", values)
        if kinds <= _WHOLE:
            return "%s", ["null" if value is None else value for value in values]
        if kinds == {float} and all(map(math.isfinite, values)):  # type: ignore[arg-type]  # floats
            return "%s", values
        return "%s", map(self._text, values)

    def _stay(self, words: Collection[str]) -> bool:
        """Whether the redactor leaves all of these as they are, and JSON has nothing to escape."""
        text = "\n".join(words)
        if not self._has_plain_name or text.count("\n") >= len(words):
            return False
        if _HEX_IDS.fullmatch(text):
            return True
        return _WORDS.fullmatch(text) is not None and redact_text(text) == text

    def _learn(self, fresh: set[str]) -> None:
        """Scrub new values together; the few that something is wrong with come one by one later."""
        if len(self) + len(fresh) > MEMO_VALUES:
            self._forget()
        words = [value for value in fresh if _WORD.fullmatch(value)]
        if len(words) > FEW:
            self._learn_words(words)

    def _learn_words(self, words: list[str]) -> None:
        if self._stay(words):
            self.update(zip(words, map('"%s"'.__mod__, words), strict=True))
        elif len(words) > FEW:
            half = len(words) // 2
            self._learn_words(words[:half])
            self._learn_words(words[half:])

    def _forget(self) -> None:
        self.clear()
        self[None] = "null"

    def _text(self, value: object) -> str:
        if value is None or isinstance(value, str):
            return self[value]
        if type(value) is float and math.isfinite(value):
            return repr(value)
        return self._scrubbed(_plain(value))

    def _scrubbed(self, value: object) -> str:
        return dumps(redact_record({self._name: value})[self._name])

    def __missing__(self, value: str) -> str:
        text = self._scrubbed(value)
        if len(value) <= MEMO_CHARS:
            if len(self) >= MEMO_VALUES:
                self._forget()
            self[value] = text
        return text


def _plain(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return _plain(value)
