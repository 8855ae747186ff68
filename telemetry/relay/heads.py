"""The heads of spans: what does not change from row to row, encoded once and remembered.

Name, kind, the attributes that repeat (names, models, outcomes), status and flags. Specification:
A5.
"""

from __future__ import annotations

from typing import Any, Final

from agent_client.contract import otlp_genai as genai
from agent_client.contract.otlp_names import (
    CLIENT,
    INTERNAL,
    OTHER_ERROR,
    RUN_ERRORS,
    Attributes,
    call_error,
    server_of,
    tool_error,
)
from telemetry.relay.wire import SPAN_ATTRIBUTE, attributes, delimited, text_of

type Key = tuple[Any, ...]  # Any: texts, counts, a status; the order is its maker's
_FLAGS: Final = b"\x85\x01\x01\x00\x00\x00"
"""``Span.flags``: sampled."""
_ERROR: Final = b"\x7a\x02\x18\x02"
"""``Span.status``: ERROR without a description, which would only repeat ``error.type``."""

HEADS_REMEMBERED: Final = 10_000
HEAD_BYTES: Final = 4_096

call_heads: Final[dict[Key, bytes]] = {}
tool_heads: Final[dict[Key, bytes]] = {}
run_heads: Final[dict[Key, bytes]] = {}
span_heads: Final[dict[Key, bytes]] = {}


def remember(heads: dict[Key, bytes], key: Key, made: bytes) -> bytes:
    """Keep what was made, while there is room and it is not huge."""
    if len(made) <= HEAD_BYTES:
        if len(heads) >= HEADS_REMEMBERED:
            heads.clear()
        heads[key] = made
    return made


def _head(name: str, kind: int, found: Attributes, *, is_error: bool) -> bytes:
    """What does not change from row to row: name, kind, attributes, status, flags."""
    return b"".join(
        (
            delimited(b"\x2a", text_of(name)),
            b"\x30" + bytes((kind,)),
            attributes(SPAN_ATTRIBUTE, found),
            _ERROR if is_error else b"",
            _FLAGS,
        )
    )


def run_head(key: Key) -> bytes:
    """Of a run."""
    entrypoint, platform, end_reason, cost_status, schema_v, agent_version, profile_id, *rest = key
    provider, is_1_41 = rest
    said = {
        "entrypoint": entrypoint,
        "platform": platform,
        "end_reason": end_reason,
        "cost_status": cost_status,
        "schema_v": schema_v,
        "agent_version": agent_version,
        "profile_id": profile_id,
    }
    found: Attributes = {"hermes.event": "run", "gen_ai.operation.name": "invoke_agent"}
    found |= {f"hermes.{name}": value for name, value in said.items() if value is not None}
    found["gen_ai.agent.name"] = genai.AGENT_NAME
    if is_1_41:
        _put(found, "gen_ai.agent.version", agent_version)
        _put(found, "gen_ai.provider.name", genai.provider_name(provider))
    is_error = end_reason in RUN_ERRORS
    if is_error:
        found["error.type"] = end_reason
    return _head(f"invoke_agent {genai.AGENT_NAME}", INTERNAL, found, is_error=is_error)


def span_head(key: Key) -> bytes:
    """Of a turn, a subagent, a wait."""
    name, kind, status = key
    said = {"name": name, "kind": kind, "status": status}
    found: Attributes = {"hermes.event": "span"}
    found |= {f"hermes.{name}": value for name, value in said.items() if value is not None}
    if status == "error":
        found["error.type"] = OTHER_ERROR
    return _head(name or kind or "span", INTERNAL, found, is_error=status == "error")


def call_head(key: Key) -> bytes:
    """Of a model call."""
    provider, model, base_url, raw_base_url, cost_status, cost_source, end_reason, *rest = key
    retries, response_model, finish_reason, status_code, has_first = rest
    said = {
        "provider": provider,
        "model": model,
        "cost_status": cost_status,
        "cost_source": cost_source,
        "end_reason": end_reason,
        "retry_count": retries,
        "response_model": response_model,
        "finish_reason": finish_reason,
        "status_code": status_code,
    }
    found: Attributes = {"hermes.event": "model_call", "gen_ai.operation.name": "chat"}
    found |= {f"hermes.{name}": value for name, value in said.items() if value is not None}
    _put(found, "gen_ai.provider.name", genai.provider_name(provider))
    _put(found, "gen_ai.request.model", model)
    _put(found, "gen_ai.response.model", response_model)
    if finish_reason:
        found["gen_ai.response.finish_reasons"] = (finish_reason,)
    if has_first:
        found["gen_ai.request.stream"] = True
    place, host, port = server_of(raw_base_url or "", base_url or "")
    if place:
        found |= {"hermes.base_url": place, "server.address": host, "server.port": port}
    error = call_error(status_code, end_reason)
    if error:
        found["error.type"] = error
    return _head(f"chat {model}" if model else "chat", CLIENT, found, is_error=bool(error))


def tool_head(key: Key) -> bytes:
    """Of a tool call."""
    tool_name, backend, result_class, retries, approval, error_type = key
    said = {
        "tool_name": tool_name,
        "backend": backend,
        "result_class": result_class,
        "retry_count": retries,
        "approval": approval,
        "error_type": error_type,
    }
    found: Attributes = {"hermes.event": "tool_call", "gen_ai.operation.name": "execute_tool"}
    found |= {f"hermes.{name}": value for name, value in said.items() if value is not None}
    found["gen_ai.tool.name"] = tool_name or "unknown"
    found["gen_ai.tool.type"] = genai.tool_type(backend, tool_name)
    found["gen_ai.agent.name"] = genai.AGENT_NAME
    error = tool_error(approval, result_class, error_type)
    if error:
        found["error.type"] = error
    name = f"execute_tool {tool_name}" if tool_name else "execute_tool"
    return _head(name, INTERNAL, found, is_error=bool(error))


def _put(found: Attributes, key: str, value: str | None) -> None:
    if value:
        found[key] = value
