"""Model calls, failed attempts and tool calls as events, from what a hook says of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from agent_client.classify import error_class_of
from agent_client.contract.events import ErrorEvent, ModelCallEvent, ToolCallEvent
from agent_client.contract.otlp_names import host_of
from agent_client.ids import new_id
from agent_client.payload import Payload, count_of, id_of, identifier_of, name_of
from agent_client.prices import PriceTable

TOKENS: Final = (
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
)


class Place(NamedTuple):
    """Where something belongs and when it was; a tuple, for every hook makes one."""

    run_id: str
    trace_id: str
    parent_span_id: str
    start_ns: int
    end_ns: int


def model_call(
    payload: Payload, place: Place, retry_count: int, prices: PriceTable
) -> ModelCallEvent:
    """An answered model call; its cost is known only by the owner's own price of the model."""
    usage = payload.get("usage")
    said = usage if isinstance(usage, Mapping) else {}
    tokens = {name: count_of(said.get(name)) for name in TOKENS}
    provider, model = name_of(payload.get("provider")), name_of(payload.get("model"))
    price = prices.price_of(provider, model)
    cost_usd = None if price is None else price.cost_usd(tokens)
    return ModelCallEvent(
        span_id=new_id(),
        run_id=place.run_id,
        provider=provider,
        model=model,
        base_url=name_of(host_of(payload.get("base_url"))),
        input_tokens=tokens["input_tokens"],
        output_tokens=tokens["output_tokens"],
        cache_read_tokens=tokens["cache_read_tokens"],
        cache_write_tokens=tokens["cache_write_tokens"],
        reasoning_tokens=tokens["reasoning_tokens"],
        latency_ms=(place.end_ns - place.start_ns) / 1e6,
        estimated_cost_usd=cost_usd,
        cost_status="unknown" if cost_usd is None else "estimated",
        cost_source=None if cost_usd is None else "override",
        end_reason="completed",
        retry_count=retry_count,
        trace_id=place.trace_id,
        parent_span_id=place.parent_span_id,
        start_ns=place.start_ns,
        end_ns=place.end_ns,
        response_model=identifier_of(payload.get("response_model")),
        finish_reason=identifier_of(payload.get("finish_reason")),
        api_request_id=id_of(payload.get("api_request_id")),
    )


def failed_attempt(payload: Payload, place: Place, *, has_given_up: bool) -> ErrorEvent:
    """A request that failed; its class comes from the host's reason, never from its message."""
    retryable, status_code = payload.get("retryable"), payload.get("status_code")
    return ErrorEvent(
        span_id=new_id(),
        run_id=place.run_id,
        ts_ns=place.end_ns,
        error_class=error_class_of(payload.get("reason"), status_code),
        subsystem="model",
        recovery="none" if has_given_up else "retried",
        trace_id=place.trace_id,
        parent_span_id=place.parent_span_id,
        start_ns=place.start_ns,
        end_ns=place.end_ns,
        retryable=retryable if isinstance(retryable, bool) else None,
        status_code=count_of(status_code),
        retry_count=count_of(payload.get("retry_count")) or 0,
    )


def tool_call(
    payload: Payload,
    place: Place,
    duration_ms: float | None,
    result_class: str,
    approval: str | None,
) -> ToolCallEvent:
    """A tool call: its name, its time, its outcome."""
    return ToolCallEvent(
        span_id=new_id(),
        run_id=place.run_id,
        tool_name=identifier_of(payload.get("tool_name")),
        duration_ms=duration_ms,
        result_class=result_class,
        approval=approval,
        trace_id=place.trace_id,
        parent_span_id=place.parent_span_id,
        start_ns=place.start_ns,
        end_ns=place.end_ns,
        tool_call_id=id_of(payload.get("tool_call_id")),
        error_type=identifier_of(payload.get("error_type")),
    )
