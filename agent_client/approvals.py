"""Approvals between the question, the answer and the tool call they belong to."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from agent_client.classify import approval_of
from agent_client.contract.events import SpanEvent
from agent_client.ids import new_id
from agent_client.payload import Payload, id_of, trim
from agent_client.spans import approval_span

MAX_PENDING: Final = 1024
"""Questions without an answer and answers without a tool call; the oldest are forgotten."""


@dataclass(slots=True)
class Approval:
    """An answer, with the time it took."""

    choice: str
    surface: object
    decided_by: object
    start_ns: int
    end_ns: int
    has_span: bool = False

    def span(self, run_id: str, trace_id: str, parent_span_id: str) -> SpanEvent:
        """The wait for this answer as a span; made once."""
        self.has_span = True
        return approval_span(
            new_id(),
            run_id,
            trace_id,
            parent_span_id,
            (self.start_ns, self.end_ns),
            self.choice,
            self.surface,
            self.decided_by,
        )


class Approvals:
    """Those of one process, bounded; the caller holds its lock.

    Joined by tool call id, else by turn id: the hooks of an approval name no session.
    """

    def __init__(self) -> None:
        self.asked_ns: OrderedDict[str, int] = OrderedDict()
        self.answered: OrderedDict[str, Approval] = OrderedDict()

    def ask(self, payload: Payload, now_ns: int) -> None:
        """Note when it was first asked: a smart one that cannot decide goes on to ask a person."""
        key = _key_of(payload)
        if key:
            self.asked_ns.setdefault(key, now_ns)
            trim(self.asked_ns, MAX_PENDING)

    def answer(self, payload: Payload, now_ns: int) -> Approval | None:
        """The answer, kept for its tool call; None for a word we do not know."""
        choice, key = approval_of(payload.get("choice")), _key_of(payload)
        if not choice or not key:
            return None
        start_ns = min(self.asked_ns.pop(key, now_ns), now_ns)
        approval = Approval(
            choice, payload.get("surface"), payload.get("decided_by"), start_ns, now_ns
        )
        self.answered[key] = approval
        trim(self.answered, MAX_PENDING)
        return approval

    def take(self, payload: Payload) -> Approval | None:
        """The answer that a tool call waited for; nobody else gets it."""
        found = self.answered.pop(id_of(payload.get("tool_call_id")) or "", None)
        return found or self.answered.pop(id_of(payload.get("turn_id")) or "", None)


def _key_of(payload: Payload) -> str | None:
    return id_of(payload.get("tool_call_id")) or id_of(payload.get("turn_id"))
