"""Turns, subagents and approvals as spans: real parents, real times, once, and no content."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable

import pytest

from agent_client import run_state
from agent_client.contract.events import GatewayEvent, SpanEvent
from agent_client.ids import id_within
from agent_client.spans import attributes, surface_of
from tests.agent_client.builders import SECOND_NS
from tests.agent_client.hooks import SECRET, SESSION, Host


def spans(host: Host, kind: str) -> list[SpanEvent]:
    return [span for span in host.of(SpanEvent) if span.kind == kind]


def span(host: Host, kind: str) -> SpanEvent:
    (only,) = spans(host, kind)
    return only


def attrs(of: SpanEvent) -> dict[str, object]:
    found: dict[str, object] = json.loads(of.attrs_json or "")
    return found


def test_a_turn_reaches_from_the_first_thing_seen_to_its_end() -> None:
    host = Host()
    host.next_turn()
    host.answer(tools=1)
    host.tool()
    host.answer()
    host.turn_end()
    turn, first = span(host, "turn"), host.model_calls()[0]
    assert (turn.start_ns, turn.end_ns) == (first.start_ns, host.now_ns)
    assert (turn.name, turn.status, turn.parent_span_id) == ("turn", "ok", host.run().run_id)
    assert (turn.run_id, turn.trace_id) == (host.run().run_id, host.run().trace_id)
    assert attrs(turn) == {
        "end_reason": "completed",
        "model_call_count": 2,
        "tool_call_count": 1,
        "error_count": 0,
    }


def test_all_that_is_done_in_a_turn_is_its_child() -> None:
    host = Host()
    host.next_turn()
    host.api_error(0)
    host.full_turn()
    assert len(spans(host, "turn")) == 1
    host.turn = 1
    host.turn_end()
    first, second = sorted(spans(host, "turn"), key=lambda turn: turn.start_ns)
    assert [error.parent_span_id for error in host.errors()] == [first.span_id]
    assert parents_of_calls(host) == {second.span_id}


def parents_of_calls(host: Host) -> set[str | None]:
    models = {call.parent_span_id for call in host.model_calls()}
    return models | {call.parent_span_id for call in host.tool_calls()}


def test_without_a_turn_id_the_run_is_the_parent() -> None:
    host = Host()
    host.answer(turn_id="")
    host.tool(turn_id=None)
    assert parents_of_calls(host) == {host.run().run_id}


def test_a_turns_id_follows_from_its_run_and_the_hosts_id() -> None:
    host = Host()
    host.full_turn()
    assert span(host, "turn").span_id == id_within(host.run().run_id, f"{SESSION}:task:1")


def test_the_first_turn_of_a_new_session_begins_with_it() -> None:
    host = Host()
    host.session_start()
    host.next_turn()
    host.turn_end(completed=False, interrupted=True)
    assert span(host, "turn").start_ns == host.run().start_ns
    assert span(host, "turn").status == "interrupted"
    host.full_turn()
    assert spans(host, "turn")[1].start_ns > (span_end(host) or 0)


def span_end(host: Host) -> int | None:
    return spans(host, "turn")[0].end_ns


@pytest.mark.parametrize(
    ("completed", "interrupted", "status", "reason"),
    [
        (True, False, "ok", "completed"),
        (False, True, "interrupted", "interrupted"),
        (False, False, "error", "failed"),
    ],
)
def test_a_turns_status_says_how_it_ended(
    completed: bool, interrupted: bool, status: str, reason: str
) -> None:
    host = Host()
    host.next_turn()
    host.answer()
    host.turn_end(completed=completed, interrupted=interrupted)
    assert (span(host, "turn").status, attrs(span(host, "turn"))["end_reason"]) == (status, reason)


def test_a_turn_ends_once_whatever_is_said_of_it_after() -> None:
    host = Host(platform="tui")
    host.full_turn()
    host.false_end()
    host.turn_end(completed=False)
    host.finalize()
    assert span(host, "turn").status == "ok"
    assert host.run().end_reason == "completed"


def test_a_turn_that_gave_up_ends_with_the_session() -> None:
    host = Host()
    host.next_turn()
    host.login_failure()
    assert spans(host, "turn") == []  # another provider may be tried yet
    host.finalize()
    (error,) = host.errors()
    turn = span(host, "turn")
    assert (turn.status, turn.start_ns, turn.end_ns) == ("error", error.start_ns, error.end_ns)


def test_a_turn_that_gave_up_ends_when_another_begins() -> None:
    host = Host()
    host.next_turn()
    host.login_failure()
    host.full_turn()
    assert [turn.status for turn in spans(host, "turn")] == ["error", "ok"]
    assert host.run().turn_count == 2


def test_a_turn_that_found_another_provider_ends_well() -> None:
    host = Host()
    host.next_turn()
    host.login_failure()
    host.answer(provider="fallback")
    host.turn_end()
    assert span(host, "turn").status == "ok"


def test_a_session_that_is_closed_interrupts_its_turn() -> None:
    host = Host(platform="tui")
    host.next_turn()
    host.answer(tools=1)
    host.false_end()
    assert spans(host, "turn") == []
    host.finalize(reason=None)
    assert span(host, "turn").status == "interrupted"


def test_what_comes_late_is_counted_and_opens_nothing_again() -> None:
    host = Host()
    host.full_turn()
    ended_ns = host.run().end_ns
    host.tool("late")
    assert (host.run().end_ns, host.run().tool_call_count) == (ended_ns, 2)
    assert host.tool_calls()[1].parent_span_id == span(host, "turn").span_id


def test_turns_side_by_side_are_counted_once_each() -> None:
    host = Host()
    for turn in (1, 2, 1, 2):
        host.turn = turn
        host.answer(tools=1)
    for turn in (1, 2):
        host.turn = turn
        host.turn_end()
    assert host.run().turn_count == 2
    assert [attrs(turn)["model_call_count"] for turn in spans(host, "turn")] == [2, 2]


def in_background(work: Callable[[], None]) -> None:
    """Where the host reviews a session, under the session's own id."""
    thread = threading.Thread(target=work, name="bg-review")
    thread.start()
    thread.join()


