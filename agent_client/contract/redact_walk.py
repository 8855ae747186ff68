"""Walks structured values: names of fields decide, every string is scrubbed, the shape is kept."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from agent_client.contract.redact_names import NameClass, name_class, words_of
from agent_client.contract.redact_pii import PHONE_NAMES, USER_NAMES
from agent_client.contract.redact_values import is_opaque, is_placeholder, is_strong, is_uuid

UNAVAILABLE = "[redaction-unavailable]"
# A key of letters alone is mixed and longer; one of small letters alone is longer still.
PLAIN_NAME = re.compile(r"[A-Za-z_]{1,21}|[a-z_]{1,32}")
# Values that no rule can match without the name of a field: words, and hex ids of usual lengths.
PLAIN_VALUE = re.compile(
    r"[A-Za-z_]{0,21}|[a-z_]{22,32}|[0-9a-f]{8,32}|[0-9a-f]{40}|[0-9a-f]{64}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
)
UNPARSEABLE = "[unparseable-tool-calls]"
# Deeper values are cut off: Python's own stack is the limit that would be hit otherwise.
MAX_DEPTH = 100
# Names whose value is now and then an ordinary word; it goes only when it looks generated.
WEAK_WORDS = frozenset(
    "signature sig auth pat pass seed sid sas dsn bearer webhook cookies secrets credentials creds"
    " totp jwt oauth".split()
)
# What a message may say about itself without its content.
KEPT_FIELDS = (
    "id", "session_id", "role", "name", "tool_name", "tool_call_id", "timestamp", "token_count",
    "finish_reason", "effect_disposition", "active", "compacted",
)  # fmt: skip
CONTENT_FIELDS = ("content",)
REASONING_FIELDS = ("reasoning", "reasoning_content", "reasoning_details")


@dataclass(frozen=True, slots=True)
class Walker:
    """Scrubs values with `scrub`, which must not raise unless its caller handles that."""

    scrub: Callable[[str], str]
    pii: bool

    def walk(self, value: object) -> object:
        """The value with every string scrubbed; containers are copied, never changed in place."""
        return self._walk(value, None, "", 0)

    def walk_object(self, value: Mapping[str, object]) -> dict[str, object]:
        """A mapping with every name and value scrubbed."""
        return self._object(value, None, 0)

    def _walk(self, value: object, kind: NameClass | None, name: str, depth: int) -> object:
        if depth > MAX_DEPTH:
            return UNAVAILABLE
        if isinstance(value, str):
            return self._text(value, kind, name)
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, (int, float)):
            return "[REDACTED:named-password]" if kind == "password" else value
        if isinstance(value, Mapping):
            return self._object(value, kind, depth)
        if isinstance(value, (list, tuple, set, frozenset)):
            return [self._walk(item, kind, name, depth + 1) for item in value]
        if isinstance(value, (bytes, bytearray)):
            return self._text(bytes(value).decode("utf-8", "replace"), kind, name)
        return UNAVAILABLE

    def _object(
        self, value: Mapping[str, object], kind: NameClass | None, depth: int
    ) -> dict[str, object]:
        cleaned: dict[str, object] = {}
        is_k8s_secret = value.get("kind") == "Secret"
        pair_kind = _kind_of_pair(value)
        for key, inner in value.items():
            name = str(key)
            # Below the name of a secret anything that looks generated goes, but not plain words:
            # `"password": {"type": "string"}` is a schema.
            inner_kind = name_class(name) or ("secret" if kind else None)
            if pair_kind and name == "value":
                inner_kind, named = pair_kind, str(value.get("name") or value.get("key"))
            else:
                named = name
            # Nearly every name is a plain word; no credential is.
            shown = name if PLAIN_NAME.fullmatch(name) else self.scrub(name)
            while shown in cleaned:
                shown += "'"
            if is_k8s_secret and name in ("data", "stringData") and isinstance(inner, Mapping):
                cleaned[shown] = dict.fromkeys(map(str, inner), "[REDACTED:k8s-secret]")
            else:
                cleaned[shown] = self._walk(inner, inner_kind, named, depth + 1)
        return cleaned

    def _text(self, text: str, kind: NameClass | None, name: str) -> str:
        if kind and text and self._goes_by_name(text, kind, name):
            return f"[REDACTED:named-{kind}]"
        if self.pii and text:
            replaced = personal_by_name(text, name)
            if replaced is not None:
                return replaced
        elif PLAIN_VALUE.fullmatch(text):
            return text
        return self.scrub(text)

    def _goes_by_name(self, text: str, kind: NameClass, name: str) -> bool:
        if kind == "key":
            return is_strong(text)
        if is_placeholder(text):
            return False
        if kind == "password":
            return True
        words = words_of(name)
        if name_class(name) is None or (words and words[-1] in WEAK_WORDS):
            return len(text) >= 8 and is_opaque(text)
        return not text.startswith(("{", "[")) or not text.endswith(("}", "]"))


def _kind_of_pair(value: Mapping[str, object]) -> NameClass | None:
    """What `{"name": "DB_PASSWORD", "value": ...}` says about its value."""
    name = value.get("name") or value.get("key")
    return name_class(name) if isinstance(name, str) and "value" in value else None


def personal_by_name(text: str, name: str) -> str | None:
    """What replaces a value that is personal because of the name of its field, or None."""
    words = words_of(name)
    if not words:
        return None
    digits = sum(c.isdigit() for c in text)
    if (words[-1] in PHONE_NAMES or "phone" in words) and 6 <= digits <= 15 and len(text) <= 24:
        return "[phone]"
    if words[-1] in ("id", "uuid") and len(words) > 1 and words[-2] in USER_NAMES:
        return (
            "[id]" if is_uuid(text) or (digits >= 5 and digits == len(text.lstrip("-"))) else None
        )
    return None


def _chars(value: object) -> int:
    """Characters of text in a content value: a string, or a list of parts."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(_chars(value[key]) for key in ("text", "content", "summary") if key in value)
    if isinstance(value, (list, tuple)):
        return sum(_chars(item) for item in value)
    return 0


