"""Skill, memory, cron and gateway events from what the host's tools and turns say.

Of a tool's arguments two are looked at, its action and a skill's name, and only a word from a
closed list or a name as the host itself checks it gets through. Source: tool schemas of
hermes-agent 0.19.0 (``skill_view``, ``skills_list``, ``skill_manage``, ``memory``, ``cronjob``).

``tel_feedback_events`` stays empty: no hook of that host tells what a person thought of an answer.
Nor does one tell of a message's voice or attachments: both are NULL, which says "not known".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from agent_client.contract.events import (
    CronEvent,
    GatewayEvent,
    MemoryEvent,
    SkillEvent,
    ToolCallEvent,
)
from agent_client.ids import new_id

Happening = CronEvent | MemoryEvent | SkillEvent

MAX_ACTION_CHARS: Final = 32
"""Longer than any action; a longer text is not even compared."""
_SKILL_ACTIONS: Final = frozenset(
    {"create", "patch", "edit", "delete", "write_file", "remove_file"}
)
_MEMORY_ACTIONS: Final = frozenset({"add", "replace", "remove"})
_CRON_KINDS: Final = frozenset({"create", "list", "update", "pause", "resume", "remove", "run"})
_SYNONYMS: Final = {"run_now": "run", "trigger": "run"}
_NAME: Final = r"[a-z0-9][a-z0-9._-]{0,63}"
_SKILL_NAME: Final = re.compile(rf"{_NAME}(:{_NAME})?", re.ASCII)
"""The host's own rule for a skill's name, with a plugin's name before it where it has one."""


def happening_of(call: ToolCallEvent, args: object) -> Happening | None:
    """What a tool call did to skills, memory or scheduled jobs; None for any other tool."""
    said = args if isinstance(args, dict) else {}
    match call.tool_name:
        case "skill_view":
            return _skill(call, "view", said.get("name"))
        case "skills_list":
            return _skill(call, "list", None)
        case "skill_manage":
            return _skill(call, _action(said, _SKILL_ACTIONS), said.get("name"))
        case "memory":
            return _remembered(call, said)
        case "cronjob":
            return _scheduled(call, said)
    return None


def gateway_message(
    run_id: str,
    trace_id: str,
    span_id: str,
    ts_ns: int,
    platform: str | None,
    result: str | None = None,
) -> GatewayEvent:
    """A message that began a turn or, with a ``result``, that ended one."""
    return GatewayEvent(
        span_id=new_id(),
        run_id=run_id,
        ts_ns=ts_ns,
        platform=platform,
        direction="in" if result is None else "out",
        result=result,
        trace_id=trace_id,
        parent_span_id=span_id,
    )


def _skill(call: ToolCallEvent, action: str | None, name: object) -> Happening | None:
    if call.result_class != "ok":
        return None  # nothing was read or changed; the failure is the tool call's
    return SkillEvent(
        span_id=new_id(),
        run_id=call.run_id,
        ts_ns=call.end_ns or call.start_ns,
        action=action,
        skill_name=skill_name_of(name),
        trace_id=call.trace_id,
        parent_span_id=call.span_id,
        start_ns=call.start_ns,
        end_ns=call.end_ns,
    )


def _remembered(call: ToolCallEvent, args: Mapping[object, object]) -> Happening:
    action = _action(args, _MEMORY_ACTIONS)
    if action is None and isinstance(args.get("operations"), list):
        action = "batch"
    return MemoryEvent(
        span_id=new_id(),
        run_id=call.run_id,
        ts_ns=call.end_ns or call.start_ns,
        action=action,
        result=_result(call),
        trace_id=call.trace_id,
        parent_span_id=call.span_id,
        start_ns=call.start_ns,
        end_ns=call.end_ns,
    )


def _scheduled(call: ToolCallEvent, args: Mapping[object, object]) -> Happening:
    return CronEvent(
        span_id=new_id(),
        run_id=call.run_id,
        ts_ns=call.end_ns or call.start_ns,
        kind=_action(args, _CRON_KINDS),
        result=_result(call),
        trace_id=call.trace_id,
        parent_span_id=call.span_id,
        start_ns=call.start_ns,
        end_ns=call.end_ns,
    )


def _result(call: ToolCallEvent) -> str:
    return "ok" if call.result_class == "ok" else "error"


def _action(args: Mapping[object, object], known: frozenset[str]) -> str | None:
    value = args.get("action")
    if not isinstance(value, str) or len(value) > MAX_ACTION_CHARS:
        return None
    word = value.strip().lower()  # as the host reads it
    word = _SYNONYMS.get(word, word)
    return word if word in known else None


def skill_name_of(value: object) -> str | None:
    """A skill's name as the host allows one; None for anything else, a sentence above all."""
    is_name = isinstance(value, str) and len(value) <= 129 and _SKILL_NAME.fullmatch(value)
    return str(value) if is_name else None
