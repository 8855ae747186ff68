"""An event as the payload of a frame, and back: marshal, for it costs ``emit`` the least.

A typed event is ``(kind, values in column order)``; one that marshal does not take as it is,
or that came as a mapping, is ``(0, {"event": …})`` of plain values.
"""

from __future__ import annotations

import marshal
from collections.abc import Mapping
from operator import attrgetter
from typing import Final

from agent_client.contract.events import EVENT_TYPES
from agent_client.contract.tables import EVENT_TABLES
from agent_client.eventlog import Line

KINDS: Final = tuple(EVENT_TYPES)
"""A frame names its kind by position here; append only, or old spools read as other kinds."""
ENCODERS: Final = {
    cls: (KINDS.index(name), attrgetter(*cls.TABLE.column_names()))
    for name, cls in EVENT_TYPES.items()
}
"""``emit`` itself calls these, a function call being what it saves."""
MAX_TEXT_CHARS: Final = 1000
"""Of a value that did not come in a typed event; more than any column takes."""

_COLUMNS: Final = {table.event: table.column_names() for table in EVENT_TABLES}


def encode_plainly(event: object) -> bytes:
    """The payload of a mapping, or of an event with values that marshal does not take.

    Errors: whatever the event raises.
    """
    data = event if isinstance(event, Mapping) else event.to_dict()  # type: ignore[attr-defined]  # the caller counts it
    plain = {str(key): _plain(value) for key, value in data.items()}
    return marshal.dumps((0, plain), 2)


def _plain(value: object) -> object:
    """A value marshal and JSON both take, bounded."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, str):
        return str.__str__(value)[:MAX_TEXT_CHARS]
    return type(value).__name__


def decode(payload: bytes) -> Line:
    """The event of a payload, and its values where the frame holds just these.

    Errors: ValueError, EOFError, TypeError, IndexError when it is not one; the frame's
    checksum has been verified, so marshal reads only what a recorder wrote.
    """
    kind, body = marshal.loads(payload)  # noqa: S302  # checksummed, and from a 0700 folder
    if isinstance(body, dict):
        return Line(body)
    name = KINDS[kind]
    return Line({"event": name, **dict(zip(_COLUMNS[name], body, strict=True))}, values=body)