def review(host: Host, *, ends: bool = True) -> None:
    def work() -> None:
        host.turn = 99
        host.answer(tools=1)
        host.tool(tool_name="memory", args={"action": "add"})
        if ends:
            host.turn_end(completed=False)

    in_background(work)
    host.turn = 1


def test_a_review_in_the_background_is_a_turn_that_nobody_asked_for() -> None:
    host = Host(platform="telegram")
    host.full_turn()
    review(host)
    assert [turn.status for turn in spans(host, "turn")] == ["ok", "error"]
    run = host.run()
    assert (run.end_reason, run.turn_count, run.model_call_count) == ("completed", 1, 3)
    assert run.end_ns == spans(host, "turn")[1].end_ns
    assert [message.direction for message in host.of(GatewayEvent)] == ["in", "out"]


def test_a_review_that_is_cut_off_interrupts_nothing() -> None:
    host = Host()
    host.full_turn()
    review(host, ends=False)
    assert host.run().end_reason == "completed"
    assert host.run().tool_call_count == 2
    host.finalize()
    assert host.run().end_reason == "completed"
    assert [turn.status for turn in spans(host, "turn")] == ["ok", "interrupted"]


def test_a_review_beside_a_turn_does_not_end_it() -> None:
    host = Host()
    host.full_turn()
    host.next_turn()
    host.answer(tools=1)
    review(host)
    assert host.run().end_reason is None
    in_background(lambda: host.api_error(turn_id="review-2", retryable=False))
    assert host.run().end_reason is None


def test_a_turn_that_goes_on_in_another_session_ends_the_first_well() -> None:
    host = Host(platform="slack")
    host.next_turn()
    turn_id = host.ids()["turn_id"]
    host.answer(tools=1)
    host.session_id = "compressed"
    host.tool(turn_id=turn_id)
    host.answer(turn_id=turn_id)
    host.turn_end(turn_id=turn_id)
    assert [message.direction for message in host.of(GatewayEvent)] == ["in", "out"]
    first, second = host.runs()
    assert (first.end_reason, second.end_reason) == ("completed", "completed")
    assert (first.trace_id, first.turn_count) == (second.trace_id, second.turn_count)
    assert (first.platform, first.entrypoint) == (second.platform, second.entrypoint)
    assert (first.model_call_count, second.model_call_count) == (1, 1)
    assert [turn.status for turn in spans(host, "turn")] == ["ok", "ok"]
    assert {turn.run_id for turn in spans(host, "turn")} == {first.run_id, second.run_id}


def test_a_turn_does_not_begin_before_its_run() -> None:
    host = Host()
    host.session_start()
    host.next_turn()
    host.tool(duration_ms=1e11)
    host.turn_end()
    assert span(host, "turn").start_ns == host.run().start_ns


def test_turns_that_never_end_are_given_up_within_bounds() -> None:
    host = Host()
    for _ in range(50):
        host.next_turn()
        host.answer()
    (run,) = host.tracker._sessions.runs.values()
    assert len(run.open_turns) == run_state.MAX_OPEN_TURNS
    assert len(run.ended_turns) == run_state.MAX_ENDED_TURNS
    assert len(spans(host, "turn")) == 50 - run_state.MAX_OPEN_TURNS


def subagent(host: Host, status: str = "completed", role: object = "leaf") -> None:
    """A subagent from its start to its stop, with one call in between."""
    start = {
        "parent_session_id": SESSION,
        "parent_turn_id": f"{SESSION}:task:{host.turn}",
        "parent_subagent_id": None,
        "child_session_id": "child",
        "child_subagent_id": "sa-1",
        "child_role": role,
        "child_goal": SECRET,
    }
    host.tracker.on_subagent_start(start)
    host.session_id = "child"
    host.answer()
    host.session_id = SESSION
    stop = {"child_summary": SECRET, "child_status": status, "duration_ms": 3000}
    host.tracker.on_subagent_stop({**start, **stop})


