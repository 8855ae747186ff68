"""From hook calls that cannot be trusted to fire to one correct run each.

A run is one session's activity in one process. Its row is emitted again
whenever its end could be the last thing we hear: first hook, turn end, request
given up, finalize. Keyed by explicit session ids: the host runs subagents and
gateway sessions on threads that context variables do not reach.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from agent_client.classify import (
    approval_of,
    entrypoint_of,
    error_class_of,
    host_of,
    is_final,
    result_class_of,
)
from agent_client.contract.events import (
    ErrorEvent,
    Event,
    ModelCallEvent,
    RunEvent,
    ToolCallEvent,
)
from agent_client.contract.tables import COUNT_MAX, ID_MAX_CHARS, NAME_MAX_CHARS

MAX_SESSIONS: Final = 4096
"""Sessions remembered in a long-lived gateway; the longest idle is forgotten first."""
MAX_PENDING: Final = 1024
"""Failed attempts and approvals waiting for the call they belong to."""
DENIALS: Final = ("denied", "smart_deny")

Payload = Mapping[str, object]
T = TypeVar("T")


@dataclass(slots=True)
class _Run:
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
    turn_id: str = ""
    has_given_up: bool = False
    awaits_model: bool = False


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
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._emit = emit
        self._profile_id = profile_id
        self._agent_version = agent_version
        self._clock_ns = clock_ns
        self._lock = threading.RLock()
        self._runs: OrderedDict[str, _Run] = OrderedDict()
        self._failed_attempts: OrderedDict[str, int] = OrderedDict()
        self._approvals: OrderedDict[str, str] = OrderedDict()

    # -- hooks ------------------------------------------------------------------------------

    def on_session_start(self, payload: Payload) -> None:
        """A brand-new session; not fired on resume."""
        with self._lock:
            self._run_of(payload)

    def on_subagent_start(self, payload: Payload) -> None:
        """A child session: its own run, in its parent's trace."""
        child_id = _id(payload.get("child_session_id"))
        if not child_id:
            return
        with self._lock:
            parent = self._runs.get(_id(payload.get("parent_session_id")) or "")
            child = self._runs.get(child_id)
            if child is None:
                child = self._open(child_id, "subagent", self._clock_ns())
            if parent is not None and child.parent_run_id is None:
                child.parent_run_id, child.trace_id = parent.run_id, parent.trace_id
            self._emit_run(child)

    def on_subagent_stop(self, payload: Payload) -> None:
        """The child's outcome where its own turn end did not come."""
        with self._lock:
            child = self._runs.get(_id(payload.get("child_session_id")) or "")
            if child is None or child.end_ns is not None:
                return
            status = str(payload.get("child_status") or "")
            reasons = {"completed": "completed", "timeout": "timeout", "interrupted": "interrupted"}
            self._close(child, reasons.get(status, "failed"))

    def post_api_request(self, payload: Payload) -> None:
        """A model call that was answered: one row, with the failed attempts before it."""
        with self._lock:
            run = self._run_of(payload)
            self._reopen(run, payload)
            run.model_call_count += 1
            run.has_given_up = False
            run.awaits_model = bool(payload.get("assistant_tool_call_count"))
            request_id = _id(payload.get("api_request_id"))
            retry_count = self._failed_attempts.pop(request_id or "", 0)
        start_ns, end_ns = self._span(payload)
        usage = payload.get("usage")
        tokens = usage if isinstance(usage, Mapping) else {}
        self._emit(
            ModelCallEvent(
                span_id=uuid.uuid4().hex,
                run_id=run.run_id,
                provider=_name(payload.get("provider")),
                model=_name(payload.get("model")),
                base_url=_name(host_of(payload.get("base_url"))),
                input_tokens=_count(tokens.get("input_tokens")),
                output_tokens=_count(tokens.get("output_tokens")),
                cache_read_tokens=_count(tokens.get("cache_read_tokens")),
                cache_write_tokens=_count(tokens.get("cache_write_tokens")),
                reasoning_tokens=_count(tokens.get("reasoning_tokens")),
                latency_ms=(end_ns - start_ns) / 1e6,
                cost_status="unknown",
                end_reason="completed",
                retry_count=retry_count,
                trace_id=run.trace_id,
                parent_span_id=run.run_id,
                start_ns=start_ns,
                end_ns=end_ns,
                response_model=_name(payload.get("response_model")),
                finish_reason=_name(payload.get("finish_reason")),
                api_request_id=request_id,
            )
        )

    def api_request_error(self, payload: Payload) -> None:
        """A failed attempt. Given up, it may be the last we hear: the run says failed."""
        request_id = _id(payload.get("api_request_id")) or ""
        retryable, status_code = payload.get("retryable"), payload.get("status_code")
        has_given_up = is_final(retryable, payload.get("retry_count"), payload.get("max_retries"))
        with self._lock:
            run = self._run_of(payload)
            self._reopen(run, payload)
            run.error_count += 1
            run.has_given_up = has_given_up
            run.awaits_model = False
            _bump(self._failed_attempts, request_id)
        start_ns, end_ns = self._span(payload)
        self._emit(
            ErrorEvent(
                span_id=uuid.uuid4().hex,
                run_id=run.run_id,
                ts_ns=end_ns,
                error_class=error_class_of(payload.get("reason"), status_code),
                subsystem="model",
                recovery="none" if has_given_up else "retried",
                trace_id=run.trace_id,
                parent_span_id=run.run_id,
                start_ns=start_ns,
                end_ns=end_ns,
                retryable=retryable if isinstance(retryable, bool) else None,
                status_code=_count(status_code),
                retry_count=_count(payload.get("retry_count")) or 0,
            )
        )
        if has_given_up:
            with self._lock:
                self._close(run, "failed", at_ns=end_ns)

    def post_tool_call(self, payload: Payload) -> None:
        """A tool call: name, time, outcome. Neither arguments nor result are kept."""
        tool_call_id = _id(payload.get("tool_call_id"))
        result_class = result_class_of(
            payload.get("status"), payload.get("error_type"), payload.get("result")
        )
        with self._lock:
            run = self._run_of(payload)
            self._reopen(run, payload)
            run.tool_call_count += 1
            run.awaits_model = True
            approval = self._approvals.pop(tool_call_id or "", None) or self._approvals.pop(
                _id(payload.get("turn_id")) or "", None
            )
            if approval in DENIALS and result_class == "error":
                result_class = "blocked"  # somebody said no: that is no fault of the tool
            if result_class in ("error", "timeout"):
                run.error_count += 1
        end_ns = self._clock_ns()
        duration_ms = _number(payload.get("duration_ms"))
        self._emit(
            ToolCallEvent(
                span_id=uuid.uuid4().hex,
                run_id=run.run_id,
                tool_name=_name(payload.get("tool_name")),
                duration_ms=duration_ms,
                result_class=result_class,
                approval=approval,
                trace_id=run.trace_id,
                parent_span_id=run.run_id,
                start_ns=end_ns - int((duration_ms or 0) * 1e6),
                end_ns=end_ns,
                tool_call_id=tool_call_id,
                error_type=_name(payload.get("error_type")),
            )
        )

    def post_approval_response(self, payload: Payload) -> None:
        """An approval's outcome, kept until the tool call it belongs to arrives."""
        approval = approval_of(payload.get("choice"))
        key = _id(payload.get("tool_call_id")) or _id(payload.get("turn_id"))
        if approval and key:
            with self._lock:
                self._approvals[key] = approval
                _trim(self._approvals, MAX_PENDING)

    def on_session_end(self, payload: Payload) -> None:
        """A turn's end. Without a turn_id it is the TUI's false second one and means nothing."""
        turn_id = _id(payload.get("turn_id"))
        if not turn_id and payload.get("reason") != "shutdown":
            return
        with self._lock:
            run = self._run_of(payload)
            if turn_id and turn_id != run.turn_id:
                run.turn_id = turn_id
                run.turn_count += 1
            elif not turn_id and run.end_ns is not None:
                return  # the shutdown of a session whose turn had ended
            if payload.get("interrupted"):
                reason = "interrupted"
            elif payload.get("completed"):
                reason = "completed"
            else:
                # Out of iterations, the turn stops while a tool's result waits for the model.
                reason = "max_iterations" if run.awaits_model else "failed"
            self._close(run, reason)

    def on_session_finalize(self, payload: Payload) -> None:
        """The session's boundary: closes what no turn end has closed."""
        with self._lock:
            run = self._runs.get(_id(payload.get("session_id")) or "")
            if run is None:
                return
            if run.end_ns is None:
                self._close(run, "failed" if run.has_given_up else "interrupted")

    # -- state ------------------------------------------------------------------------------

    def _run_of(self, payload: Payload) -> _Run:
        session_id = _id(payload.get("session_id")) or ""
        run = self._runs.get(session_id)
        if run is None:
            start_ns = _time_ns(payload.get("started_at")) or self._clock_ns()
            run = self._open(session_id, payload.get("platform"), start_ns)
            self._emit_run(run)
        else:
            self._runs.move_to_end(session_id)
        return run

    def _open(self, session_id: str, platform: object, start_ns: int) -> _Run:
        run = _Run(
            run_id=uuid.uuid4().hex,
            trace_id=uuid.uuid4().hex,
            session_id=session_id,
            start_ns=start_ns,
            entrypoint=entrypoint_of(platform),
            platform=_name(platform),
        )
        self._runs[session_id] = run
        _trim(self._runs, MAX_SESSIONS)
        return run

    def _reopen(self, run: _Run, payload: Payload) -> None:
        """Activity after an end: another turn, or another provider after one gave up."""
        turn_id = _id(payload.get("turn_id"))
        if turn_id and turn_id != run.turn_id:
            run.turn_id = turn_id
            run.turn_count += 1
        if run.end_ns is not None:
            run.end_ns = run.end_reason = None
            self._emit_run(run)

    def _close(self, run: _Run, reason: str, *, at_ns: int | None = None) -> None:
        run.end_ns = max(at_ns or self._clock_ns(), run.start_ns)
        run.end_reason = reason
        self._emit_run(run)

    def _emit_run(self, run: _Run) -> None:
        self._emit(
            RunEvent(
                run_id=run.run_id,
                trace_id=run.trace_id,
                session_id=run.session_id or None,
                profile_id=self._profile_id,
                entrypoint=run.entrypoint,
                platform=run.platform,
                start_ns=run.start_ns,
                end_ns=run.end_ns,
                end_reason=run.end_reason,
                model_call_count=run.model_call_count,
                tool_call_count=run.tool_call_count,
                error_count=run.error_count,
                parent_run_id=run.parent_run_id,
                agent_version=self._agent_version,
                turn_count=run.turn_count,
            )
        )

    def _span(self, payload: Payload) -> tuple[int, int]:
        end_ns = _time_ns(payload.get("ended_at")) or self._clock_ns()
        start_ns = _time_ns(payload.get("started_at")) or end_ns
        return min(start_ns, end_ns), end_ns


def _id(value: object) -> str | None:
    return value[:ID_MAX_CHARS] if isinstance(value, str) and value else None


def _name(value: object) -> str | None:
    return value[:NAME_MAX_CHARS] if isinstance(value, str) and value else None


def _count(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= COUNT_MAX:
        return None
    return value


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e12:
        return None
    return float(value)


def _time_ns(value: object) -> int | None:
    """The host's float seconds since the epoch as nanoseconds."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 9e9:
        return None
    return int(value * 1e9)


def _bump(counts: OrderedDict[str, int], key: str) -> None:
    counts[key] = counts.get(key, 0) + 1
    _trim(counts, MAX_PENDING)


def _trim(table: OrderedDict[str, T], bound: int) -> None:
    while len(table) > bound:
        table.popitem(last=False)
