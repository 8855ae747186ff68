"""Finds the values of assignments whose name says secret: ENV, YAML, JSON, code, queries, headers.

The engine finds `name operator` (a pattern without any unbounded value in it); this module reads
the value that follows and judges it. Reading a value is bounded, so the whole stays linear.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from agent_client.contract.redact_engine import Match, mark
from agent_client.contract.redact_names import NameClass, name_class
from agent_client.contract.redact_values import (
    has_crossed_brackets,
    is_placeholder,
    is_reference,
    is_strong,
    is_wordlike,
    looks_opaque,
)

# Name, what may close it, operator. No group, so that RE2 stays on its fast automaton.
ASSIGN_PATTERN = (
    r"(?i)[\w.$-]*(?:pass|kennwort|contrasena|senha|wachtwoord|pwd|psw|secret|token|key|auth|cred|jwt|bearer|cookie|signature|mnemonic"
    r"|dsn|sid|sessionid|sas|psk|totp|sonar\.login|pat\b|pw\b|sig\b)[\w.-]*\\*[\"'`]?(?:\[\d{0,6}\])?\]?\s{0,16}"
    r"(?:string\s{0,4})?(?::\s{0,4}&?(?:'static\s{1,2})?(?:[Ss]tring|str|bytes|NSString"
    r"|SecretStr|Option<String>)\??\s{0,4}=|[:?.+!]{0,3}={1,3}>?|:{1,3}|(?:\|\||\?\?)\s{0,2}[\"'`]|\([\"'@]|,\s{0,4}\\*[\"'])"
)
ASSIGN_KEYWORDS = tuple(
    "(?i)" + word
    for word in (
        "pass", "kennwort", "contrasena", "senha", "wachtwoord", "pwd", "psw", "secret", "token",
        "key", "auth", "cred", "jwt", "bearer", "cookie", "signature", "mnemonic", "dsn", "sid",
        "sessionid", "sas", "psk", "totp", r"sonar\.login", r"pat\b", r"pw\b", r"sig\b",
    )
)  # fmt: skip
# A name and a value that stand apart: the environment of a pod, a variable of Terraform with its
# default. Groups: the name, or the name; the value.
PAIR_PATTERN = (
    r"(?:(?i:\bname\\*[\"']?\s*[:=]\s*\\*[\"']?([\w.-]+)\\*[\"']?[\s,]+\\*[\"']?value\\*[\"']?\s*[:=]\s*\\*[\"']?)"
    r"|\bvariable\s+\"([\w-]+)\"\s*\{[^{}]*?\bdefault\s*=\s*\")([^\"'\\<>\s]{6,})"
)
PAIR_KEYWORDS = ("(?i)value", 'variable "')
# Shorter ones under the name of a secret or key are words and states as often as not.
PAIRED_BYTES = 16
# A value is judged by its first bytes only; an accepted one is then followed to its end. Looking
# further before judging would cost the square of the length on "token=token=token=…".
VALUE_BYTES = 512
MIN_BYTES = 4
_BARE_EQUALS = rb"[^\s\"'`\\<>,;&|]*"
_BARE_COLON = rb"[^\s\"'`\\<>]*"
# Each alternative begins where the one before cannot go on, so that none is tried over again.
# By group: between double quotes, single quotes, backticks, escaped quotes; on a line of its own
# (YAML); bare. A match is bounded by its end position.
_VALUE = (
    rb"[ \t]{0,32}@?[bfru]{0,2}(?:\"((?:[^\"\\\n]|\\.)*)|'((?:[^'\\\n]|\\.)*)|`([^`\n]*)"
    rb"|\\{1,8}[\"'`]([^\\\"'`\n]*))"
    rb"|[ \t]{0,32}(?:(?:[>|][+-]?[ \t]*)?\r?\n[ \t]+(%s)|(?:[>|][+-]?[ \t]*)?(%s))"
)
_VALUE_EQUALS = re.compile(_VALUE % (_BARE_EQUALS, _BARE_EQUALS))
_VALUE_COLON = re.compile(_VALUE % (_BARE_COLON, _BARE_COLON))
_QUOTES_OF = (b"", b'"', b"'", b"`")
_ESCAPED, _OWN_LINE = 4, 5
_NAME_BYTES = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.$-"
# Words and short numbers: the name of a migration or of a test, given as an argument.
_SLUG = re.compile(r"(?:[A-Za-z]+|\d{1,4})(?:[_.-](?:[A-Za-z]+|\d{1,4}))*")
_BRACKET = re.compile(r"[(\[{]")
_QUOTED_END = re.compile(rb"[\"'`\n]")
_BLANK_END = re.compile(rb"[\"'`\s]")
_EQUALS_END = re.compile(rb"[\s\"'`\\<>,;&|]")
_COLON_END = re.compile(rb"[\s\"'`\\<>]")
_REDACTED = b"[REDACTED:"
_MARKS: dict[NameClass, str] = {
    "password": mark("named-password"),
    "secret": mark("named-secret"),
    "key": mark("named-key"),
}


class Assignment(NamedTuple):
    """What `ASSIGN_PATTERN` matched, read once a distinct text.

    `skip` bytes of the match are the operator's own quote, which belongs to the value; `is_call`
    when the operator is an opening parenthesis or a comma.
    """

    name: str
    kind: NameClass | None
    operator_bytes: int
    skip: int
    is_call: bool
    is_colon: bool
    is_bare_key: bool


@lru_cache(maxsize=8192)
def split_assignment(matched: bytes) -> Assignment:
    """The name and the operator of what `ASSIGN_PATTERN` matched, and what the name says."""
    operator = matched.lstrip(_NAME_BYTES)
    name = matched[: len(matched) - len(operator)].decode("ascii")
    has_own_quote = operator[-1:] in b"\"'" and operator.lstrip()[:1] in b"(,|?\"'`\\"
    return Assignment(
        name,
        name_class(name),
        len(operator),
        skip=1 if has_own_quote else 0,
        is_call=b"(" in operator or b"," in operator,
        is_colon=operator.endswith(b":"),
        is_bare_key=name.lower() in ("key", "keys"),
    )


def find_secret_value(data: bytes, start: int, end: int) -> tuple[int, int, str] | None:
    """The byte span and the replacement of the secret that follows an assignment, or None.

    `start` and `end` are those of a match of `ASSIGN_PATTERN`. Never raises. Judges `VALUE_BYTES`
    bytes at most.
    """
    # The cache must not hold names of any length.
    split = split_assignment if end - start <= 96 else split_assignment.__wrapped__
    found = split(data[start:end])
    name, kind = found.name, found.kind
    if found.is_bare_key:
        name = _with_word_before(data, end - found.operator_bytes - len(name)) + name
        kind = name_class(name)
    if kind is None:
        return None
    at = end - found.skip
    limit = at + VALUE_BYTES
    value = (_VALUE_COLON if found.is_colon else _VALUE_EQUALS).match(data, at, limit)
    if value is None:  # pragma: no cover - the last alternative matches anything
        return None
    form = value.lastindex or 0
    first, last = value.span(form)
    is_quoted = form <= _ESCAPED
    if last == limit < len(data):
        return first, _follow(data, last, is_quoted=is_quoted, found=found), _MARKS[kind]
    if not is_quoted:
        while last > first and data[last - 1] in b",;:)]}":
            last -= 1
    elif form < _ESCAPED and data[last : last + 1] != _QUOTES_OF[form]:
        blank = data.find(b" ", first, last)  # never closed
        last = blank if blank >= 0 else last
    if last - first < MIN_BYTES or data.startswith(_REDACTED, first):
        return None
    text = data[first:last].decode("utf-8", "replace")
    if not is_quoted and has_crossed_brackets(text):
        end_of_word = _BLANK_END.search(data, last)
        return first, end_of_word.start() if end_of_word else len(data), _MARKS[kind]
    if found.is_call or form == _OWN_LINE or kind == "key":
        is_secret = _is_secret_apart(text, kind, is_quoted=is_quoted, is_call=found.is_call)
    else:
        is_secret = _is_secret_value(text, kind, name, is_quoted=is_quoted)
    if is_secret:
        return first, last, _MARKS[kind]
    return None


def find_paired_value(matched: Match) -> tuple[int, int, str] | None:
    """The span and the replacement of the secret in a match of `PAIR_PATTERN`, or None."""
    first, last = matched.span(3)
    kind = name_class((matched.group(1) or matched.group(2)).decode("ascii", "replace"))
    if kind is None or (kind != "password" and last - first < PAIRED_BYTES):
        return None
    text = matched.group(3).decode("utf-8", "replace")
    is_secret = _is_secret_apart(text, kind, is_quoted=True, is_call=False)
    return (first, last, _MARKS[kind]) if is_secret else None


def _follow(data: bytes, at: int, *, is_quoted: bool, found: Assignment) -> int:
    """The end of a value that is longer than what was judged: its quote, or its line or word."""
    ends = _QUOTED_END if is_quoted else _COLON_END if found.is_colon else _EQUALS_END
    end = ends.search(data, at)
    return end.start() if end else len(data)


def _with_word_before(data: bytes, start: int) -> str:
    head = data[max(0, start - 16) : max(0, start)]
    words = head.replace(b"\n", b" ").split(b" ")
    return words[-2].decode("latin-1") + "_" if len(words) > 1 and not words[-1] else ""


def _is_secret_apart(text: str, kind: NameClass, *, is_quoted: bool, is_call: bool) -> bool:
    """Judges a value of which the name says less: on the next line, an argument, of a mere key."""
    if (not is_quoted and _BRACKET.search(text)) or is_placeholder(text):
        return False
    if is_call and kind != "password" and (" " in text or _SLUG.fullmatch(text)):
        return False
    return (looks_opaque if is_quoted and kind != "key" else is_strong)(text)


def _is_secret_value(text: str, kind: NameClass, name: str, *, is_quoted: bool) -> bool:
    """Judges a value right behind the name of a password or secret."""
    if is_placeholder(text):
        return False
    if not is_quoted and _BRACKET.search(text):
        return kind == "password" and looks_opaque(text) and "(" not in text and text[0] not in "[{"
    if kind == "password":
        if is_quoted:
            return True
        return looks_opaque(text) or (name.isupper() and len(text) >= 6 and not is_reference(text))
    if is_quoted and " " in text:
        return False
    return len(text) >= 8 and looks_opaque(text) and not is_wordlike(text)
