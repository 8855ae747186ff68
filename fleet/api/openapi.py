"""What drf-spectacular cannot see by itself: every operation may answer with a problem."""

from __future__ import annotations

from typing import Any, Final

from agent_client.contract.wire import MEDIA_PROBLEM, PROBLEM_CODES

PROBLEM: Final = "Problem"
_HEADERS: Final = {
    "Retry-After": {
        "description": "Seconds to wait; always with 429 and 503.",
        "schema": {"type": "integer", "minimum": 1},
    }
}
_OBJECT: Final = {
    "type": "object",
    "description": "An error (RFC 9457); nothing of the request is echoed.",
    "required": ["type", "title", "status", "detail", "instance", "code"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string"},
        "instance": {"type": "string", "description": "The request's id."},
        "code": {"type": "string", "enum": sorted(PROBLEM_CODES)},
    },
}


_PROTOBUF: Final = "application/x-protobuf"
_STATUS: Final = {"type": "object", "description": "A google.rpc.Status."}


def add_problems(result: dict[str, Any], **_: object) -> dict[str, Any]:  # Any: an OpenAPI document
    """Document 4XX and 503 of every operation. A hook of drf-spectacular."""
    result.setdefault("components", {}).setdefault("schemas", {})[PROBLEM] = _OBJECT
    problem = {MEDIA_PROBLEM: {"schema": {"$ref": f"#/components/schemas/{PROBLEM}"}}}
    # OpenTelemetry wants a refusal in the type of its request.
    status = {
        _PROTOBUF: {"schema": {"type": "string", "format": "binary"}},
        "application/json": {"schema": _STATUS},
    }
    for path in result.get("paths", {}).values():
        for operation in path.values():
            answers = operation["responses"]
            is_otlp = _PROTOBUF in operation.get("requestBody", {}).get("content", {})
            content = status if is_otlp else problem
            answers.setdefault("4XX", {"description": "Refused.", "content": content})
            answers.setdefault(
                "503", {"description": "Not now.", "content": content, "headers": _HEADERS}
            )
    return result
