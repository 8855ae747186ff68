"""What a tool's arguments may say: an action from a list, a skill's name, and nothing more."""

from __future__ import annotations

import time

import pytest

from agent_client.contract.events import (
    CronEvent,
    Event,
    GatewayEvent,
    MemoryEvent,
    SkillEvent,
    SpanEvent,
)
from tests.agent_client.builders import Anything
from tests.agent_client.hooks import SECRET, Host, Payload


def after(tool_name: str, args: object, **changes: Anything) -> Host:
    host = Host()
    host.next_turn()
    host.tool(tool_name=tool_name, args=args, **changes)
    return host


@pytest.mark.parametrize(
    ("tool_name", "args", "action", "name"),
    [
        ("skill_view", {"name": "axolotl"}, "view", "axolotl"),
        ("skill_view", {"name": "superpowers:writing-plans"}, "view", "superpowers:writing-plans"),
        ("skill_view", {"name": "a", "file_path": SECRET}, "view", "a"),
        ("skills_list", {"category": SECRET}, "list", None),
        ("skill_manage", {"action": "create", "name": "a", "content": SECRET}, "create", "a"),
        ("skill_manage", {"action": "write_file", "name": "b.c_d-e"}, "write_file", "b.c_d-e"),
        ("skill_manage", {"action": SECRET, "name": SECRET}, None, None),
        ("skill_view", {"name": "the password is hunter2"}, "view", None),
        ("skill_view", {"name": "a" * 65}, "view", None),
        ("skill_view", {"name": "a\n"}, "view", None),
        ("skill_view", {"name": "../a"}, "view", None),
        ("skill_view", {"name": 7}, "view", None),
        ("skill_view", None, "view", None),
    ],
)
def test_a_skill_event_has_an_action_and_a_name(
    tool_name: str, args: object, action: str | None, name: str | None
) -> None:
    host = after(tool_name, args)
    (event,) = host.of(SkillEvent)
    assert (event.action, event.skill_name) == (action, name)
    assert SECRET not in repr(host.events)


def test_a_skill_that_was_not_there_was_not_read() -> None:
    assert after("skill_view", {"name": "a"}, status="error").of(SkillEvent) == []


@pytest.mark.parametrize(
    ("args", "action"),
    [
        ({"action": "add", "target": "user", "content": SECRET}, "add"),
        ({"action": "replace", "old_text": SECRET}, "replace"),
        ({"action": "remove"}, "remove"),
        ({"operations": [{"action": "add", "content": SECRET}]}, "batch"),
        ({"action": "", "operations": []}, "batch"),
        ({"action": SECRET}, None),
        ({"action": ["add"]}, None),
        ([], None),
    ],
)
def test_a_memory_event_has_an_action(args: object, action: str | None) -> None:
    host = after("memory", args)
    (event,) = host.of(MemoryEvent)
    assert (event.action, event.result) == (action, "ok")
    assert SECRET not in repr(host.events)


@pytest.mark.parametrize(
    ("action", "kind"),
    [
        ("create", "create"),
        (" Create ", "create"),
        ("run_now", "run"),
        ("trigger", "run"),
        ("list", "list"),
        ("x" * 100_000, None),
        (None, None),
    ],
)
def test_a_cron_event_has_a_kind_as_the_host_reads_it(action: object, kind: str | None) -> None:
    host = after("cronjob", {"action": action, "prompt": SECRET, "schedule": SECRET})
    (event,) = host.of(CronEvent)
    assert (event.kind, event.result) == (kind, "ok")
    assert SECRET not in repr(host.events)


@pytest.mark.parametrize("tool_name", ["memory", "cronjob"])
def test_a_call_that_failed_says_error(tool_name: str) -> None:
    host = after(tool_name, {"action": "remove"}, status="error", error_type="tool_error")
    (event,) = host.of(MemoryEvent) + host.of(CronEvent)
    assert event.result == "error"


def test_a_happening_is_its_tool_calls_child() -> None:
    host = after("memory", {"action": "add"})
    (event,), (call,) = host.of(MemoryEvent), host.tool_calls()
    assert (event.parent_span_id, event.run_id) == (call.span_id, call.run_id)
    assert (event.trace_id, event.start_ns, event.end_ns) == (
        call.trace_id,
        call.start_ns,
        call.end_ns,
    )
    assert event.ts_ns == call.end_ns


def test_other_tools_make_nothing_happen() -> None:
    host = after("terminal", {"action": "add", "name": "a"})
    assert [type(event).__name__ for event in host.events] == ["RunEvent", "ToolCallEvent"]


def nested(depth: int) -> object:
    value: object = SECRET
    for _ in range(depth):
        value = {"action": value, "name": [value]}
    return value


class Hostile(dict[str, object]):
    """A dictionary that cannot be read."""

    def __repr__(self) -> str:
        raise RuntimeError

    def get(self, key: str, default: object = None) -> object:
        raise RuntimeError


@pytest.mark.parametrize("tool_name", ["memory", "cronjob", "skill_view", "skill_manage"])
@pytest.mark.parametrize(
    "args",
    [
        None,
        7,
        "text",
        object(),
        [SECRET],
        {1: 2},
        {"action": {"action": "add"}, "name": {"name": "a"}},
        {"action": "x" * 10_000_000, "name": "a" * 10_000_000},
        nested(5000),
    ],
    ids=lambda value: type(value).__name__,
)
def test_arguments_of_any_kind_are_harmless_and_cheap(tool_name: str, args: object) -> None:
    began_s = time.perf_counter()
    host = after(tool_name, args)
    assert time.perf_counter() - began_s < 0.05
    assert len(host.events) == 3
    for event in host.events:
        assert type(event).from_dict(event.to_dict()) == event
    assert SECRET not in repr(host.events)


def test_a_gateways_turn_is_a_message_in_and_a_message_out() -> None:
    host = Host("chat-1", platform="telegram")
    host.full_turn()
    host.next_turn()
    host.answer()
    host.turn_end(completed=False, interrupted=True)
    turns = host.of(SpanEvent)
    messages = [
        (event.direction, event.result, event.platform, event.ts_ns, event.parent_span_id)
        for event in host.of(GatewayEvent)
    ]
    assert messages == [
        ("in", None, "telegram", turns[0].start_ns, turns[0].span_id),
        ("out", "ok", "telegram", turns[0].end_ns, turns[0].span_id),
        ("in", None, "telegram", turns[1].start_ns, turns[1].span_id),
        ("out", "interrupted", "telegram", turns[1].end_ns, turns[1].span_id),
    ]
    assert {(event.voice, event.attachments) for event in host.of(GatewayEvent)} == {(None, None)}


@pytest.mark.parametrize(
    ("platform", "message_count"), [("api_server", 2), ("slack", 2), ("cli", 0), ("tui", 0)]
)
def test_only_a_gateways_sessions_have_messages(platform: str, message_count: int) -> None:
    host = Host(platform=platform)
    host.full_turn()
    assert len(host.of(GatewayEvent)) == message_count


def test_a_hook_that_cannot_read_its_arguments_still_records_the_call() -> None:
    host = Host()
    host.next_turn()
    payload: Payload = {**host.ids(), "tool_name": "memory", "args": Hostile(), "status": "ok"}
    with pytest.raises(RuntimeError):  # the adapter swallows it
        host.tracker.post_tool_call(payload)
    emitted: list[Event] = list(host.events)
    assert [type(event).__name__ for event in emitted] == ["RunEvent", "ToolCallEvent"]
