"""What recorded words mean in OTLP: errors, places, attribute names; the same on both sides.

Pure. The agent's exporter and the console's relay both map with it, so that one install's spans
say the same whoever sends them. Source: OpenTelemetry semantic conventions, recording-errors.
"""

from __future__ import annotations

import json
import math
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

from agent_client.contract.tables import EVENT_TABLES

AttributeValue = str | bool | int | float | tuple[str, ...]
Attributes = dict[str, AttributeValue]

SCOPE: Final = "hermes.telemetry"
INTERNAL: Final = 1
CLIENT: Final = 3
SEVERITY_INFO: Final = 9
SEVERITY_WARN: Final = 13
RUN_ERRORS: Final = frozenset({"failed", "max_iterations", "timeout"})
CALL_ERRORS: Final = frozenset({"error", "failed", "timeout"})
TOOL_ERRORS: Final = {"error": "tool_error", "timeout": "timeout", "blocked": "blocked"}
DENIALS: Final = frozenset({"denied", "smart_deny"})
EXCEPTION_EVENT: Final = "gen_ai.client.operation.exception"
OTHER_ERROR: Final = "_OTHER"
"""What the conventions call an error of no known class."""
MAX_SPAN_ATTRIBUTES: Final = 64
INT64_MAX: Final = 2**63 - 1
NS_PER_MS: Final = 1_000_000

_PLACE: Final = frozenset(
    {"span_id", "parent_span_id", "start_ns", "end_ns", "ts_ns", "attrs_json"}
)
"""Columns that say where a record stands: OTLP has fields of its own for them."""
COLUMN_KEYS: Final = {
    table.name: tuple(
        (column.name, f"hermes.{column.name}", column.kind == "flag")
        for column in table.columns
        if column.name not in _PLACE
    )
    for table in EVENT_TABLES
}
"""By table: each column that goes along, its attribute and whether it is a flag."""


def call_error(status_code: object, end_reason: object) -> str:
    """``error.type`` of a model call that failed for good; "" for one that was answered."""
    if isinstance(status_code, int) and status_code >= 400:
        return str(status_code)
    return str(end_reason) if end_reason in CALL_ERRORS else ""


def tool_error(approval: object, result_class: object, error_type: object) -> str:
    """``error.type`` of a tool call; a person's no is an answer, not an error."""
    if approval in DENIALS:
        return ""
    fault = TOOL_ERRORS.get(result_class, "") if isinstance(result_class, str) else ""
    said = error_type if isinstance(error_type, str) else ""
    return (said or fault) if fault else ""


def times_of(start: object, end: object, took_ms: object) -> tuple[int, int, bool]:
    """Start and end of a span, and whether one comes from the duration. Never ends before."""
    start_ns = time_of(start)
    if isinstance(end, int) and start_ns:
        return start_ns, max(start_ns, end), False
    is_known = isinstance(took_ms, (int, float)) and math.isfinite(took_ms)
    took_ns = int(took_ms * NS_PER_MS) if is_known else 0  # type: ignore[operator]  # a number
    if isinstance(end, int):
        return max(0, end - took_ns), max(0, end), True
    return start_ns, min(start_ns + max(0, took_ns), INT64_MAX), True


def time_of(value: object) -> int:
    """A time that OTLP can say, else 0."""
    return value if isinstance(value, int) and 0 <= value <= INT64_MAX else 0


def object_attributes(text: object) -> Attributes:
    """The names, counts and flags of ``attrs_json``; anything nested or odd stays behind."""
    try:
        value = json.loads(text) if isinstance(text, str) else {}
    except (ValueError, RecursionError):
        return {}
    if not isinstance(value, dict):
        return {}
    return {
        f"hermes.attrs.{_clean(name)}": _clean(item) if isinstance(item, str) else item
        for name, item in list(value.items())[:MAX_SPAN_ATTRIBUTES]
        if isinstance(item, (bool, str))
        or (isinstance(item, int) and abs(item) <= INT64_MAX)
        or (isinstance(item, float) and math.isfinite(item))
    }


def _clean(text: str) -> str:
    """Half of a surrogate pair, which JSON can spell and UTF-8 cannot, becomes a question mark."""
    return text.encode("utf-8", "replace").decode("utf-8")


def host_of(base_url: object) -> str | None:
    """Host and port of an address; user name, path and query may hold credentials and go."""
    if not isinstance(base_url, str) or not base_url:
        return None
    try:
        parts = urlsplit(base_url if "//" in base_url else "//" + base_url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return None
    return f"{parts.hostname}{port}" if parts.hostname else None


@lru_cache(maxsize=256)
def server_of(base_url: str, redacted: str) -> tuple[str, str, int]:
    """Place, host and port of an address; "" for none.

    Taken from the address as recorded, since what the redactor leaves of one may be none any more;
    a host that the redactor did not leave is a secret in the wrong place.
    """
    place = host_of(base_url)
    if not place or place not in redacted.lower():
        return "", "", 0
    host, colon, port = place.rpartition(":")
    if colon and port.isdigit():
        return place, host, int(port)
    return place, place, 80 if urlsplit(base_url).scheme == "http" else 443
