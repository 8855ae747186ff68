"""Rows redacted column by column, each distinct text once: names and ids of runs repeat.

The same as ``redact_record`` on the whole row at a third of its cost; a test holds them together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Final

from agent_client.contract.redact import redact_record
from agent_client.contract.tables import EVENT_TABLES
from agent_client.store import Row

MAX_KNOWN: Final = 10_000
"""Texts remembered of one column; the ids of calls, which never repeat, must not pile up."""
NEVER_LEAVE: Final = frozenset({"span_id", "parent_span_id"})
"""Only hashes of these go out; a record does not have them at all."""

Pair = tuple[dict[str, object], dict[str, object]]
"""A row as it was recorded, and what the redactor left of it."""

_COLUMNS: Final = {
    table.name: tuple(
        (place, column.name, column.max_chars > 0)
        for place, column in enumerate(table.columns)
        if column.name not in NEVER_LEAVE
    )
    for table in EVENT_TABLES
}
_NAMES: Final = {table.name: table.column_names() for table in EVENT_TABLES}


class Scrubber:
    """Remembers what the redactor left of each text it has seen. For one drain; not for threads."""

    def __init__(self) -> None:
        self._known: defaultdict[str, dict[str, object]] = defaultdict(dict)

    def pair_of(self, row: Row) -> Pair:
        """A row's columns by name, and the same redacted; a number that is none becomes nothing."""
        values, table = row.values, row.table.name
        record: dict[str, object] = {}
        texts: list[tuple[str, object]] = []
        for place, name, is_text in _COLUMNS[table]:
            value = values[place]
            if is_text and value is not None:
                texts.append((name, value))
            else:
                record[name] = None if isinstance(value, (str, bytes)) else value
        record.update(self.scrub(texts))
        return dict(zip(_NAMES[table], values, strict=True)), record

    def scrub(self, texts: Iterable[tuple[str, object]]) -> dict[str, object]:
        """Columns redacted under their names; None stays."""
        found: dict[str, object] = {}
        missing: dict[str, str] = {}
        for name, value in texts:
            if value is None:
                found[name] = None
                continue
            text = value if isinstance(value, str) else str(value)
            known = self._known[name].get(text)
            if known is None:
                missing[name] = text
            else:
                found[name] = known
        if missing:
            clean = redact_record(missing)
            found.update(clean)
            for name, text in missing.items():
                known_texts = self._known[name]
                if len(known_texts) >= MAX_KNOWN:
                    known_texts.clear()
                known_texts[text] = clean[name]
        return found
