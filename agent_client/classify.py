"""From the host's words to ours: entrypoints, error classes, tool results, approvals.

Pure. Source: hooks of hermes-agent 0.19.0 as observed; an unknown word never
fails, it becomes the class that says "unknown".
"""

from __future__ import annotations

import re
from typing import Final

_GATEWAYS: Final = frozenset(
    {
        "discord",
        "email",
        "feishu",
        "gateway",
        "google_chat",
        "line",
        "matrix",
        "signal",
        "slack",
        "sms",
        "teams",
        "telegram",
        "wecom",
        "whatsapp",
    }
)
_ENTRYPOINTS: Final = {
    "": "cli",
    "chat": "cli",
    "cli": "cli",
    "interactive": "cli",
    "desktop": "cli",
    "api": "api",
    "api_server": "api",
    "openai_api": "api",
    "tui": "tui",
    "cron": "cron",
    "batch": "batch",
    "acp": "acp",
    "subagent": "subagent",
}
_REASONS: Final = {
    "auth": "auth",
    "auth_permanent": "auth",
    "billing": "rate_limit",
    "rate_limit": "rate_limit",
    "upstream_rate_limit": "rate_limit",
    "overloaded": "provider_error",
    "server_error": "provider_error",
    "timeout": "provider_timeout",
    "ssl_cert_verification": "network",
    "connection": "network",
    "network": "network",
    "context_overflow": "context_overflow",
    "payload_too_large": "context_overflow",
    "long_context_tier": "context_overflow",
    "model_not_found": "provider_error",
    "format_error": "provider_error",
    "invalid_response": "invalid_response",
    "content_policy_blocked": "content_policy",
    "provider_policy_blocked": "content_policy",
}
_CHOICES: Final = {"deny": "denied", "denied": "denied"}
_KNOWN_CHOICES: Final = frozenset(
    {"once", "session", "always", "timeout", "smart_approve", "smart_deny"}
)
_BLOCKED: Final = re.compile(r'"status"\s*:\s*"blocked"')
RESULT_HEAD_CHARS: Final = 4096
"""The host puts its status first; a search of a megabyte of result would stall the agent."""


def entrypoint_of(platform: object) -> str:
    """cli, gateway, tui, api, cron, batch, acp or subagent; what is not known is cli."""
    word = platform.strip().lower() if isinstance(platform, str) else ""
    return "gateway" if word in _GATEWAYS else _ENTRYPOINTS.get(word, "cli")


def error_class_of(reason: object, status_code: object) -> str:
    """The error class of a failed request, from the host's reason, else the HTTP status."""
    known = _REASONS.get(reason) if isinstance(reason, str) else None
    if known is not None:
        return known
    if not isinstance(status_code, int):
        return "unknown"
    if status_code in (401, 403):
        return "auth"
    if status_code in (402, 429):
        return "rate_limit"
    if status_code in (408, 504):
        return "provider_timeout"
    if status_code == 413:
        return "context_overflow"
    return "provider_error" if status_code >= 400 else "unknown"


def is_final(retryable: object, retry_count: object, max_retries: object) -> bool:
    """Whether the host gives the request up after this failure (``retry_count`` is 0-based)."""
    if retryable is False:
        return True
    if not isinstance(retry_count, int) or not isinstance(max_retries, int):
        return False
    return retry_count + 1 >= max_retries


def result_class_of(status: object, error_type: object, result: object) -> str:
    """ok, error, timeout or blocked.

    A call that an approval denied comes with status error and ``"status": "blocked"`` in its own
    result; only the head of the result is looked at, and none of it is kept.
    """
    if status in (None, "", "ok", "success"):
        return "ok"
    kind = error_type.lower() if isinstance(error_type, str) else ""
    head = result[:RESULT_HEAD_CHARS] if isinstance(result, str) else ""
    if status == "blocked" or "blocked" in kind or (head[:1] == "{" and _BLOCKED.search(head)):
        return "blocked"
    return "timeout" if status == "timeout" or "timeout" in kind else "error"


def approval_of(choice: object) -> str | None:
    """The approval's outcome; None for a word we do not know."""
    if not isinstance(choice, str):
        return None
    return _CHOICES.get(choice, choice if choice in _KNOWN_CHOICES else None)
