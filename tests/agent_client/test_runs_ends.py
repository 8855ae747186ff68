"""Every row of "which end signals fire where": one correct run each."""

from __future__ import annotations

from tests.agent_client.hooks import SESSION, Host


def outcome(host: Host) -> tuple[str | None, int, int, int, int]:
    run = host.run()
    assert (run.end_ns is None) == (run.end_reason is None)
    counts = run.model_call_count, run.tool_call_count, run.error_count, run.turn_count
    return run.end_reason, *counts


def test_chat_q_that_succeeds_is_completed() -> None:
    host = Host()
    host.session_start()
    host.full_turn()
    host.finalize()
    assert outcome(host) == ("completed", 2, 1, 0, 1)


def test_finalize_does_not_move_the_end_of_a_turn_that_had_one() -> None:
    host = Host()
    host.session_start()
    host.full_turn()
    ended_ns = host.run().end_ns
    host.finalize()
    assert host.run().end_ns == ended_ns


def test_chat_q_with_a_failed_login_is_failed() -> None:
    host = Host()
    host.session_start()
    host.next_turn()
    host.login_failure()
    host.finalize()
    assert outcome(host) == ("failed", 0, 0, 1, 1)
    assert host.errors()[0].error_class == "auth"


def test_chat_q_whose_retries_are_exhausted_is_failed() -> None:
    host = Host()
    host.session_start()
    host.next_turn()
    for attempt in range(3):
        host.api_error(attempt)
    host.finalize()
    assert outcome(host) == ("failed", 0, 0, 3, 1)
    assert [error.recovery for error in host.errors()] == ["retried", "retried", "none"]
    assert [error.retry_count for error in host.errors()] == [0, 1, 2]


def test_one_shot_without_finalize_is_completed() -> None:
    host = Host()
    host.session_start()
    host.full_turn()
    assert outcome(host) == ("completed", 2, 1, 0, 1)


def test_one_shot_with_a_failed_login_and_no_end_signal_at_all_is_failed() -> None:
    host = Host()
    host.session_start()
    host.next_turn()
    host.login_failure()
    assert outcome(host) == ("failed", 0, 0, 1, 1)


def test_a_signal_in_the_middle_of_a_call_is_interrupted() -> None:
    host = Host()
    host.session_start()
    host.next_turn()
    host.turn_end(completed=False, interrupted=True, reason="keyboard_interrupt")
    host.finalize()
    assert outcome(host) == ("interrupted", 0, 0, 0, 1)


def test_an_interactive_exit_in_the_middle_of_a_turn_is_interrupted() -> None:
    host = Host()
    host.session_start()
    host.next_turn()
    host.answer(tools=1)
    host.tracker.on_session_end(
        {"session_id": SESSION, "completed": False, "interrupted": True, "reason": "shutdown"}
    )
    assert outcome(host) == ("interrupted", 1, 0, 0, 1)


def test_an_interactive_exit_after_a_finished_turn_stays_completed() -> None:
    host = Host()
    host.session_start()
    host.full_turn()
    host.tracker.on_session_end(
        {"session_id": SESSION, "completed": False, "interrupted": True, "reason": "shutdown"}
    )
    assert outcome(host) == ("completed", 2, 1, 0, 1)


def test_the_tuis_false_second_end_means_nothing() -> None:
    host = Host(platform="tui")
    host.session_start()
    host.full_turn()
    host.false_end()
    host.finalize(reason=None)
    assert outcome(host) == ("completed", 2, 1, 0, 1)
    assert (host.run().entrypoint, host.run().platform) == ("tui", "tui")


def test_a_tui_that_is_closed_while_the_model_works_is_interrupted() -> None:
    host = Host(platform="tui")
    host.session_start()
    host.next_turn()
    host.answer(tools=1)
    host.false_end()
    host.finalize(reason=None)
    assert outcome(host) == ("interrupted", 1, 0, 0, 1)


def test_an_idle_gateway_session_is_completed_without_finalize() -> None:
    host = Host("api-0a1b", platform="api_server")
    host.session_start()
    host.full_turn()
    host.full_turn()
    assert outcome(host) == ("completed", 4, 2, 0, 2)
    assert (host.run().entrypoint, host.run().platform) == ("api", "api_server")


def test_a_gateways_sessions_are_runs_of_their_own() -> None:
    host = Host("api-1", platform="api_server")
    for name in ("api-1", "api-2", "api-1"):
        host.session_id = name
        host.full_turn()
    assert [(run.session_id, run.turn_count) for run in host.runs()] == [("api-1", 2), ("api-2", 1)]


