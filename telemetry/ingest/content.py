"""Lines of the trajectories plane to content that may be stored: typed, bounded, scrubbed here.

What is judged is scrubbed in the same step, in strict mode, so that no unscrubbed content is ever
handed on. A refused line leaves its number, its code and a field's name: neither its text nor the
names it uses, which may be content, reach the quarantine, a receipt or a log.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from agent_client.contract.content import (
    CALL_FIELDS,
    CONTENT_FIELDS,
    MAX_BATCH_BYTES,
    REASONING_FIELDS,
    ContentFault,
    Item,
    Message,
    SessionFacts,
    items_of,
)
from agent_client.contract.redact import UNAVAILABLE, redact_message, redact_text
from fleet.lib.clock import datetime_to_ns, now
from telemetry.ingest.decode import IngestError
from telemetry.ingest.scrub import scrub_id
from telemetry.ingest.validate import LineFault, Refused, TimeBounds, Verdicts, read_record
from telemetry.store.content import Content, StoredMessage, StoredSession
from telemetry.store.retention import content_accepted_from

DROPPED = b""
"""What is kept of a refused line."""


def judge_content(lines: Sequence[tuple[int, bytes]], bounds: TimeBounds, *, pii: bool) -> Verdicts:
    """A verdict on each session and message, the accepted ones scrubbed.

    ``pii``: personal data is replaced, too. Errors: IngestError unavailable when the scrubber
    cannot run (the agent keeps its batch), decoded_too_large.
    """
    if sum(len(line) for _, line in lines) > MAX_BATCH_BYTES:
        raise IngestError("decoded_too_large", f"at most {MAX_BATCH_BYTES} bytes of this plane")
    if redact_text("") == UNAVAILABLE:
        raise IngestError("unavailable", "secrets cannot be removed on this console now")
    oldest_ns = max(bounds.oldest_ns, datetime_to_ns(content_accepted_from(now())))
    found = Content()
    refused: list[Refused] = []
    for number, line in lines:
        for item in _items(line):
            fault = item if isinstance(item, ContentFault) else _time_fault(item, oldest_ns, bounds)
            if fault is not None:
                refused.append(Refused(number, fault.code, fault.field, DROPPED))
            elif isinstance(item, SessionFacts):
                found.sessions.append(_session(item, found, pii=pii))
            elif isinstance(item, Message):
                found.messages.append(_message(item, found, pii=pii))
    received = len(refused) + len(found.sessions) + len(found.messages)
    return Verdicts(received, {}, refused, content=found)


def _items(line: bytes) -> Sequence[Item]:
    try:
        return list(items_of(read_record(line)))
    except LineFault as fault:
        return [ContentFault(fault.code)]


def _time_fault(
    item: SessionFacts | Message, oldest_ns: int, bounds: TimeBounds
) -> ContentFault | None:
    time_ns, name = (
        (item.started_ns, "started_at")
        if isinstance(item, SessionFacts)
        else (item.sent_ns, "timestamp")
    )
    if time_ns > bounds.newest_ns:
        return ContentFault("time_in_future", name)
    return ContentFault("time_too_old", name) if time_ns < oldest_ns else None


def _session(item: SessionFacts, found: Content, *, pii: bool) -> StoredSession:
    def scrubbed(text: str | None) -> str | None:
        made = None if text is None else redact_text(text, strict=True, pii=pii)
        found.hit_count += made != text
        return made

    return StoredSession(
        session_id=scrub_id(item.session_id),
        start_ns=item.started_ns,
        seq=item.seq,
        source=scrubbed(item.source),
        model=None if item.model is None else redact_text(item.model),
        title=scrubbed(item.title),
        ended_ns=item.ended_ns,
        message_count=item.message_count,
        tool_call_count=item.tool_call_count,
    )


def _message(item: Message, found: Content, *, pii: bool) -> StoredMessage:
    made = redact_message({**item.names, **item.body}, include_content=True, pii=pii)
    found.hit_count += any(made.get(name) != item.body.get(name) for name in CONTENT_FIELDS)
    reasoning = {name: made[name] for name in REASONING_FIELDS if made.get(name)}
    return StoredMessage(
        session_id=scrub_id(item.session_id),
        start_ns=item.sent_ns,
        message_id=item.message_id,
        names={name: str(made[name]) for name in item.names},
        token_count=item.token_count,
        content_json=_json(made, *CONTENT_FIELDS),
        reasoning_json=json.dumps(reasoning) if reasoning else None,
        tool_calls_json=_json(made, *CALL_FIELDS),
    )


def _json(made: Mapping[str, object], name: str) -> str | None:
    """A field as JSON text, ASCII: whatever a model wrote, a database can store it."""
    value = made.get(name)
    return None if value is None or value == [] else json.dumps(value)
