"""Finds the values of assignments whose name says secret: ENV, YAML, JSON, code, queries, headers.

The engine finds `name operator` (a pattern without any unbounded value in it); this module reads
the value that follows and judges it. Reading a value is bounded, so the whole stays linear.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from agent_client.contract.redact_names import NameClass, name_class
from agent_client.contract.redact_values import (
    is_placeholder,
    is_reference,
    is_strong,
    is_wordlike,
    looks_opaque,
)

# Name, what may close it, operator. No group, so that RE2 stays on its fast automaton.
ASSIGN_PATTERN = (
    r"(?i)[\w.$-]*(?:pass|pwd|psw|secret|token|key|auth|cred|jwt|bearer|cookie|signature|mnemonic"
    r"|dsn|sid|sas|psk|totp|sonar\.login|pat\b|pw\b|sig\b)[\w.-]*\\*[\"'`]?(?:\[\])?\]?\s{0,16}"
    r"(?:string\s{0,4})?(?:[:?.+]{0,3}={1,2}>?|:{1,3}|\([\"'@]|,\s{0,4}\\*[\"'])"
)
ASSIGN_KEYWORDS = (
    (
        r"(?i)(?:pass|pwd|psw|secret|token|key|auth|cred|jwt|bearer|cookie|signature|mnemonic|dsn|sid|sas"
        r"|psk|totp|sonar\.login|pat\b|pw\b|sig\b)[\w.-]*\\*[\"'`]?(?:\[\])?\]?\s{0,16}(?:string\s{0,4})?[:=?.+(,]"
    ),
)
# A value is judged by its first bytes only; an accepted one is then followed to its end. Looking
# further before judging would cost the square of the length on "token=token=token=…".
VALUE_BYTES = 512
_BARE_ENDS_EQUALS = re.compile(rb"[\s\"'`\\<>,;&|]")
_BARE_ENDS_COLON = re.compile(rb"[\s\"'`\\<>]")
_OPENING = re.compile(
    rb"[ \t]{0,32}@?[bfru]{0,2}(\\{0,8})([\"'`])|[ \t]{0,32}(?:[>|][+-]?[ \t]*)?(\r?\n[ \t]+)?"
)
_CLOSING = {
    b'"': re.compile(rb'(?:[^"\\\n]|\\.)*'),
    b"'": re.compile(rb"(?:[^'\\\n]|\\.)*"),
    b"`": re.compile(rb"[^`\n]*"),
}
_NAME_BYTES = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.$-"
_LINE_END = re.compile(rb"[\"'`\n]")
_ESCAPED_END = re.compile(rb"[\\\"'`\n]")


@dataclass(frozen=True, slots=True)
class Value:
    """A value in the text: byte offsets, how it was written, whether it goes on after them."""

    start: int
    end: int
    is_quoted: bool
    is_own_line: bool
    is_cut: bool = False


@lru_cache(maxsize=8192)
def split_assignment(matched: bytes) -> tuple[str, bytes, NameClass | None]:
    """The name and the operator of what `ASSIGN_PATTERN` matched, and what the name says."""
    operator = matched.lstrip(_NAME_BYTES)
    name = matched[: len(matched) - len(operator)].decode("ascii")
    return name, operator, name_class(name)


def read_value(data: bytes, start: int) -> Value:
    """The value that begins after an operator; a bare one comes back empty, with its start only.

    Never raises. Reads at most `VALUE_BYTES` bytes.
    """
    limit = min(len(data), start + VALUE_BYTES)
    opening = _OPENING.match(data, start, limit)
    quote = opening.group(2) if opening else None
    at = opening.end() if opening else start
    if opening is None or quote is None:
        is_own_line = opening is not None and opening.group(3) is not None
        return Value(at, at, is_quoted=False, is_own_line=is_own_line)
    if opening.group(1):
        found = _ESCAPED_END.search(data, at, limit)
        end = found.start() if found else limit
    else:
        closed = _CLOSING[quote].match(data, at, limit)
        end = closed.end() if closed else at
    if limit < len(data) and end == limit:
        return Value(at, end, is_quoted=True, is_own_line=False, is_cut=True)
    if not opening.group(1) and data[end : end + 1] != quote:
        blank = data.find(b" ", at, end)
        end = blank if blank >= 0 else end
    return Value(at, end, is_quoted=True, is_own_line=False)


def _bare(data: bytes, value: Value, operator: bytes) -> Value:
    limit = min(len(data), value.start + VALUE_BYTES)
    found = _ends_of(operator).search(data, value.start, limit)
    if found is None and limit < len(data):
        return Value(value.start, limit, is_quoted=False, is_own_line=False, is_cut=True)
    end = found.start() if found else limit
    while end > value.start and data[end - 1] in b",;)]}":
        end -= 1
    return Value(value.start, end, is_quoted=False, is_own_line=value.is_own_line)


def find_secret_value(data: bytes, matched: bytes, at: int) -> tuple[int, int, NameClass] | None:
    """The byte span of the secret that follows what `ASSIGN_PATTERN` matched, or None.

    `at` is where the match ended.
    """
    # The cache must not hold names of any length.
    split = split_assignment if len(matched) <= 96 else split_assignment.__wrapped__
    name, operator, kind = split(matched)
    if name.lower() in ("key", "keys"):
        name = _with_word_before(data, at - len(operator) - len(name)) + name
        kind = name_class(name)
    if kind is None:
        return None
    quote_in_operator = operator[-1:] in b"\"'" and operator[:1] in b"(,\"'`\\"
    value = read_value(data, at - 1 if quote_in_operator else at)
    if not value.is_quoted:
        value = _bare(data, value, operator)
    text = data[value.start : value.end].decode("utf-8", "replace")
    is_call = b"(" in operator or b"," in operator
    if value.is_cut:
        return value.start, _follow(data, value, operator), kind
    if _is_secret_value(text, kind, value, name, is_call=is_call):
        return value.start, value.end, kind
    return None


def _follow(data: bytes, value: Value, operator: bytes) -> int:
    """The end of a value that is longer than what was judged: its quote, or its line or word."""
    if value.is_quoted:
        found = _LINE_END.search(data, value.end)
    else:
        found = _ends_of(operator).search(data, value.end)
    return found.start() if found else len(data)


def _ends_of(operator: bytes) -> re.Pattern[bytes]:
    return _BARE_ENDS_COLON if operator.endswith(b":") else _BARE_ENDS_EQUALS


def _with_word_before(data: bytes, start: int) -> str:
    head = data[max(0, start - 16) : max(0, start)]
    words = head.replace(b"\n", b" ").split(b" ")
    return words[-2].decode("latin-1") + "_" if len(words) > 1 and not words[-1] else ""


def _is_secret_value(text: str, kind: NameClass, value: Value, name: str, *, is_call: bool) -> bool:
    if len(text) < 4 or is_placeholder(text):
        return False
    if value.is_own_line or is_call or kind == "key":
        return (looks_opaque if value.is_quoted and kind != "key" else is_strong)(text)
    if not value.is_quoted and any(c in text for c in "([{"):
        return kind == "password" and looks_opaque(text) and "(" not in text and text[0] not in "[{"
    if kind == "password":
        if value.is_quoted:
            return True
        return looks_opaque(text) or (name.isupper() and len(text) >= 6 and not is_reference(text))
    if value.is_quoted and " " in text:
        return False
    return len(text) >= 8 and looks_opaque(text) and not is_wordlike(text)
