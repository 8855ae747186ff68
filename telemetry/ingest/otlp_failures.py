"""How a run, a model call or a tool call ended, in the fleet's words. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from telemetry.ingest import otlp_names as names
from telemetry.ingest.otlp_spans import Attribute, OtlpSpan
from telemetry.ingest.otlp_values import count_of, name_of

# The class of a failure by what its type or status says, first match wins.
_ERROR_WORDS: Final = (
    ("timeout", "provider_timeout"),
    ("timed out", "provider_timeout"),
    ("deadline", "provider_timeout"),
    ("ratelimit", "rate_limit"),
    ("rate_limit", "rate_limit"),
    ("quota", "rate_limit"),
    ("throttl", "rate_limit"),
    ("authentication", "auth"),
    ("permission", "auth"),
    ("unauthorized", "auth"),
    ("connect", "network"),
    ("network", "network"),
    ("context_length", "context_overflow"),
    ("content_filter", "content_policy"),
    ("content_policy", "content_policy"),
    ("contentfilter", "content_policy"),
    ("invalidresponse", "invalid_response"),
    ("validation", "invalid_response"),
    ("badrequest", "provider_error"),
    ("internalserver", "provider_error"),
    ("servererror", "provider_error"),
    ("serviceunavailable", "provider_error"),
    ("apierror", "provider_error"),
    ("apistatus", "provider_error"),
)


@lru_cache(maxsize=1024)
def error_class(kind: str | None, status_code: int | None) -> str:
    """The fleet's class of a failure, by the HTTP status, else by the type's name."""
    if status_code in {401, 403}:
        return "auth"
    if status_code in {402, 429}:
        return "rate_limit"
    if status_code in {408, 504}:
        return "provider_timeout"
    if status_code == 413:
        return "context_overflow"
    lower = (kind or "").lower()
    found = next((name for word, name in _ERROR_WORDS if word in lower), "unknown")
    return "provider_error" if found == "unknown" and status_code is not None else found


def run_end(span: OtlpSpan) -> str:
    """How a run ended whose root this span is."""
    if not span.is_error:
        return "completed"
    kind = (error_type_of(span) or "").lower()
    if "timeout" in kind:
        return "timeout"
    return "interrupted" if "cancel" in kind or "interrupt" in kind else "failed"


def call_end(span: OtlpSpan) -> str:
    """``end_reason`` of a model call."""
    if not span.is_error:
        return "completed"
    return "timeout" if "timeout" in (error_type_of(span) or "").lower() else "error"


def result_of(span: OtlpSpan, error: str | None) -> str:
    """``result_class`` of a tool call."""
    if not span.is_error:
        return "ok"
    kind = (error or "").lower()
    if "timeout" in kind:
        return "timeout"
    return "blocked" if "blocked" in kind or "denied" in kind else "error"


def error_type_of(span: OtlpSpan) -> str | None:
    """The class an instrumentation gives an error; the conventions' ``_OTHER`` for one without."""
    found = name_of(span.attributes, names.ERROR_TYPE)
    return found or ("_OTHER" if span.is_error else None)


def status_code_of(attributes: Mapping[str, Attribute]) -> int | None:
    """The HTTP status of a failure, which the conventions let stand in error.type too."""
    kind = attributes.get("error.type")
    if isinstance(kind, str) and len(kind) == 3 and kind.isdecimal() and kind.isascii():
        return int(kind)
    code = count_of(attributes, names.HTTP_STATUS)
    return code if code is not None and 400 <= code <= 599 else None
