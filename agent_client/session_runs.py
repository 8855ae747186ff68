"""The sessions of one process: their runs, their turns, and which of them is open.

Makes no sense of payloads beyond the ids in them; the caller holds the lock.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from agent_client.classify import entrypoint_of
from agent_client.contract.events import Event
from agent_client.happenings import gateway_message
from agent_client.ids import new_id
from agent_client.payload import Payload, id_of, name_of, trim
from agent_client.run_state import MAX_OPEN_TURNS, Run, Subagent, Turn
from agent_client.spans import turn_status

MAX_SESSIONS: Final = 4096
"""Sessions remembered in a long-lived gateway; the longest idle is forgotten first."""
MAX_SUBAGENTS: Final = 1024
"""Subagents whose stop is waited for."""
GATEWAY_PLATFORMS: Final = ("api_server",)
"""Served by the host's gateway, though their entrypoint has a name of its own."""
BACKGROUND_THREAD: Final = "bg-review"
"""Where the host reviews a session after its turn, under the session's own id: nobody asked for it,
and a run whose turn is over does not become unfinished by it."""


class Sessions:
    """Opens, closes and counts; emits a run's row whenever it could be the last.

    Subagents are keyed by their child session.
    """

    def __init__(
        self, emit: Callable[[Event], None], profile_id: str | None, agent_version: str | None
    ) -> None:
        self.runs: OrderedDict[str, Run] = OrderedDict()
        self.turns: OrderedDict[str, Turn] = OrderedDict()
        self.subagents: OrderedDict[str, Subagent] = OrderedDict()
        self._emit = emit
        self._profile_id = profile_id
        self._agent_version = agent_version

    def run_of(self, payload: Payload, start_ns: int) -> Run:
        """The run of the session that a payload names; a new one when it is not known."""
        session_id = id_of(payload.get("session_id")) or ""
        run = self.runs.get(session_id)
        if run is None:
            run = self.open(session_id, payload.get("platform"), start_ns)
            self.emit_run(run)
        else:
            self.runs.move_to_end(session_id)
        return run

    def open(self, session_id: str, platform: object, start_ns: int) -> Run:
        """A new run."""
        run = Run(
            run_id=new_id(),
            trace_id=new_id(),
            session_id=session_id,
            start_ns=start_ns,
            entrypoint=entrypoint_of(platform),
            platform=name_of(platform),
        )
        self.runs[session_id] = run
        trim(self.runs, MAX_SESSIONS)
        return run

    def child_of(self, parent: Run | None, child_id: str, now_ns: int) -> Run:
        """The run of a parent's child session, in its parent's trace."""
        child = self.runs.get(child_id) or self.open(child_id, "subagent", now_ns)
        if parent is not None and parent is not child and child.parent_run_id is None:
            child.parent_run_id, child.trace_id = parent.run_id, parent.trace_id
        self.emit_run(child)
        return child

    def send(self, child: Run, parent: Run, turn: Turn | None, now_ns: int, role: object) -> None:
        """Remember a subagent until its stop, with the turn that sent it."""
        parent_span_id = turn.span_id if turn else parent.run_id
        self.subagents[child.session_id] = Subagent(parent, parent_span_id, now_ns, role)
        trim(self.subagents, MAX_SUBAGENTS)

    def finish(self, run: Run) -> None:
        """Note that a session is over: nobody waits for its subagents any more."""
        run.is_final = True
        for child_id, subagent in list(self.subagents.items()):
            child = self.runs.get(child_id)
            if subagent.parent is run and child is not None and child.end_ns is not None:
                self.end_unheard_subagent(child, child.end_ns)

    def seen(self, run: Run, payload: Payload, start_ns: int, end_ns: int) -> Turn | None:
        """The turn that something was seen of. Activity after an end opens the run again.

        Not so in the background, nor late in a turn that has ended: nothing would close it after.
        """
        turn = self.turn_of(run, payload.get("turn_id"), start_ns)
        if turn is not None:
            turn.start_ns = max(min(turn.start_ns, start_ns), run.start_ns)
            turn.last_ns = max(turn.last_ns, end_ns)
            if turn.is_aside:
                return turn
        if run.end_ns is not None:
            run.end_ns = run.end_reason = None
            run.is_final = False
            self.emit_run(run)
        return turn

    def count(
        self,
        run: Run,
        turn: Turn | None,
        *,
        model_calls: int = 0,
        tool_calls: int = 0,
        errors: int = 0,
    ) -> None:
        """Add to a run, and to the turn it was in."""
        for counted in (run,) if turn is None else (run, turn):
            counted.model_call_count += model_calls
            counted.tool_call_count += tool_calls
            counted.error_count += errors
        if turn is not None and turn.is_aside and run.end_ns is not None:
            self.emit_run(run)  # nothing that comes after tells of it

    def turn_of(self, run: Run, value: object, start_ns: int) -> Turn | None:
        """A run's turn by the host's id, begun when it is new; None without an id."""
        turn_id = id_of(value)
        if not turn_id:
            return None
        turn = run.turn(turn_id)
        if turn is None:
            self._make_room(run, start_ns)
            is_continued = self._leave_session(run, turn_id)
            is_background = threading.current_thread().name == BACKGROUND_THREAD
            turn = run.begin_turn(turn_id, start_ns, is_background=is_background)
            self.turns[turn_id] = turn
            trim(self.turns, MAX_SESSIONS)
            if not is_continued:
                self._emit_message(turn, turn.start_ns)
        return turn

    def _make_room(self, run: Run, now_ns: int) -> None:
        """Before another turn: one that gave up ends unheard, and so does the oldest of many."""
        for turn_id, turn in list(run.open_turns.items()):
            if turn.has_given_up:
                self.end_turn(run, turn_id, "failed", turn.last_ns)
        while len(run.open_turns) >= MAX_OPEN_TURNS:
            self.end_turn(run, next(iter(run.open_turns)), "interrupted", now_ns)

    def _leave_session(self, run: Run, turn_id: str) -> bool:
        """Whether a turn goes on in another session, as one may where what was said is compressed.

        It has a span in either; the first session is over, and no message came or went.
        """
        former = self.turns.get(turn_id)
        if former is None or former.has_ended or former.run is run:
            return False
        former.run.end_turn(turn_id)
        self._emit(former.span("completed", former.last_ns))
        self.close(former.run, "completed", former.last_ns)
        if not run.turn_count:
            run.trace_id = former.run.trace_id
            # The first heard of it may be a tool call, which says no platform.
            run.platform, run.entrypoint = former.run.platform, former.run.entrypoint
            self.emit_run(run)
        return True

    def end_turns(self, run: Run, reason: str, now_ns: int) -> None:
        """End all open turns of a run; those that gave up have failed before."""
        for turn_id, turn in list(run.open_turns.items()):
            if turn.has_given_up:
                self.end_turn(run, turn_id, "failed", turn.last_ns)
            else:
                self.end_turn(run, turn_id, reason, now_ns)

    def end_turn(self, run: Run, turn_id: str, reason: str, end_ns: int) -> None:
        """End one open turn."""
        turn = run.open_turns[turn_id]
        run.end_turn(turn_id)
        self._emit(turn.span(reason, end_ns))
        if turn.is_background and run.end_ns is not None:
            run.end_ns = max(run.end_ns, end_ns)
            self.emit_run(run)
        self._emit_message(turn, end_ns, turn_status(reason))

    def end_unheard_subagent(self, child: Run, end_ns: int) -> None:
        """A subagent that outlived its session: nobody waits to tell of its stop."""
        subagent = self.subagents.get(child.session_id)
        if subagent is not None and subagent.parent.is_final:
            del self.subagents[child.session_id]
            self.tell_of(child, subagent, end_ns, child.end_reason)

    def tell_of(
        self,
        child: Run,
        subagent: Subagent,
        end_ns: int,
        outcome: object,
        duration_ms: float | None = None,
    ) -> None:
        """Emit a subagent's span; a child that is sent again has had its one."""
        if not child.has_subagent_span:
            child.has_subagent_span = True
            self._emit(subagent.span(child.run_id, end_ns, outcome, duration_ms))

    def close(self, run: Run, reason: str, at_ns: int) -> None:
        """End a run."""
        run.end_ns = max(at_ns, run.start_ns)
        run.end_reason = reason
        self.emit_run(run)

    def emit_run(self, run: Run) -> None:
        """Emit a run's row as it stands."""
        self._emit(run.event(self._profile_id, self._agent_version))

    def _emit_message(self, turn: Turn, ts_ns: int, result: str | None = None) -> None:
        run = turn.run
        is_gateway = run.entrypoint == "gateway" or run.platform in GATEWAY_PLATFORMS
        if is_gateway and not turn.is_background:
            self._emit(
                gateway_message(run.run_id, run.trace_id, turn.span_id, ts_ns, run.platform, result)
            )
