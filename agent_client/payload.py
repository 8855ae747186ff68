"""What a hook's values may become: bounded text, counts, times; anything else is None.

A hook's payload holds the host's objects of any type. These readers look at a value's type and
size before anything else, so that a hostile one costs nothing.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final, TypeVar

from agent_client.contract.tables import COUNT_MAX, ID_MAX_CHARS, NAME_MAX_CHARS

Payload = Mapping[str, object]
T = TypeVar("T")

_IDENTIFIER: Final = re.compile(rf"[\w.:/@+-]{{1,{NAME_MAX_CHARS}}}")


def id_of(value: object) -> str | None:
    """An id of the host's; None for no text."""
    return value[:ID_MAX_CHARS] if isinstance(value, str) and value else None


def name_of(value: object) -> str | None:
    """A provider's, model's, tool's or class's name; None for no text."""
    return value[:NAME_MAX_CHARS] if isinstance(value, str) and value else None


def identifier_of(value: object) -> str | None:
    """A name without a blank; None for anything else.

    For names that a model or its provider writes: where a tool's name belongs a model may put a
    sentence, and what was said is not recorded.
    """
    return value if isinstance(value, str) and _IDENTIFIER.fullmatch(value) else None


def word_of(value: object, words: Mapping[str, str]) -> str | None:
    """Our word for one of the host's, from a closed list; None for any other."""
    return words.get(value) if isinstance(value, str) else None


def count_of(value: object) -> int | None:
    """A whole number from 0 to COUNT_MAX; None otherwise."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= COUNT_MAX:
        return None
    return value


def number_of(value: object) -> float | None:
    """A number from 0 to 1e12; None otherwise."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e12:
        return None
    return float(value)


def time_ns_of(value: object) -> int | None:
    """The host's float seconds since the epoch as nanoseconds."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 9e9:
        return None
    return int(value * 1e9)


def interval_ns_of(payload: Payload, now_ns: int) -> tuple[int, int]:
    """Start and end of a request; ``now_ns`` stands in for an end the host does not say."""
    end_ns = time_ns_of(payload.get("ended_at")) or now_ns
    start_ns = time_ns_of(payload.get("started_at")) or end_ns
    return min(start_ns, end_ns), end_ns


def trim(table: OrderedDict[str, T], bound: int) -> None:
    """Forget the oldest entries past ``bound``."""
    while len(table) > bound:
        table.popitem(last=False)
