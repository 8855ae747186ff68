"""From hook calls that cannot be trusted to fire to one correct run each, with its turns.

A run is one session's activity in one process. Its row is emitted again
whenever its end could be the last thing we hear: first hook, turn end, request
given up, finalize. Keyed by explicit session ids: the host runs subagents and
gateway sessions on threads that context variables do not reach. Spans are
emitted once, at their end; what a dead process owes, ``closing`` makes up.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from agent_client.approvals import MAX_PENDING, Approvals
from agent_client.calls import failed_attempt, model_call, tool_call
from agent_client.classify import entrypoint_of, is_final, result_class_of
from agent_client.contract.events import Event
from agent_client.happenings import gateway_message, happening_of
from agent_client.ids import new_id
from agent_client.payload import Payload, id_of, interval_ns_of, name_of, number_of, trim, word_of
from agent_client.prices import PriceTable
from agent_client.run_state import MAX_OPEN_TURNS, Run, Subagent, Turn
from agent_client.spans import turn_status

MAX_SESSIONS: Final = 4096
"""Sessions remembered in a long-lived gateway; the longest idle is forgotten first."""
DENIALS: Final = ("denied", "smart_deny")
CHILD_ENDS: Final = {word: word for word in ("completed", "timeout", "interrupted")}
GATEWAY_PLATFORMS: Final = ("api_server",)
"""Served by the host's gateway, though their entrypoint has a name of its own."""
BACKGROUND_THREAD: Final = "bg-review"
"""Where the host reviews a session after its turn, under the session's own id: nobody asked for it,
and a run whose turn is over does not become unfinished by it."""


