"""A page of rows, redacted once more: nothing leaves that today's rules would not let in.

Column by column, each distinct text once; texts that were found clean are remembered with those of
ingest (``ingest.scrub``), so that a million rows cost little more than their distinct values.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from agent_client.contract.redact import UNAVAILABLE, redact_text, redact_value
from telemetry.exports.columns import TEXTS, Column
from telemetry.exports.datasets import Dataset
from telemetry.ingest.scrub import changes_of
from telemetry.store.pages import PageRow

type Values = Sequence[Any]  # Any: what the column holds
MAX_INT: Final = 2**63 - 1


class RedactionAway(RuntimeError):
    """Secrets cannot be removed on this machine now: nothing may be written."""


@dataclass(frozen=True, slots=True)
class Page:
    """Rows as they may leave, by column; ``redacted_count`` values had to be changed."""

    columns: tuple[Values, ...]
    row_count: int
    redacted_count: int


def check_redaction() -> None:
    """Errors: RedactionAway.

    Asked before each part: a text that cannot be judged is replaced as a whole, and a file of
    those would pass for an export.
    """
    if redact_text("x") == UNAVAILABLE:
        raise RedactionAway


def page_of(dataset: Dataset, rows: Sequence[PageRow]) -> Page:
    """The rows column by column, redacted; numbers that JSON has no form for become None."""
    found: list[Values] = []
    redacted_count = 0
    for column, values in zip(dataset.columns, zip(*rows, strict=True), strict=True):
        if column.kind in TEXTS:
            scrubbed, changed = _scrubbed(column, values, is_strict=dataset.is_strict)
            found.append(scrubbed)
            redacted_count += changed
        else:
            found.append(_finite(values) if column.kind == "float" else values)
    return Page(tuple(found), len(rows), redacted_count)


def _scrubbed(column: Column, values: Values, *, is_strict: bool) -> tuple[Values, int]:
    """The texts with every secret replaced, and how many of them that were."""
    if is_strict or column.kind == "json":
        change = _judged(set(values), _walker(column, is_strict=is_strict))
    else:
        change = changes_of(values, is_id=column.kind == "id")
    if not change:
        return values, 0
    changed = sum(value in change for value in values if value is not None)
    return [change.get(value, value) for value in values], changed


def _judged(values: Iterable[Any], scrub: Callable[[str], str]) -> Mapping[str, str]:
    texts = [value for value in values if isinstance(value, str) and value]
    judged = ((text, scrub(text)) for text in texts)
    return {text: after for text, after in judged if after != text}


def _walker(column: Column, *, is_strict: bool) -> Callable[[str], str]:
    """How one text of the column is scrubbed: one that is JSON value by value."""

    def scrub(text: str) -> str:
        return redact_text(text, strict=is_strict)

    def walk(text: str) -> str:
        try:
            parsed = json.loads(text)
        except ValueError:
            return scrub(text)
        after = redact_value(parsed, strict=is_strict)
        return text if after == parsed else json.dumps(after, separators=(",", ":"))

    return walk if column.kind == "json" else scrub


def _finite(values: Values) -> Values:
    """Without NaN and infinities, which no JSON reader takes; a sum finds them without a look."""
    if math.isfinite(sum(value for value in values if value is not None)):
        return values
    return [value if value is not None and math.isfinite(value) else None for value in values]