def read_tool_calls(raw: object) -> list[object] | None:
    """The tool calls of a message (a list, or the JSON text of one); None when unreadable."""
    if raw is None or raw == "":
        return []
    if isinstance(raw, str):
        try:
            raw = json.loads(raw)
        except (ValueError, RecursionError):
            return None
    if raw is None:
        return []
    return list(raw) if isinstance(raw, (list, tuple)) else None


def message_facts(
    message: Mapping[str, object], facts: Walker, content: Walker, *, include_content: bool
) -> dict[str, object]:
    """The scrubbed message, see `redact.redact_message`. `facts` scrubs what is always kept."""
    kept = facts.walk_object({key: message[key] for key in KEPT_FIELDS if key in message})
    calls = read_tool_calls(message.get("tool_calls"))
    reasoning = [message[field] for field in REASONING_FIELDS if message.get(field)]
    if not include_content:
        kept["content_chars"] = _chars(message.get("content"))
        # The fields of reasoning repeat each other: the longest is counted, not the sum.
        kept["reasoning_chars"] = max((_chars(value) for value in reasoning), default=0)
        kept["tool_call_count"] = len(calls) if calls is not None else UNPARSEABLE
        return kept
    for field in CONTENT_FIELDS + REASONING_FIELDS:
        if field in message:
            kept[field] = content.walk(message[field])
    if "tool_calls" in message:
        kept["tool_calls"] = UNPARSEABLE if calls is None else [_call(c, content) for c in calls]
    return kept


def _call(call: object, content: Walker) -> object:
    """One tool call: its arguments scrubbed as the JSON they are; what is no object goes."""
    if not isinstance(call, Mapping):
        return UNPARSEABLE
    return content.walk(call)