class RunTracker:
    """Turns hook payloads into events; thread-safe, bounded, and ignorant of the host.

    ``emit`` receives each event; ``clock_ns`` is the wall clock.
    """

    def __init__(
        self,
        emit: Callable[[Event], None],
        *,
        profile_id: str | None = None,
        agent_version: str | None = None,
        prices: PriceTable | None = None,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._emit = emit
        self._profile_id = profile_id
        self._agent_version = agent_version
        self._prices = prices or PriceTable(None)
        self._clock_ns = clock_ns
        self._lock = threading.RLock()
        self._runs: OrderedDict[str, Run] = OrderedDict()
        self._turns: OrderedDict[str, Turn] = OrderedDict()
        self._subagents: OrderedDict[str, Subagent] = OrderedDict()
        self._failed_attempts: OrderedDict[str, int] = OrderedDict()
        self._approvals = Approvals()

    # -- hooks ------------------------------------------------------------------------------

    def on_session_start(self, payload: Payload) -> None:
        """A brand-new session, inside its first turn; not fired on resume."""
        with self._lock:
            run = self._run_of(payload, self._clock_ns())
            if not run.turn_count:
                run.first_turn_ns = run.start_ns

    def on_subagent_start(self, payload: Payload) -> None:
        """A child session: its own run, in its parent's trace."""
        child_id = id_of(payload.get("child_session_id"))
        if not child_id:
            return
        now_ns = self._clock_ns()
        with self._lock:
            parent = self._runs.get(id_of(payload.get("parent_session_id")) or "")
            child = self._runs.get(child_id) or self._open(child_id, "subagent", now_ns)
            if parent is not None and parent is not child:
                if child.parent_run_id is None:
                    child.parent_run_id, child.trace_id = parent.run_id, parent.trace_id
                turn = self._turn_of(parent, payload.get("parent_turn_id"), now_ns)
                self._subagents[child_id] = Subagent(
                    parent,
                    turn.span_id if turn else parent.run_id,
                    now_ns,
                    payload.get("child_role"),
                )
                trim(self._subagents, MAX_PENDING)
            self._emit_run(child)

    def on_subagent_stop(self, payload: Payload) -> None:
        """The child's outcome, for its own run where its turn end did not come."""
        child_id = id_of(payload.get("child_session_id")) or ""
        status = payload.get("child_status")
        now_ns = self._clock_ns()
        with self._lock:
            child, subagent = self._runs.get(child_id), self._subagents.pop(child_id, None)
            if child is None:
                return
            if child.end_ns is None:
                reason = word_of(status, CHILD_ENDS) or "failed"
                self._end_turns(child, reason, now_ns)
                self._close(child, reason, now_ns)
            if subagent is not None:
                duration_ms = number_of(payload.get("duration_ms"))
                self._emit(subagent.span(child.run_id, now_ns, status, duration_ms))

    def post_api_request(self, payload: Payload) -> None:
        """A model call that was answered: one row, with the failed attempts before it."""
        start_ns, end_ns = interval_ns_of(payload, self._clock_ns())
        with self._lock:
            run = self._run_of(payload, start_ns)
            turn = self._seen(run, payload, start_ns, end_ns)
            going = turn or run
            going.has_given_up = False
            going.awaits_model = bool(payload.get("assistant_tool_call_count"))
            retry_count = self._failed_attempts.pop(id_of(payload.get("api_request_id")) or "", 0)
            self._count(run, turn, model_calls=1)
        place = run.place(turn, start_ns, end_ns)
        self._emit(model_call(payload, place, retry_count, self._prices))

    def api_request_error(self, payload: Payload) -> None:
        """A failed attempt. Given up, it may be the last we hear: the run says failed."""
        request_id = id_of(payload.get("api_request_id")) or ""
        has_given_up = is_final(
            payload.get("retryable"), payload.get("retry_count"), payload.get("max_retries")
        )
        start_ns, end_ns = interval_ns_of(payload, self._clock_ns())
        with self._lock:
            run = self._run_of(payload, start_ns)
            turn = self._seen(run, payload, start_ns, end_ns)
            going = turn or run
            going.has_given_up = has_given_up
            going.awaits_model = False
            self._failed_attempts[request_id] = self._failed_attempts.get(request_id, 0) + 1
            trim(self._failed_attempts, MAX_PENDING)
            self._count(run, turn, errors=1)
        place = run.place(turn, start_ns, end_ns)
        self._emit(failed_attempt(payload, place, has_given_up=has_given_up))
        if has_given_up and not (turn and turn.is_aside):
            with self._lock:
                self._close(run, "failed", end_ns)

    def post_tool_call(self, payload: Payload) -> None:
        """A tool call: name, time, outcome. Neither arguments nor result are kept."""
        result_class = result_class_of(
            payload.get("status"), payload.get("error_type"), payload.get("result")
        )
        duration_ms = number_of(payload.get("duration_ms"))
        end_ns = self._clock_ns()
        start_ns = max(0, end_ns - int((duration_ms or 0) * 1e6))
        with self._lock:
            run = self._run_of(payload, start_ns)
            turn = self._seen(run, payload, start_ns, end_ns)
            (turn or run).awaits_model = True
            approval = self._approvals.take(payload)
            choice = approval.choice if approval else None
            if choice in DENIALS and result_class == "error":
                result_class = "blocked"  # somebody said no: that is no fault of the tool
            self._count(run, turn, tool_calls=1, errors=result_class in ("error", "timeout"))
        place = run.place(turn, start_ns, end_ns)
        call = tool_call(payload, place, duration_ms, result_class, choice)
        self._emit(call)
        if approval is not None and not approval.has_span:
            self._emit(approval.span(place.run_id, place.trace_id, place.parent_span_id))
        happening = happening_of(call, payload.get("args"))
        if happening is not None:
            self._emit(happening)

    def pre_approval_request(self, payload: Payload) -> None:
        """An approval is asked for; its command and description are not looked at."""
        with self._lock:
            self._approvals.ask(payload, self._clock_ns())

    def post_approval_response(self, payload: Payload) -> None:
        """An approval's answer: a span now, and a word on the tool call it belongs to."""
        with self._lock:
            approval = self._approvals.answer(payload, self._clock_ns())
            # The hook names no session: its turn does, which a model call has shown us.
            turn = self._turns.get(id_of(payload.get("turn_id")) or "")
            if approval is not None and turn is not None:
                self._emit(approval.span(turn.run.run_id, turn.run.trace_id, turn.span_id))

    def on_session_end(self, payload: Payload) -> None:
        """A turn's end. Without a turn_id it is the TUI's false second one and means nothing."""
        turn_id = id_of(payload.get("turn_id"))
        if not turn_id and payload.get("reason") != "shutdown":
            return
        now_ns = self._clock_ns()
        with self._lock:
            run = self._run_of(payload, now_ns)
            turn = self._turn_of(run, turn_id, now_ns)
            if turn is not None and turn.has_ended:
                return
            if turn is None and run.end_ns is not None:
                return  # the shutdown of a session whose turn had ended
            if payload.get("interrupted"):
                reason = "interrupted"
            elif payload.get("completed"):
                reason = "completed"
            else:
                # Out of iterations, the turn stops while a tool's result waits for the model.
                reason = "max_iterations" if (turn or run).awaits_model else "failed"
            if turn is not None:
                self._end_turn(run, turn_id or "", reason, now_ns)
            else:
                self._end_turns(run, reason, now_ns)
            if turn is not None and turn.is_background:
                return
            self._close(run, reason, now_ns)
            self._end_unheard_subagent(run, now_ns)

    def on_session_finalize(self, payload: Payload) -> None:
        """The session's boundary: closes what no turn end has closed."""
        with self._lock:
            run = self._runs.get(id_of(payload.get("session_id")) or "")
            if run is None:
                return
            now_ns = self._clock_ns()
            self._end_turns(run, "interrupted", now_ns)
            if run.end_ns is None:
                self._close(run, "failed" if run.has_given_up else "interrupted", now_ns)
            run.is_final = True
            for child_id, subagent in list(self._subagents.items()):
                child = self._runs.get(child_id)
                if subagent.parent is run and child is not None and child.end_ns is not None:
                    self._end_unheard_subagent(child, child.end_ns)

    # -- state ------------------------------------------------------------------------------

    def _run_of(self, payload: Payload, start_ns: int) -> Run:
        session_id = id_of(payload.get("session_id")) or ""
        run = self._runs.get(session_id)
        if run is None:
            run = self._open(session_id, payload.get("platform"), start_ns)
            self._emit_run(run)
        else:
            self._runs.move_to_end(session_id)
        return run

    def _open(self, session_id: str, platform: object, start_ns: int) -> Run:
        run = Run(
            run_id=new_id(),
            trace_id=new_id(),
            session_id=session_id,
            start_ns=start_ns,
            entrypoint=entrypoint_of(platform),
            platform=name_of(platform),
        )
        self._runs[session_id] = run
        trim(self._runs, MAX_SESSIONS)
        return run

    def _seen(self, run: Run, payload: Payload, start_ns: int, end_ns: int) -> Turn | None:
        """The turn that something was seen of. Activity after an end opens the run again.

        Not so in the background, nor late in a turn that has ended: nothing would close it after.
        """
        turn = self._turn_of(run, payload.get("turn_id"), start_ns)
        if turn is not None:
            turn.start_ns = max(min(turn.start_ns, start_ns), run.start_ns)
            turn.last_ns = max(turn.last_ns, end_ns)
            if turn.is_aside:
                return turn
        if run.end_ns is not None:
            run.end_ns = run.end_reason = None
            run.is_final = False
            self._emit_run(run)
        return turn

    def _count(
        self,
        run: Run,
        turn: Turn | None,
        *,
        model_calls: int = 0,
        tool_calls: int = 0,
        errors: int = 0,
    ) -> None:
        for counted in (run,) if turn is None else (run, turn):
            counted.model_call_count += model_calls
            counted.tool_call_count += tool_calls
            counted.error_count += errors
        if turn is not None and turn.is_aside and run.end_ns is not None:
            self._emit_run(run)  # nothing that comes after tells of it

    def _turn_of(self, run: Run, value: object, start_ns: int) -> Turn | None:
        turn_id = id_of(value)
        if not turn_id:
            return None
        turn = run.turn(turn_id)
        if turn is None:
            self._make_room(run, start_ns)
            is_continued = self._leave_session(run, turn_id)
            is_background = threading.current_thread().name == BACKGROUND_THREAD
            turn = run.begin_turn(turn_id, start_ns, is_background=is_background)
            self._turns[turn_id] = turn
            trim(self._turns, MAX_SESSIONS)
            if not is_continued:
                self._emit_message(turn, turn.start_ns)
        return turn

    def _make_room(self, run: Run, now_ns: int) -> None:
        """Before another turn: one that gave up ends unheard, and so does the oldest of many."""
        for turn_id, turn in list(run.open_turns.items()):
            if turn.has_given_up:
                self._end_turn(run, turn_id, "failed", turn.last_ns)
        while len(run.open_turns) >= MAX_OPEN_TURNS:
            self._end_turn(run, next(iter(run.open_turns)), "interrupted", now_ns)

    def _leave_session(self, run: Run, turn_id: str) -> bool:
        """Whether a turn goes on in another session, as one may where what was said is compressed.

        It has a span in either; the first session is over, and no message came or went.
        """
        former = self._turns.get(turn_id)
        if former is None or former.has_ended or former.run is run:
            return False
        former.run.end_turn(turn_id)
        self._emit(former.span("completed", former.last_ns))
        self._close(former.run, "completed", former.last_ns)
        if not run.turn_count:
            run.trace_id = former.run.trace_id
            # The first heard of it may be a tool call, which says no platform.
            run.platform, run.entrypoint = former.run.platform, former.run.entrypoint
            self._emit_run(run)
        return True

    def _end_turns(self, run: Run, reason: str, now_ns: int) -> None:
        for turn_id, turn in list(run.open_turns.items()):
            if turn.has_given_up:
                self._end_turn(run, turn_id, "failed", turn.last_ns)
            else:
                self._end_turn(run, turn_id, reason, now_ns)

    def _end_turn(self, run: Run, turn_id: str, reason: str, end_ns: int) -> None:
        turn = run.open_turns[turn_id]
        run.end_turn(turn_id)
        self._emit(turn.span(reason, end_ns))
        if turn.is_background and run.end_ns is not None:
            run.end_ns = max(run.end_ns, end_ns)
            self._emit_run(run)
        self._emit_message(turn, end_ns, turn_status(reason))

    def _end_unheard_subagent(self, child: Run, end_ns: int) -> None:
        """A subagent that outlived its session: nobody waits to tell of its stop."""
        subagent = self._subagents.get(child.session_id)
        if subagent is not None and subagent.parent.is_final:
            del self._subagents[child.session_id]
            self._emit(subagent.span(child.run_id, end_ns, child.end_reason, None))

    def _close(self, run: Run, reason: str, at_ns: int) -> None:
        run.end_ns = max(at_ns, run.start_ns)
        run.end_reason = reason
        self._emit_run(run)

    def _emit_run(self, run: Run) -> None:
        self._emit(run.event(self._profile_id, self._agent_version))

    def _emit_message(self, turn: Turn, ts_ns: int, result: str | None = None) -> None:
        run = turn.run
        is_gateway = run.entrypoint == "gateway" or run.platform in GATEWAY_PLATFORMS
        if is_gateway and not turn.is_background:
            self._emit(
                gateway_message(run.run_id, run.trace_id, turn.span_id, ts_ns, run.platform, result)
            )