def test_a_killed_process_leaves_an_open_run() -> None:
    host = Host()
    host.session_start()
    host.next_turn()
    host.answer(tools=1)
    assert outcome(host)[0] is None


def test_a_subagent_is_a_run_of_its_own_in_its_parents_trace() -> None:
    parent = Host()
    parent.session_start()
    parent.next_turn()
    parent.answer(tools=1)
    start_subagent(parent)
    parent.session_id, parent.platform = "child", "subagent"
    parent.session_start()
    parent.answer()
    parent.turn_end()
    first, child = parent.runs()
    assert (child.parent_run_id, child.trace_id) == (first.run_id, first.trace_id)
    assert child.run_id != first.run_id
    assert (child.session_id, child.entrypoint, child.end_reason) == (
        "child",
        "subagent",
        "completed",
    )
    assert (first.end_reason, child.model_call_count) == (None, 1)
    assert parent.model_calls()[1].trace_id == first.trace_id


def start_subagent(host: Host, child: str = "child") -> None:
    host.tracker.on_subagent_start(
        {
            "parent_session_id": SESSION,
            "parent_turn_id": "t",
            "parent_subagent_id": None,
            "child_session_id": child,
            "child_subagent_id": "sa-1",
            "child_role": "leaf",
            "child_goal": "secret goal",
        }
    )


def stop_subagent(host: Host, status: str, child: str = "child") -> None:
    host.tracker.on_subagent_stop(
        {"parent_session_id": SESSION, "child_session_id": child, "child_status": status}
    )


def test_a_subagent_that_starts_before_its_parent_tells_of_it_is_joined_to_it() -> None:
    host = Host()
    host.session_start()
    host.session_id, host.platform = "child", "subagent"
    host.session_start()
    start_subagent(host)
    parent, child = host.runs()
    assert (child.parent_run_id, child.trace_id) == (parent.run_id, parent.trace_id)


def test_a_subagents_stop_closes_it_where_its_turn_end_did_not_come() -> None:
    for status, reason in (
        ("completed", "completed"),
        ("timeout", "timeout"),
        ("interrupted", "interrupted"),
        ("error", "failed"),
    ):
        host = Host()
        host.session_start()
        start_subagent(host)
        stop_subagent(host, status)
        assert host.runs()[1].end_reason == reason


def test_a_subagents_own_turn_end_is_not_overruled_by_its_stop() -> None:
    host = Host()
    host.session_start()
    start_subagent(host)
    host.session_id = "child"
    host.full_turn()
    stop_subagent(host, "error")
    assert host.runs()[1].end_reason == "completed"


def test_a_subagent_without_ids_is_ignored() -> None:
    host = Host()
    host.tracker.on_subagent_start({"parent_session_id": SESSION})
    stop_subagent(host, "completed", child="unknown")
    assert host.events == []


def test_a_resume_in_a_new_process_is_a_new_run_of_the_same_session() -> None:
    first, second = Host(), Host()
    first.session_start()
    first.full_turn()
    second.full_turn()
    second.finalize()
    assert outcome(second) == ("completed", 2, 1, 0, 1)
    assert first.run().session_id == second.run().session_id == SESSION
    assert first.run().run_id != second.run().run_id


def test_running_out_of_iterations_is_its_own_end() -> None:
    host = Host()
    host.session_start()
    host.next_turn()
    for _ in range(3):
        host.answer(tools=1)
        host.tool()
    host.turn_end(completed=False)
    host.finalize()
    assert outcome(host) == ("max_iterations", 3, 3, 0, 1)


def test_a_turn_that_ends_without_an_answer_is_failed() -> None:
    host = Host()
    host.session_start()
    host.next_turn()
    host.turn_end(completed=False)
    assert outcome(host) == ("failed", 0, 0, 0, 1)


def test_a_fallback_after_a_given_up_request_reopens_the_run() -> None:
    host = Host()
    host.session_start()
    host.next_turn()
    host.login_failure()
    host.answer(provider="fallback")
    assert outcome(host)[0] is None
    host.turn_end()
    assert outcome(host) == ("completed", 1, 0, 1, 1)


def test_another_turn_reopens_a_run_and_closes_it_again() -> None:
    host = Host()
    host.session_start()
    host.full_turn()
    first_end_ns = host.run().end_ns
    host.next_turn()
    host.answer()
    assert outcome(host)[0] is None
    host.turn_end()
    assert outcome(host) == ("completed", 3, 1, 0, 2)
    assert (host.run().end_ns or 0) > (first_end_ns or 0)


def test_finalize_alone_makes_no_run() -> None:
    host = Host()
    host.finalize(session_id=None)
    host.finalize()
    assert host.events == []
