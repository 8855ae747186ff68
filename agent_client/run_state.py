"""What is remembered of a session while its process lives: its run, its turns, its subagents."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from agent_client.calls import Place
from agent_client.contract.events import RunEvent, SpanEvent
from agent_client.ids import id_within
from agent_client.payload import trim
from agent_client.spans import subagent_span, turn_span

MAX_OPEN_TURNS: Final = 8
"""A session has one turn at a time, and now and then one in the background; more were forgotten."""
MAX_ENDED_TURNS: Final = 16
"""Turns whose end is known: what comes late finds its parent, and opens nothing again."""


@dataclass(slots=True)
class Turn:
    """One question with all that was done to answer it."""

    span_id: str
    run: Run
    start_ns: int
    last_ns: int
    model_call_count: int = 0
    tool_call_count: int = 0
    error_count: int = 0
    has_given_up: bool = False
    awaits_model: bool = False
    has_ended: bool = False
    is_background: bool = False

    @property
    def is_aside(self) -> bool:
        """Whether what is seen of it says nothing of how the run goes on."""
        return self.has_ended or self.is_background

    def span(self, end_reason: str, end_ns: int) -> SpanEvent:
        """The turn as a span that ends now."""
        return turn_span(
            self.span_id,
            self.run.run_id,
            self.run.trace_id,
            (self.start_ns, end_ns),
            end_reason,
            model_call_count=self.model_call_count,
            tool_call_count=self.tool_call_count,
            error_count=self.error_count,
        )


@dataclass(slots=True)
class Run:
    """One session's activity in this process."""

    run_id: str
    trace_id: str
    session_id: str
    start_ns: int
    entrypoint: str
    platform: str | None
    parent_run_id: str | None = None
    end_ns: int | None = None
    end_reason: str | None = None
    model_call_count: int = 0
    tool_call_count: int = 0
    error_count: int = 0
    turn_count: int = 0
    has_given_up: bool = False
    awaits_model: bool = False
    is_new: bool = True
    is_final: bool = False
    has_subagent_span: bool = False
    first_turn_ns: int | None = None
    open_turns: OrderedDict[str, Turn] = field(default_factory=OrderedDict)
    ended_turns: OrderedDict[str, Turn] = field(default_factory=OrderedDict)

    def turn(self, turn_id: str) -> Turn | None:
        """A turn that was seen before, ended or not."""
        return self.open_turns.get(turn_id) or self.ended_turns.get(turn_id)

    def begin_turn(self, turn_id: str, start_ns: int, *, is_background: bool = False) -> Turn:
        """A turn seen for the first time; one in the background is none of the person's."""
        # The host starts a new session inside its first turn: that is the first seen of it.
        start_ns = max(min(start_ns, self.first_turn_ns or start_ns), self.start_ns)
        self.first_turn_ns = None
        span_id = id_within(self.run_id, turn_id)
        turn = Turn(span_id, self, start_ns, start_ns, is_background=is_background)
        self.open_turns[turn_id] = turn
        self.turn_count += not is_background
        return turn

    def place(self, turn: Turn | None, start_ns: int, end_ns: int) -> Place:
        """Where something that was seen of this run, or of one of its turns, belongs."""
        parent_span_id = turn.span_id if turn else self.run_id
        return Place(self.run_id, self.trace_id, parent_span_id, start_ns, end_ns)

    def end_turn(self, turn_id: str) -> None:
        """Move a turn to those that have ended."""
        turn = self.open_turns.pop(turn_id)
        turn.has_ended = True
        self.ended_turns[turn_id] = turn
        trim(self.ended_turns, MAX_ENDED_TURNS)

    def event(self, profile_id: str | None, agent_version: str | None) -> RunEvent:
        """The run's row as it stands."""
        # Said once: a later row must not put "unknown" over a cost that was found meanwhile.
        cost_status = "unknown" if self.is_new else None
        self.is_new = False
        return RunEvent(
            run_id=self.run_id,
            trace_id=self.trace_id,
            session_id=self.session_id or None,
            profile_id=profile_id,
            entrypoint=self.entrypoint,
            platform=self.platform,
            start_ns=self.start_ns,
            end_ns=self.end_ns,
            end_reason=self.end_reason,
            model_call_count=self.model_call_count,
            tool_call_count=self.tool_call_count,
            error_count=self.error_count,
            cost_status=cost_status,
            parent_run_id=self.parent_run_id,
            agent_version=agent_version,
            turn_count=self.turn_count,
        )


@dataclass(slots=True)
class Subagent:
    """A child session that runs, as its parent told of it."""

    parent: Run
    parent_span_id: str
    start_ns: int
    role: object

    def span(
        self, child_run_id: str, end_ns: int, outcome: object, duration_ms: float | None
    ) -> SpanEvent:
        """The subagent as a span of its parent's run."""
        return subagent_span(
            child_run_id,
            self.parent.run_id,
            self.parent.trace_id,
            self.parent_span_id,
            (self.start_ns, end_ns),
            outcome,
            self.role,
            duration_ms,
        )
