"""From hook calls that cannot be trusted to fire to one correct run each, with its turns.

A run is one session's activity in one process. Its row is emitted again
whenever its end could be the last thing we hear: first hook, turn end, request
given up, finalize. Keyed by explicit session ids: the host runs subagents and
gateway sessions on threads that context variables do not reach. Spans are
emitted once, at their end; what a dead process owes, ``closing`` makes up.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from agent_client.approvals import MAX_PENDING, Approvals
from agent_client.calls import failed_attempt, model_call, tool_call
from agent_client.classify import is_final, result_class_of
from agent_client.contract.events import Event
from agent_client.happenings import happening_of
from agent_client.payload import Payload, id_of, interval_ns_of, number_of, trim, word_of
from agent_client.prices import PriceTable
from agent_client.session_runs import Sessions

DENIALS: Final = ("denied", "smart_deny")
CHILD_ENDS: Final = {word: word for word in ("completed", "timeout", "interrupted")}


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
        self._prices = prices or PriceTable(None)
        self._clock_ns = clock_ns
        self._lock = threading.RLock()
        self._sessions = Sessions(emit, profile_id, agent_version)
        self._failed_attempts: OrderedDict[str, int] = OrderedDict()
        self._approvals = Approvals()
        reference = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _unlock(reference()))

    # -- hooks ------------------------------------------------------------------------------

    def on_session_start(self, payload: Payload) -> None:
        """A brand-new session, inside its first turn; not fired on resume."""
        with self._lock:
            run = self._sessions.run_of(payload, self._clock_ns())
            if not run.turn_count:
                run.first_turn_ns = run.start_ns

    def on_subagent_start(self, payload: Payload) -> None:
        """A child session: its own run, in its parent's trace."""
        child_id = id_of(payload.get("child_session_id"))
        if not child_id:
            return
        now_ns = self._clock_ns()
        with self._lock:
            parent = self._sessions.runs.get(id_of(payload.get("parent_session_id")) or "")
            child = self._sessions.child_of(parent, child_id, now_ns)
            if parent is not None and parent is not child:
                turn = self._sessions.turn_of(parent, payload.get("parent_turn_id"), now_ns)
                self._sessions.send(child, parent, turn, now_ns, payload.get("child_role"))

    def on_subagent_stop(self, payload: Payload) -> None:
        """The child's outcome, for its own run where its turn end did not come."""
        child_id = id_of(payload.get("child_session_id")) or ""
        status = payload.get("child_status")
        now_ns = self._clock_ns()
        with self._lock:
            child = self._sessions.runs.get(child_id)
            subagent = self._sessions.subagents.pop(child_id, None)
            if child is None:
                return
            if child.end_ns is None:
                reason = word_of(status, CHILD_ENDS) or "failed"
                self._sessions.end_turns(child, reason, now_ns)
                self._sessions.close(child, reason, now_ns)
            if subagent is not None:
                duration_ms = number_of(payload.get("duration_ms"))
                self._sessions.tell_of(child, subagent, now_ns, status, duration_ms)

    def post_api_request(self, payload: Payload) -> None:
        """A model call that was answered: one row, with the failed attempts before it."""
        start_ns, end_ns = interval_ns_of(payload, self._clock_ns())
        with self._lock:
            run = self._sessions.run_of(payload, start_ns)
            turn = self._sessions.seen(run, payload, start_ns, end_ns)
            going = turn or run
            going.has_given_up = False
            going.awaits_model = bool(payload.get("assistant_tool_call_count"))
            retry_count = self._failed_attempts.pop(id_of(payload.get("api_request_id")) or "", 0)
            self._sessions.count(run, turn, model_calls=1)
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
            run = self._sessions.run_of(payload, start_ns)
            turn = self._sessions.seen(run, payload, start_ns, end_ns)
            going = turn or run
            going.has_given_up = has_given_up
            going.awaits_model = False
            self._failed_attempts[request_id] = self._failed_attempts.get(request_id, 0) + 1
            trim(self._failed_attempts, MAX_PENDING)
            self._sessions.count(run, turn, errors=1)
        place = run.place(turn, start_ns, end_ns)
        self._emit(failed_attempt(payload, place, has_given_up=has_given_up))
        if has_given_up and not (turn and turn.is_aside):
            with self._lock:
                self._sessions.close(run, "failed", end_ns)

    def post_tool_call(self, payload: Payload) -> None:
        """A tool call: name, time, outcome. Neither arguments nor result are kept."""
        result_class = result_class_of(
            payload.get("status"), payload.get("error_type"), payload.get("result")
        )
        duration_ms = number_of(payload.get("duration_ms"))
        end_ns = self._clock_ns()
        start_ns = max(0, end_ns - int((duration_ms or 0) * 1e6))
        with self._lock:
            run = self._sessions.run_of(payload, start_ns)
            turn = self._sessions.seen(run, payload, start_ns, end_ns)
            (turn or run).awaits_model = True
            approval = self._approvals.take(payload)
            choice = approval.choice if approval else None
            if choice in DENIALS and result_class == "error":
                result_class = "blocked"  # somebody said no: that is no fault of the tool
            self._sessions.count(
                run, turn, tool_calls=1, errors=result_class in ("error", "timeout")
            )
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
            turn = self._sessions.turns.get(id_of(payload.get("turn_id")) or "")
            if approval is not None and turn is not None:
                self._emit(approval.span(turn.run.run_id, turn.run.trace_id, turn.span_id))

    def on_session_end(self, payload: Payload) -> None:
        """A turn's end. Without a turn_id it is the TUI's false second one and means nothing."""
        turn_id = id_of(payload.get("turn_id"))
        if not turn_id and payload.get("reason") != "shutdown":
            return
        now_ns = self._clock_ns()
        with self._lock:
            run = self._sessions.run_of(payload, now_ns)
            turn = self._sessions.turn_of(run, turn_id, now_ns)
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
                self._sessions.end_turn(run, turn_id or "", reason, now_ns)
            else:
                self._sessions.end_turns(run, reason, now_ns)
            if turn is not None and turn.is_background:
                return
            self._sessions.close(run, reason, now_ns)
            self._sessions.end_unheard_subagent(run, now_ns)

    def on_session_finalize(self, payload: Payload) -> None:
        """The session's boundary: closes what no turn end has closed."""
        with self._lock:
            run = self._sessions.runs.get(id_of(payload.get("session_id")) or "")
            if run is None:
                return
            now_ns = self._clock_ns()
            self._sessions.end_turns(run, "interrupted", now_ns)
            if run.end_ns is None:
                self._sessions.close(run, "failed" if run.has_given_up else "interrupted", now_ns)
            self._sessions.finish(run)


def _unlock(tracker: RunTracker | None) -> None:
    """A child forked while another thread was in a hook would wait for that thread forever."""
    if tracker is not None:
        tracker._lock = threading.RLock()  # noqa: SLF001  # this module's own
