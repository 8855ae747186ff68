"""What the recorder makes of model calls, errors, tools and approvals."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from agent_client import approvals, runs, session_runs
from agent_client.contract.events import Event
from agent_client.runs import RunTracker
from tests.agent_client.builders import SECOND_NS
from tests.agent_client.hooks import SECRET, Host


def test_a_model_call_keeps_what_the_host_says_of_it() -> None:
    host = Host()
    host.answer(tools=1)
    (call,) = host.model_calls()
    assert (call.provider, call.model, call.response_model) == ("custom", "model-a", "model-a-2026")
    assert call.base_url == "llm.example:8443"
    assert (call.input_tokens, call.output_tokens, call.cache_read_tokens) == (100, 20, 50)
    assert (call.cache_write_tokens, call.reasoning_tokens) == (5, 3)
    assert (call.finish_reason, call.retry_count, call.cost_status) == ("tool_calls", 0, "unknown")
    assert call.latency_ms == pytest.approx(500, abs=0.01)
    assert call.end_ns is not None
    assert call.end_ns - call.start_ns == pytest.approx(SECOND_NS / 2, abs=1000)
    assert (call.run_id, call.trace_id) == (host.run().run_id, host.run().trace_id)


def test_retries_of_one_call_are_one_row_that_counts_them() -> None:
    host = Host()
    host.next_turn()
    host.api_error(0)
    host.api_error(1)
    host.answer()
    host.answer()
    host.turn_end()
    assert [call.retry_count for call in host.model_calls()] == [2, 0]
    assert host.run().error_count == 2
    assert host.run().end_reason == "completed"
    assert {error.recovery for error in host.errors()} == {"retried"}


def test_an_error_keeps_its_class_and_status_and_no_message() -> None:
    host = Host()
    host.api_error(1, reason="rate_limit", status_code=429)
    (error,) = host.errors()
    assert (error.error_class, error.status_code, error.retry_count) == ("rate_limit", 429, 1)
    assert (error.retryable, error.recovery, error.subsystem) == (True, "retried", "model")


def test_a_missing_usage_leaves_tokens_unknown() -> None:
    host = Host()
    host.answer(usage=None)
    (call,) = host.model_calls()
    assert (call.input_tokens, call.output_tokens) == (None, None)


def test_a_tool_call_keeps_name_time_and_outcome() -> None:
    host = Host()
    host.tool(duration_ms=40)
    (call,) = host.tool_calls()
    assert (call.tool_name, call.result_class, call.duration_ms) == ("terminal", "ok", 40.0)
    assert (call.tool_call_id, call.error_type, call.approval) == ("call_1", None, None)
    assert call.end_ns is not None
    assert call.end_ns - call.start_ns == 40_000_000


@pytest.mark.parametrize(
    ("status", "error_type", "result_class", "error_count"),
    [
        ("ok", None, "ok", 0),
        ("error", "tool_error", "error", 1),
        ("error", "ToolTimeout", "timeout", 1),
        ("blocked", None, "blocked", 0),
    ],
)
def test_a_tools_failure_raises_the_runs_error_count(
    status: str, error_type: str | None, result_class: str, error_count: int
) -> None:
    host = Host()
    host.next_turn()
    host.tool(status=status, error_type=error_type)
    host.turn_end()
    assert host.tool_calls()[0].result_class == result_class
    assert host.run().error_count == error_count


def test_a_denied_approval_is_blocked_and_no_error() -> None:
    host = Host()
    host.next_turn()
    host.approval("deny")
    host.denied_tool()
    host.turn_end()
    (call,) = host.tool_calls()
    assert (call.result_class, call.approval) == ("blocked", "denied")
    assert host.run().error_count == 0


@pytest.mark.parametrize("choice", ["deny", "smart_deny"])
def test_a_denied_tool_that_does_not_say_blocked_is_no_error_either(choice: str) -> None:
    host = Host()
    host.next_turn()
    host.approval(choice)
    host.tool(status="error", error_type="tool_error")
    host.turn_end()
    assert host.tool_calls()[0].result_class == "blocked"
    assert host.run().error_count == 0


def test_an_approval_is_joined_by_the_tool_call_it_names() -> None:
    host = Host()
    host.approval("once", tool_call_id="call_2")
    host.tool("call_1")
    host.tool("call_2")
    assert [call.approval for call in host.tool_calls()] == [None, "once"]


def test_an_approval_without_a_tool_call_is_joined_by_its_turn() -> None:
    host = Host()
    host.approval("session", tool_call_id=None)
    host.tool("call_1")
    host.tool("call_2")
    assert [call.approval for call in host.tool_calls()] == ["session", None]


def test_an_approval_of_an_unknown_word_is_not_kept() -> None:
    host = Host()
    host.approval("perhaps")
    host.tool()
    assert host.tool_calls()[0].approval is None


def test_no_content_is_in_any_event() -> None:
    host = Host()
    host.session_start()
    host.approval("once")
    host.full_turn()
    host.api_error(2)
    host.denied_tool()
    host.finalize()
    assert SECRET not in repr(host.events)
    assert "user:pw" not in repr(host.events)


HOOKS = [
    RunTracker.on_session_start,
    RunTracker.on_session_end,
    RunTracker.on_session_finalize,
    RunTracker.post_api_request,
    RunTracker.api_request_error,
    RunTracker.post_tool_call,
    RunTracker.pre_approval_request,
    RunTracker.post_approval_response,
    RunTracker.on_subagent_start,
    RunTracker.on_subagent_stop,
]
FIELDS = (
    "session_id task_id turn_id platform model provider base_url api_request_id started_at "
    "ended_at status_code retry_count max_retries retryable reason usage finish_reason choice "
    "response_model tool_name tool_call_id duration_ms status error_type result completed "
    "interrupted child_session_id parent_session_id child_status assistant_tool_call_count args "
    "parent_turn_id child_role surface decided_by"
).split()


@pytest.mark.parametrize("value", [None, 7, -1, 10**30, 1.5, float("nan"), [], {}, "x" * 9000, b""])
def test_whatever_type_a_field_has_every_event_can_be_stored(value: object) -> None:
    emitted: list[Event] = []
    tracker = RunTracker(emitted.append)
    for hook in HOOKS:
        hook(tracker, dict.fromkeys(FIELDS, value))
        hook(tracker, {})
    for event in emitted:
        assert type(event).from_dict(event.to_dict()) == event


def test_a_long_lived_host_is_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_runs, "MAX_SESSIONS", 5)
    monkeypatch.setattr(session_runs, "MAX_SUBAGENTS", 5)
    for module in (approvals, runs):
        monkeypatch.setattr(module, "MAX_PENDING", 5)
    host = Host()
    for number in range(20):
        host.session_id = f"session-{number}"
        host.ask_approval(tool_call_id=f"asked-{number}")
        host.approval("once", tool_call_id=f"call-{number}")
        host.api_error(0)
        host.calls += 1
        child = {"parent_session_id": host.session_id, "child_session_id": f"child-{number}"}
        host.tracker.on_subagent_start(child)
    tracker = host.tracker
    kept = tracker._sessions
    assert len(kept.runs) == len(kept.turns) == len(kept.subagents) == 5
    assert len(tracker._failed_attempts) == 5
    assert len(tracker._approvals.asked_ns) == len(tracker._approvals.answered) == 5


def test_sessions_on_many_threads_do_not_mix() -> None:
    emitted: list[Event] = []
    tracker = RunTracker(emitted.append)

    def work(session_id: str) -> None:
        for turn in range(50):
            payload = {"session_id": session_id, "turn_id": f"{session_id}-{turn}"}
            tracker.post_api_request(payload)
            tracker.on_session_end({**payload, "completed": True})

    threads = [threading.Thread(target=work, args=(f"s{number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    last = {event.run_id: event for event in emitted if event.TABLE.event == "run"}
    assert sorted((run.session_id, run.model_call_count) for run in last.values()) == [  # type: ignore[union-attr]  # runs all
        (f"s{number}", 50) for number in range(6)
    ]


def test_a_child_forked_while_another_thread_is_in_a_hook_can_record() -> None:
    is_inside, may_leave = threading.Event(), threading.Event()

    def slow(_: object) -> None:
        is_inside.set()
        may_leave.wait(10)

    tracker = RunTracker(slow)
    thread = threading.Thread(target=tracker.on_session_start, args=({"session_id": "a"},))
    thread.start()
    assert is_inside.wait(10)
    child = os.fork()
    if child == 0:
        signal.alarm(5)  # a child that waits for the lock dies of it
        may_leave.set()
        tracker.on_session_start({"session_id": "b"})
        os._exit(0)
    _, status = os.waitpid(child, 0)
    may_leave.set()
    thread.join()
    assert os.waitstatus_to_exitcode(status) == 0
