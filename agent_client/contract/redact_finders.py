"""The finders: each names the spans that one kind of rule would replace in a text.

Secrets by the rule table, by assignment, inside base64, by entropy (strict mode); personal data.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable

from agent_client.contract.redact_assign import (
    ASSIGN_KEYWORDS,
    ASSIGN_PATTERN,
    PAIR_KEYWORDS,
    PAIR_PATTERN,
    find_paired_value,
    find_secret_value,
)
from agent_client.contract.redact_engine import (
    Compiler,
    Finder,
    Matcher,
    is_narrow_pattern,
    mark,
)
from agent_client.contract.redact_k8s import find_secret_data
from agent_client.contract.redact_national import NATIONAL_RULES
from agent_client.contract.redact_pii import (
    PHONE_KEYWORDS,
    PHONE_PATTERN,
    PII_RULES,
    PhoneCheck,
    PiiRule,
    find_phone,
)
from agent_client.contract.redact_rules import LEAD, Rule
from agent_client.contract.redact_values import (
    entropy_bits,
    is_camel_case,
    is_hex_digest,
    is_secret,
    is_strong,
)

K8S_KEYWORDS = (r"kind\W\W?\W?\W?[Ss]ecret\b",)
BASE64_KEYWORDS = (r"[0-9A-Za-z+/_-]{20}",)
BASE64_PATTERN = r"[0-9A-Za-z+/_-]{40,}={0,2}"
# What a generated token is made of, for the entropy fallback of strict mode.
STRICT_PATTERN = r"[0-9A-Za-z][\w+/=~.-]{18,}[\w=]"
# What this engine puts in the place of a secret is none.
MARK_START = b"[REDACTED:"
DIGEST_NAMES = ("sha1", "sha224", "sha256", "sha384", "sha512", "md5", "blake2b", "integrity")
# Above every rank of a rule table, so that the more telling replacement wins where spans meet.
PERSONAL_RANK = 10_000
FALLBACK_RANK = 20_000
# Ids that providers and hosts hand out; public by design, and needed to read a trace.
PUBLIC_ID_PREFIXES = (
    "msg_", "call_", "toolu_", "chatcmpl-", "req_", "run_", "resp_", "fc_", "rs_", "thread_",
    "asst_", "file-", "batch_", "sess_", "session_", "gen-", "sha1-", "sha256-", "sha384-",
    "sha512-", "evt_", "cus_", "sub_", "price_", "prod_", "in_", "AAAA", "tool_", "step_", "task_",
    "trace_", "span_", "pi_", "ch_", "pm_", "seti_",
)  # fmt: skip


def rule_finder(matcher: Matcher, rule: Rule) -> Finder:
    """The finder of one row of the rule table."""
    search = matcher.pattern(rule.pattern)
    replacement = mark(rule.id)
    group, judge, placeholders = rule.group, rule.judge, rule.placeholders
    is_prose = judge in ("opaque", "strong", "password")

    def find(data: bytes) -> Iterable[tuple[int, int, str]]:
        for match in search(data):
            start, end = match.span(group)
            if data.startswith(MARK_START, start):
                continue
            if group == 0:
                lead = data[start : start + 1]
                if lead in (b"\\", b"%"):
                    start += 2 if lead == b"\\" else 3
                if is_inside_base64(data, start):
                    continue
            while is_prose and end > start and data[end - 1] in b".,;:!?)":
                end -= 1
            value = data[start:end].decode("utf-8", "replace")
            if placeholders and any(word in value.lower() for word in placeholders):
                continue
            if is_secret(value, judge, rule.entropy):
                yield start, end, replacement

    return find


def is_inside_base64(data: bytes, start: int) -> bool:
    """Whether what stands before is the middle of base64, where any prefix turns up."""
    if data[start - 1 : start] == b"-" and _DIGEST.search(data, max(0, start - 96), start):
        return True
    if data[start - 1 : start] not in (b"+", b"/") or start < 9:
        return False
    before = data[start - 9 : start - 1].replace(b"+", b"0").replace(b"/", b"0")
    is_mixed = before.lower() != before and before.upper() != before
    return before.isalnum() and is_mixed and any(48 <= c <= 57 for c in before)


def assignment_finder(matcher: Matcher) -> Finder:
    """Values that stand after the name of a secret."""
    search = matcher.pattern(ASSIGN_PATTERN)

    def find(data: bytes) -> Iterable[tuple[int, int, str]]:
        covered = 0
        for match in search(data):
            start, end = match.span()
            if start < covered:
                continue
            found = find_secret_value(data, start, end)
            if found is not None:
                covered = found[1]
                yield found

    return find


def pair_finder(matcher: Matcher) -> Finder:
    """Values that stand apart from the name of a secret, each under a word of its own."""
    search = matcher.pattern(PAIR_PATTERN)

    def find(data: bytes) -> Iterable[tuple[int, int, str]]:
        return filter(None, map(find_paired_value, search(data)))

    return find


def base64_finder(matcher: Matcher, scrub_once: Callable[[str], str]) -> Finder:
    """Printable base64 of 40 characters and more whose content holds a secret."""
    search = matcher.pattern(BASE64_PATTERN)

    def find(data: bytes) -> Iterable[tuple[int, int, str]]:
        for match in search(data):
            start, end = match.span()
            text = decode_printable(data[start:end])
            if text is not None and scrub_once(text) != text:
                yield start, end, mark("base64")

    return find


def decode_printable(data: bytes) -> str | None:
    """The text that base64 (standard or URL alphabet) holds, or None when it is no text.

    The head is tried first: an image of a megabyte is known after 48 bytes.
    """
    clean = data.rstrip(b"=").translate(_TO_STANDARD)
    head = _decode(clean[:64])
    if len(head.translate(None, _PRINTABLE)) * 4 > len(head):
        return None
    raw = _decode(clean)
    if raw.translate(None, _PRINTABLE + _HIGH):
        return None
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _decode(clean: bytes) -> bytes:
    usable = clean[: len(clean) - 1] if len(clean) % 4 == 1 else clean
    try:
        return base64.b64decode(usable + b"=" * (-len(usable) % 4))
    except ValueError:  # other characters in between, which only strict mode hands in
        return b"\0"


_TO_STANDARD = bytes.maketrans(b"-_", b"+/")
_PRINTABLE = bytes(range(32, 127)) + b"\t\r\n"
_HIGH = bytes(range(128, 256))
_DIGEST = re.compile(rb"\bsha(?:1|256|384|512)[-=][\w+/-]{0,88}$")
# Images, digests of modules and host keys, validators of caches, nonces: public by design.
_PUBLIC_BEFORE = re.compile(
    rb"(?i)(?:base64,|\bh1:/?|\bsha(?:1|256|384|512):|\betag\W{1,6}(?:w/\")?|\bnonce\W{1,4}"
    rb"|-websocket-(?:accept|key)\W{1,4})$"
)
# Prisma and others number their rows by cuid, which begins with the time.
_CUID = re.compile(r"c[jklm][0-9a-z]{23}")
_ULID = re.compile(r"[0-9A-HJKMNP-TV-Z]{26}")


def strict_finder(matcher: Matcher) -> Finder:
    """The entropy fallback: long mixed tokens that no rule knows and that are no public id."""
    search = matcher.pattern(STRICT_PATTERN)

    def find(data: bytes) -> Iterable[tuple[int, int, str]]:
        for match in search(data):
            start, end = match.span()
            if _PUBLIC_BEFORE.search(data, max(0, start - 24), start) or decode_printable(
                data[start:end]
            ):
                continue
            value = data[start:end].decode("utf-8", "replace")
            for part_start, part in _parts(value):
                if _is_unknown_token(part):
                    yield start + part_start, start + part_start + len(part), mark("high-entropy")

    return find


def _parts(value: str) -> Iterable[tuple[int, str]]:
    """The value cut at its first `=`, so that a name before it does not hide the token."""
    name, equals, rest = value.partition("=")
    if name.lower() in DIGEST_NAMES:
        return ()
    if equals and rest.strip("="):
        return ((0, name), (len(name) + 1, rest))
    return ((0, value),)


def _is_unknown_token(value: str) -> bool:
    if len(value) < 20 or value.startswith(PUBLIC_ID_PREFIXES) or not is_strong(value):
        return False
    if _ULID.fullmatch(value) or _CUID.fullmatch(value):
        return False
    longest = max(value.replace("-", ".").replace("_", ".").replace("/", ".").split("."), key=len)
    if len(longest) < 16 or is_hex_digest(longest):
        return False
    is_mixed = longest.lower() != longest and longest.upper() != longest
    if is_mixed and is_camel_case(longest):
        return False
    return entropy_bits(longest) >= (3.7 if is_mixed else 4.0)


def pii_finder(matcher: Matcher, rule: PiiRule) -> Finder:
    """The finder of one row of the tables of personal data."""
    search = matcher.pattern(rule.pattern)

    def find(data: bytes) -> Iterable[tuple[int, int, str]]:
        for match in search(data):
            start, end = match.span(rule.group)
            before = data[max(0, start - 32) : start].decode("utf-8", "replace")
            if rule.check(before, data[start:end].decode("utf-8", "replace")):
                yield start, end, rule.replacement

    return find


def phone_finder(matcher: Matcher, check: PhoneCheck) -> Finder:
    """Telephone numbers with a plus, or after a telephone word."""
    search = matcher.pattern(PHONE_PATTERN)

    def find(data: bytes) -> Iterable[tuple[int, int, str]]:
        for match in search(data):
            start, end = match.span()
            before = data[max(0, start - 32) : start].decode("utf-8", "replace")
            if find_phone(before, data[start:end].decode("ascii", "replace"), check):
                yield start, end, "[phone]"

    return find


def build_secret_matcher(
    compiler: Compiler, rules: Iterable[Rule], scrub_once: Callable[[str], str] | None
) -> Matcher:
    """The matcher of secrets. Without `scrub_once` base64 is not opened (its second level)."""
    matcher = Matcher(compiler)
    for rule in rules:
        is_narrow = is_narrow_pattern(rule.pattern.removeprefix(LEAD))
        matcher.add(rule.keywords, rule_finder(matcher, rule), is_narrow=is_narrow)
    matcher.add(ASSIGN_KEYWORDS, assignment_finder(matcher))
    matcher.add(PAIR_KEYWORDS, pair_finder(matcher))
    matcher.add(K8S_KEYWORDS, find_secret_data)
    if scrub_once is not None:
        matcher.add(BASE64_KEYWORDS, base64_finder(matcher, scrub_once))
    matcher.close()
    return matcher


def build_long_matcher(compiler: Compiler, rules: Iterable[Rule]) -> Matcher:
    """The matcher of what crosses line ends, for texts that are cut into blocks after it."""
    matcher = Matcher(compiler)
    for rule in rules:
        if rule.spans_lines:
            matcher.add(rule.keywords, rule_finder(matcher, rule))
    matcher.add(K8S_KEYWORDS, find_secret_data)
    matcher.close()
    return matcher


def build_strict_matcher(compiler: Compiler) -> Matcher:
    """The matcher of the entropy fallback alone; every named rule goes before it."""
    matcher = Matcher(compiler, first_rank=FALLBACK_RANK)
    matcher.add((r"[\w+/=~.-]{16}",), strict_finder(matcher))
    matcher.close()
    return matcher


def build_pii_matcher(compiler: Compiler, check: PhoneCheck) -> Matcher:
    """The matcher of personal data; secrets go before it."""
    matcher = Matcher(compiler, first_rank=PERSONAL_RANK)
    for rule in PII_RULES + NATIONAL_RULES:
        matcher.add(rule.keywords, pii_finder(matcher, rule))
    matcher.add(PHONE_KEYWORDS, phone_finder(matcher, check))
    matcher.close()
    return matcher
