"""The trajectories plane's records: sessions and their messages, typed and bounded.

Nothing else knows these types: no event, summary or aggregate record can hold what is in them. A
line of ``export --include-content`` is such a session with its messages inside; a push sends
sessions without them and each message on a line of its own, because a line has a limit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from agent_client.contract.tables import COUNT_MAX, TIME_MAX_NS

SESSION: Final = "session"
MESSAGE: Final = "message"
ID_MAX_CHARS: Final = 200
NAME_MAX_CHARS: Final = 200
TITLE_MAX_CHARS: Final = 1_000
MAX_MESSAGES: Final = 20_000
"""Messages within one session's line; a longer session sends them on lines of their own."""
MAX_BATCH_BYTES: Final = 16 * 1024 * 1024
"""Decoded, of one batch: what the strict scrubber gets through in a few seconds."""
CONTENT_FIELDS: Final = ("content",)
REASONING_FIELDS: Final = ("reasoning", "reasoning_content", "reasoning_details")
CALL_FIELDS: Final = ("tool_calls",)
_NAMES: Final = ("role", "name", "tool_name", "tool_call_id", "finish_reason")
_NS: Final = 1_000_000_000


class ContentFault(Exception):
    """A record that is refused: ``code`` of wire.LINE_CODES, ``field`` a name of ours."""

    def __init__(self, code: str, field_name: str = "") -> None:
        super().__init__(code)
        self.code = code
        self.field = field_name


@dataclass(frozen=True, slots=True)
class SessionFacts:
    """A session without its messages; a later ``seq`` replaces an earlier. Times in ns."""

    session_id: str
    started_ns: int
    seq: int = 0
    source: str | None = None
    model: str | None = None
    title: str | None = None
    ended_ns: int | None = None
    message_count: int | None = None
    tool_call_count: int | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """One message; ``body`` has its content, reasoning and tool calls as they came."""

    session_id: str
    message_id: int
    sent_ns: int
    names: Mapping[str, str] = field(default_factory=dict)
    token_count: int | None = None
    body: Mapping[str, object] = field(default_factory=dict)


Item = SessionFacts | Message | ContentFault


def items_of(record: Mapping[str, object]) -> Iterator[Item]:
    """What one line holds: a message, or a session and its messages. Never raises.

    Unknown fields are dropped, as an older console does with a newer agent's; their names are
    never repeated, for a name may be content.
    """
    kind = record.get("_kind")
    if kind == MESSAGE:
        yield _item(lambda: _message(record, "", None))
        return
    if kind != SESSION:
        yield ContentFault("unknown_kind")
        return
    facts = _item(lambda: _session(record))
    yield facts
    if not isinstance(facts, SessionFacts):
        return
    inner = record.get("messages")
    if inner is None:
        return
    if not isinstance(inner, list) or len(inner) > MAX_MESSAGES:
        yield ContentFault("wrong_type" if not isinstance(inner, list) else "too_long", "messages")
        return
    for one in inner:
        yield _item(lambda one=one: _inner(one, facts))


def _item(make: object) -> Item:
    assert callable(make)  # noqa: S101 -- the lambdas above
    try:
        made: Item = make()
    except ContentFault as fault:
        return fault
    return made


def _inner(one: object, facts: SessionFacts) -> Message:
    if not isinstance(one, Mapping):
        raise ContentFault("wrong_type", "messages")
    return _message(one, facts.session_id, facts.started_ns)


def _session(record: Mapping[str, object]) -> SessionFacts:
    started_ns = _time(record, "started_at")
    if started_ns is None:
        raise ContentFault("missing_field", "started_at")
    return SessionFacts(
        session_id=_required(record, "id"),
        started_ns=started_ns,
        seq=_count(record, "seq") or 0,
        source=_text(record, "source", NAME_MAX_CHARS),
        model=_text(record, "model", NAME_MAX_CHARS),
        title=_text(record, "title", TITLE_MAX_CHARS, is_cut=True),
        ended_ns=_time(record, "ended_at"),
        message_count=_count(record, "message_count"),
        tool_call_count=_count(record, "tool_call_count"),
    )


def _message(record: Mapping[str, object], session_id: str, started_ns: int | None) -> Message:
    sent_ns = _time(record, "timestamp")
    sent_ns = started_ns if sent_ns is None else sent_ns
    if sent_ns is None:
        raise ContentFault("missing_field", "timestamp")
    number = _count(record, "id")
    if number is None:
        raise ContentFault("missing_field", "id")
    body = {
        name: record[name]
        for name in (*CONTENT_FIELDS, *REASONING_FIELDS, *CALL_FIELDS)
        if record.get(name) is not None
    }
    named = {name: _text(record, name, NAME_MAX_CHARS) for name in _NAMES}
    return Message(
        session_id=session_id or _required(record, "session_id"),
        message_id=number,
        sent_ns=sent_ns,
        names={name: text for name, text in named.items() if text is not None},
        token_count=_count(record, "token_count"),
        body=body,
    )


def _required(record: Mapping[str, object], name: str) -> str:
    text = _text(record, name, ID_MAX_CHARS)
    if not text:
        raise ContentFault("missing_field", name)
    return text


def _text(
    record: Mapping[str, object], name: str, most: int, *, is_cut: bool = False
) -> str | None:
    value = record.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise ContentFault("wrong_type", name)
    if "\x00" in value or not _is_encodable(value):
        raise ContentFault("invalid_text", name)
    if len(value) > most and not is_cut:
        raise ContentFault("too_long", name)
    return value[:most]


def _is_encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _count(record: Mapping[str, object], name: str) -> int | None:
    value = record.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise ContentFault("wrong_type", name)
    if not 0 <= value <= COUNT_MAX:
        raise ContentFault("out_of_range", name)
    return value


def _time(record: Mapping[str, object], name: str) -> int | None:
    """Seconds since the epoch as nanoseconds, whole microseconds: the same text, the same key."""
    value = record.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ContentFault("wrong_type", name)
    if not math.isfinite(value) or not 0 <= value <= TIME_MAX_NS / _NS:
        raise ContentFault("out_of_range", name)
    return round(value * 1_000_000) * 1_000
