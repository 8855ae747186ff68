"""Hooks in any order, of several sessions: whatever comes, what was recorded hangs together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from hypothesis import example, given
from hypothesis import strategies as st

from agent_client.contract.events import Event, RunEvent, SpanEvent
from tests.agent_client.hooks import SECRET, SESSION, Host

SESSIONS = (SESSION, "child", "api-1")
FAMILY = {"parent_session_id": SESSION, "child_session_id": "child", "child_goal": SECRET}
FIRST_TURN = {"parent_turn_id": f"{SESSION}:task:1"}
HOOKS: dict[str, Callable[[Host, bool], None]] = {
    "start": lambda host, _: host.session_start(),
    "answer": lambda host, flag: host.answer(tools=int(flag)),
    "give up": lambda host, _: host.login_failure(),
    "retry": lambda host, _: host.api_error(0),
    "tool": lambda host, flag: host.tool(tool_name="memory" if flag else "terminal"),
    "ask": lambda host, _: host.ask_approval(),
    "approve": lambda host, flag: host.approval("once" if flag else "deny"),
    "end": lambda host, flag: host.turn_end(completed=flag, interrupted=not flag),
    "false end": lambda host, _: host.false_end(),
    "finalize": lambda host, _: host.finalize(),
    "send": lambda host, _: host.tracker.on_subagent_start({**FAMILY, **FIRST_TURN}),
    "stop": lambda host, flag: host.tracker.on_subagent_stop(
        {**FAMILY, "child_status": "completed" if flag else SECRET}
    ),
}
STEPS = st.tuples(
    st.sampled_from(sorted(HOOKS)), st.sampled_from(SESSIONS), st.integers(1, 3), st.booleans()
)


def value_of(event: Event, name: str) -> str:
    return str(getattr(event, name))


@given(st.lists(STEPS, max_size=40))
@example([(step, SESSIONS[0], 1, False) for step in ("answer", "send", "stop", "send", "stop")])
def test_whatever_order_hooks_come_in_their_rows_hang_together(
    steps: list[tuple[str, str, int, bool]],
) -> None:
    host = Host(platform="telegram")
    for step, host.session_id, host.turn, flag in steps:
        HOOKS[step](host, flag)
    for host.session_id in SESSIONS:
        host.finalize()
    runs = {run.run_id: run for run in host.runs()}
    spans = Counter(span.span_id for span in host.of(SpanEvent))
    owners = {*runs, *spans, *(call.span_id for call in host.tool_calls())}
    assert set(spans.values()) <= {1}
    for event in host.events:
        assert type(event).from_dict(event.to_dict()) == event
        if not isinstance(event, RunEvent):
            assert value_of(event, "parent_span_id") in owners
            assert value_of(event, "run_id") in runs
    for run in runs.values():
        assert run.end_ns is not None
        assert run.end_ns >= run.start_ns
        calls = [call for call in host.model_calls() if call.run_id == run.run_id]
        assert run.model_call_count == len(calls)
    assert SECRET not in repr(host.events)
