"""The second redaction, on arrival: nothing of the agent's own is trusted.

Structured rows are cheap to scrub: each distinct text once a batch, ids by pattern, and texts
that were found clean before are remembered (model and tool names repeat for ever).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Final

from agent_client.contract.redact import RULESET_VERSION, redact_text, suspects
from agent_client.contract.redact_rows import HOST_ID
from agent_client.contract.tables import BY_NAME
from telemetry.ingest.otlp_traces import TraceFacts
from telemetry.models.aggregate import RECORD_ID_MAX_CHARS
from telemetry.store.content import Content
from telemetry.store.copy import Columns, Row, columns_of
from telemetry.store.pack import Values
from telemetry.store.summaries import Summary

SUSPECT_STEP: Final = 64
"""Texts in which secrets are sought together: more of them have more rules in common."""
MAX_REMEMBERED: Final = 20_000
"""About 2 MB of short names; a hostile stream of new ones only empties the memory early."""
REMEMBERED_CHARS: Final = 80
QUARANTINE_CHARS: Final = 4096
"""Enough to see what is wrong with a line; a batch of 50,000 bad lines must not fill the disk."""
PRECUT_BYTES: Final = 16_384
"""What of a refused line is scrubbed at all: a second of CPU for a batch of such lines, not ten."""
CUT_MARGIN_CHARS: Final = 4096
"""Longer than any key; a PEM block is found by its first line."""
_HEX_ID: Final = re.compile(
    r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{16,32}", re.ASCII
)
"""Most ids; asked before ``HOST_ID``, because it fails or succeeds without going back. Any other
goes the long way: vendors make keys of hex parts with hyphens, too."""
HEX_ID_CHARS: Final = (16, 32)
_HEX_DIGITS: Final = b"0123456789abcdef"
_ID_FIELDS: Final = frozenset({"record_id", "install_id"})
_clean: set[str] = set()


@dataclass(frozen=True, slots=True)
class Scrubbed:
    """What may be stored; ``hit_count`` texts (distinct, by column) had to be changed.

    ``columns``: the rows column by column, where they are at hand.
    """

    rows: dict[str, list[Row]]
    hit_count: int
    summaries: list[Summary] = field(default_factory=list)
    traces: dict[str, TraceFacts] = field(default_factory=dict)
    content: Content | None = None
    ruleset: str = str(RULESET_VERSION)
    columns: dict[str, Columns] = field(default_factory=dict)

    def columns_by_table(self) -> dict[str, Columns]:
        """The rows column by column; of a table without rows, none."""
        return self.columns or {name: columns_of(found) for name, found in self.rows.items()}


def scrub_rows(
    rows: Mapping[str, list[Row]], traces: dict[str, TraceFacts] | None = None
) -> Scrubbed:
    """The rows, and what traces say of their runs, with every secret replaced.

    Redaction itself fails closed.
    """
    scrubbed: dict[str, list[Row]] = {}
    by_column: dict[str, Columns] = {}
    hit_count = 0
    for name, found in rows.items():
        columns = list(columns_of(found))
        is_changed = False
        for at, column in enumerate(BY_NAME[name].columns if columns else ()):
            if column.max_chars:
                change = changes_of(columns[at], is_id=column.kind == "id")
                if change:
                    hit_count += len(change)
                    is_changed = True
                    columns[at] = [change.get(value, value) for value in columns[at]]  # type: ignore[arg-type]  # texts and None
        scrubbed[name] = list(zip(*columns, strict=True)) if is_changed else found
        by_column[name] = columns
    told = traces or {}
    hit_count += _scrub_traces(told)
    return Scrubbed(scrubbed, hit_count, traces=told, columns=by_column)


def changes_of(values: Values, *, is_id: bool) -> dict[str, str]:
    """What the distinct texts of a column become; only those that change. Fails closed."""
    if is_id and _are_hex_ids(values):
        return {}
    return _changes(set(values), is_id=is_id)


def _are_hex_ids(values: Values) -> bool:
    """Whether all texts of a column are hex ids, found without a look at each.

    The same verdict as ``_HEX_ID`` on every one, without the form with hyphens.
    """
    texts = list(filter(None, values))
    if not texts:
        return True
    sizes = set(map(len, texts))  # type: ignore[arg-type]  # a column of texts
    if min(sizes) < HEX_ID_CHARS[0] or max(sizes) > HEX_ID_CHARS[1]:
        return False
    joined = "".join(texts)  # type: ignore[arg-type]  # the same
    return joined.isascii() and not joined.encode().translate(None, _HEX_DIGITS)


def _scrub_traces(traces: Mapping[str, TraceFacts]) -> int:
    """Replace the secrets in what is said of runs; how many texts had to be changed."""
    said = {said[3] for facts in traces.values() for said in facts.said.values()}
    change = _changes(set(said), is_id=False)
    if change:
        for facts in traces.values():
            facts.replace(change)
    return len(change)


def scrub_summaries(summaries: list[Summary]) -> Scrubbed:
    """The summaries with every secret replaced."""
    hits: set[str] = set()
    scrubbed = [
        replace(
            item,
            record_id=str(_scrubbed(item.record_id, hits, is_id=True))[:RECORD_ID_MAX_CHARS],
            data={
                name: _scrubbed(value, hits, is_id=name in _ID_FIELDS)
                for name, value in item.data.items()
            },
        )
        for item in summaries
    ]
    return Scrubbed({}, len(hits), scrubbed)


def _scrubbed(value: object, hits: set[str], *, is_id: bool = False) -> object:
    if isinstance(value, str):
        change = _changes({value}, is_id=is_id)
        hits.update(change)
        return change.get(value, value)
    if isinstance(value, list):
        return [_scrubbed(item, hits) for item in value]
    if isinstance(value, dict):
        return {name: _scrubbed(item, hits) for name, item in value.items()}
    return value


def scrub_raw(raw: bytes) -> str:
    """The beginning of a refused line as text that can be stored and shown."""
    is_cut = len(raw) > PRECUT_BYTES
    text = raw[:PRECUT_BYTES].decode("utf-8", errors="backslashreplace")
    text = redact_text(text, strict=True).replace("\x00", "\\x00")
    if is_cut:
        # What the first cut left of a key may be no key to any rule.
        text = text[:-CUT_MARGIN_CHARS]
    if is_cut or len(text) > QUARANTINE_CHARS:
        return text[: QUARANTINE_CHARS - 1] + "…"
    return text


def scrub_text(text: str) -> str:
    """One short text from a header, scrubbed; remembered when it was clean."""
    if text in _clean:
        return text
    scrubbed = redact_text(text)
    if scrubbed == text:
        _remember(text)
    return scrubbed


def scrub_and_cut(text: str, max_chars: int) -> str:
    """A text cut at its bound, its secrets replaced before: half a key is no key to any rule.

    One within the bound is left to the scrubbing of its column.
    """
    if len(text) <= max_chars:
        return text
    scrubbed = scrub_text(text[: max_chars + CUT_MARGIN_CHARS])
    if len(text) > max_chars + CUT_MARGIN_CHARS:
        scrubbed = scrubbed[:-CUT_MARGIN_CHARS]
    return scrubbed[:max_chars]


def scrub_id(text: str) -> str:
    """An id with every secret replaced; ids of the usual forms are known by them."""
    return _changes({text}, is_id=True).get(text, text)


def _changes(values: AbstractSet[object], *, is_id: bool) -> dict[str, str]:
    unjudged = [
        value
        for value in values
        if isinstance(value, str)
        and value
        and value not in _clean
        and not (is_id and (_HEX_ID.fullmatch(value) or HOST_ID.fullmatch(value)))
    ]
    changes: dict[str, str] = {}
    for value in _suspects(unjudged):
        redacted = redact_text(value)
        if redacted != value:
            changes[value] = redacted
    if not is_id:
        for value in unjudged:
            if value not in changes:
                _remember(value)
    return changes


def _suspects(texts: Sequence[str]) -> Iterator[str]:
    """Those of the texts that redaction may change."""
    for first in range(0, len(texts), SUSPECT_STEP):
        yield from suspects(texts[first : first + SUSPECT_STEP])


def _remember(text: str) -> None:
    if len(text) > REMEMBERED_CHARS:
        return
    if len(_clean) >= MAX_REMEMBERED:
        _clean.clear()
    _clean.add(text)