def test_a_subagent_is_a_span_of_its_parents_turn() -> None:
    host = Host()
    host.next_turn()
    host.answer(tools=1)
    asked_ns = host.now_ns
    subagent(host)
    parent, child = host.runs()
    found = span(host, "subagent")
    assert (found.run_id, found.trace_id) == (parent.run_id, parent.trace_id)
    assert found.parent_span_id == host.model_calls()[0].parent_span_id != parent.run_id
    assert (found.start_ns, found.status) == (asked_ns + SECOND_NS, "ok")
    assert found.end_ns == child.end_ns == host.now_ns
    assert attrs(found) == {
        "child_run_id": child.run_id,
        "role": "leaf",
        "outcome": "completed",
        "duration_ms": 3000.0,
    }
    assert SECRET not in repr(host.events)


@pytest.mark.parametrize(
    ("outcome", "status"),
    [("timeout", "error"), ("interrupted", "interrupted"), ("error", "error"), (SECRET, "error")],
)
def test_a_subagents_outcome_is_a_word_from_a_list(outcome: str, status: str) -> None:
    host = Host()
    host.next_turn()
    host.answer(tools=1)
    subagent(host, outcome, role=SECRET)
    assert span(host, "subagent").status == status
    assert "role" not in attrs(span(host, "subagent"))
    assert SECRET not in repr(host.events)


def test_a_subagent_of_a_session_that_is_over_ends_once() -> None:
    host = Host()
    host.next_turn()
    host.answer(tools=1)
    start = {"parent_session_id": SESSION, "child_session_id": "child", "child_role": "leaf"}
    host.tracker.on_subagent_start(start)
    host.session_id = "child"
    host.full_turn()
    ended_ns = host.now_ns
    assert spans(host, "subagent") == []  # its stop would say more
    host.session_id = SESSION
    host.finalize()
    host.tracker.on_subagent_stop({**start, "child_status": "completed"})
    found = span(host, "subagent")
    assert (found.status, found.end_ns) == ("ok", ended_ns)
    assert found.parent_span_id == host.runs()[0].run_id  # the hook named no turn


def test_a_session_is_not_its_own_subagent() -> None:
    host = Host()
    host.next_turn()
    host.answer(tools=1)
    host.tracker.on_subagent_start({"parent_session_id": SESSION, "child_session_id": SESSION})
    assert host.run().parent_run_id is None


def test_a_subagents_stop_ends_the_turn_it_was_in() -> None:
    host = Host()
    host.next_turn()
    host.answer(tools=1)
    subagent(host, "interrupted")
    assert span(host, "turn").run_id == host.runs()[1].run_id
    assert span(host, "turn").status == "interrupted"


def test_an_approval_is_a_span_from_the_question_to_the_answer() -> None:
    host = Host()
    host.next_turn()
    host.answer(tools=1)
    host.ask_approval(surface="smart")
    first_asked_ns = host.now_ns
    host.ask_approval()
    host.approval("once")
    answered_ns = host.now_ns
    host.tool()
    host.turn_end()
    approval = span(host, "approval")
    assert (approval.start_ns, approval.end_ns) == (first_asked_ns, answered_ns)
    assert (approval.status, approval.parent_span_id) == ("ok", span(host, "turn").span_id)
    assert attrs(approval) == {"choice": "once", "surface": "cli"}
    assert SECRET not in repr(host.events)


@pytest.mark.parametrize("choice", ["deny", "smart_deny", "timeout"])
def test_an_approval_that_was_not_given_is_denied(choice: str) -> None:
    host = Host()
    host.next_turn()
    host.answer(tools=1)
    host.approval(choice, surface="smart", decided_by="aux_llm")
    found = span(host, "approval")
    assert (found.status, found.start_ns) == ("denied", found.end_ns)
    assert attrs(found)["decided_by"] == "aux_llm"


def test_an_approval_of_an_unknown_turn_finds_its_place_with_the_tool() -> None:
    host = Host()
    host.approval("always", turn_id="", surface=SECRET, decided_by=SECRET)
    assert spans(host, "approval") == []
    host.tool()
    assert span(host, "approval").parent_span_id == host.tool_calls()[0].parent_span_id
    assert attrs(span(host, "approval")) == {"choice": "always"}


def test_each_answer_is_a_span_of_its_own() -> None:
    host = Host()
    host.next_turn()
    host.answer(tools=1)
    host.ask_approval()
    host.approval("smart_deny", surface="smart")
    host.ask_approval()
    host.approval("once")
    host.tool()
    assert [attrs(found)["choice"] for found in spans(host, "approval")] == ["smart_deny", "once"]
    assert host.tool_calls()[0].approval == "once"


@pytest.mark.parametrize(
    ("value", "surface"),
    [("gateway", "gateway"), (f"mcp-elicitation/{SECRET}", "mcp"), (SECRET, None), (7, None)],
)
def test_a_surface_is_a_word_from_a_list(value: object, surface: str | None) -> None:
    assert surface_of(value) == surface


def test_a_span_has_no_attribute_that_is_not_on_the_list() -> None:
    with pytest.raises(ValueError, match="goal"):
        attributes(goal=SECRET)


def test_an_id_of_any_characters_makes_an_id() -> None:
    assert len(id_within("run", "turn-\ud800")) == 32
