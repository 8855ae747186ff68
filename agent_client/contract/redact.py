"""Secret and personal-data scrubbing for everything that leaves, on the agent and on the console.

Linear in the length of its input, idempotent, thread-safe, and closed on failure: whatever goes
wrong, a missing google-re2 included, the text becomes `UNAVAILABLE`. No I/O, no clock; google-re2
is imported inside functions, at the first text, phonenumbers at the first telephone number.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from agent_client.contract.redact_engine import (
    BLOCK_BYTES,
    MAX_MEM_BYTES,
    KeywordSet,
    Matcher,
    Pattern,
    blocks_of,
    replace_spans,
    windows_around,
    words_around,
)
from agent_client.contract.redact_finders import (
    build_long_matcher,
    build_pii_matcher,
    build_secret_matcher,
    build_strict_matcher,
)
from agent_client.contract.redact_phones import PhoneNumbers
from agent_client.contract.redact_rows import RowScrubber
from agent_client.contract.redact_rules import RULESET_VERSION
from agent_client.contract.redact_table import ALL_RULES
from agent_client.contract.redact_walk import Walker, message_facts

__all__ = [
    "RULESET_VERSION",
    "UNAVAILABLE",
    "redact_message",
    "redact_record",
    "redact_text",
    "redact_value",
    "suspects",
]

UNAVAILABLE = "[redaction-unavailable]"
# A replacement can bring two harmless neighbours together into something a rule matches. Passes
# are repeated until nothing changes, which makes the result idempotent; more than three were never
# seen, and a text that is still changing after these is given up as a whole.
MAX_PASSES = 6
UNSTABLE = b"[REDACTED:unstable]"
_JSON_STARTS = tuple("{[ \t\r\n")
# JSON inside a string inside JSON: the host nests tool arguments twice.
JSON_LEVELS = 3
# With more rules than these on every text, texts are cheaper one by one.
MAX_COMMON_HITS = 8


@dataclass(frozen=True, slots=True)
class _Matchers:
    secret: Matcher
    long: Matcher
    strict: Matcher
    pii: Matcher


class _Re2Compiler:
    """google-re2 with the options that hold for every pattern here."""

    def __init__(self) -> None:
        import re2

        self._re2 = re2
        self._options = re2.Options()
        self._options.encoding = re2.Options.Encoding.LATIN1
        self._options.max_mem = MAX_MEM_BYTES
        self._options.log_errors = False

    def compile(self, pattern: bytes) -> Pattern:
        compiled: Pattern = self._re2.compile(pattern, self._options)
        return compiled

    def new_set(self) -> KeywordSet:
        keyword_set: KeywordSet = self._re2.Set.SearchSet(self._options)
        return keyword_set


class _Engine:
    """Builds the matchers once a process and runs them.

    Fork: a child that was forked while another thread was inside RE2 would inherit its locked
    mutex, so the child starts with a new engine; the old one is kept, unused, because destroying a
    locked mutex is undefined.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._matchers: _Matchers | None = None
        self._inherited: list[_Matchers | None] = []

    def matchers(self) -> _Matchers:
        """The matchers of this process. Errors: whatever importing or compiling raises."""
        if self._pid != os.getpid():
            self._inherited.append(self._matchers)
            self._lock, self._matchers, self._pid = threading.Lock(), None, os.getpid()
        matchers = self._matchers
        if matchers is None:
            with self._lock:
                matchers = self._matchers or self._build()
                self._matchers = matchers
        return matchers

    def _build(self) -> _Matchers:
        compiler = _Re2Compiler()
        inner = build_secret_matcher(compiler, ALL_RULES, None)

        def scrub_once(text: str) -> str:
            return run_pass(text.encode(), [inner])[0].decode()

        return _Matchers(
            long=build_long_matcher(compiler, ALL_RULES),
            secret=build_secret_matcher(compiler, ALL_RULES, scrub_once),
            strict=build_strict_matcher(compiler),
            pii=build_pii_matcher(compiler, PhoneNumbers().check),
        )


_engine = _Engine()


def run_pass(data: bytes, matchers: list[Matcher]) -> tuple[bytes, list[tuple[int, int]]]:
    """The text (UTF-8) after one pass of the matchers, and where the replacements stand."""
    spans = [span for m in matchers if (hits := m.hits(data)) for span in m.spans(data, hits)]
    return replace_spans(data, spans) if spans else (data, [])


def run_passes(data: bytes, matchers: list[Matcher]) -> bytes:
    """The text after as many passes as change something.

    The first matcher settles before the others look, which makes what they do an addition to what
    it does alone: strict mode never takes less than standard mode, and judges less.
    """
    first, others = matchers[:1], matchers[1:]
    for _ in range(MAX_PASSES):
        data = _settle(data, first)
        if not others:
            return data
        before = data
        data, places = run_pass(before, others)
        if data == before or _is_settled(data, places, matchers):
            return data
    return UNSTABLE


def _settle(data: bytes, matchers: list[Matcher]) -> bytes:
    for _ in range(MAX_PASSES):
        before = data
        data, places = run_pass(before, matchers)
        if data == before or _is_settled(data, places, matchers):
            return data
    return UNSTABLE


def _is_settled(data: bytes, places: list[tuple[int, int]], matchers: list[Matcher]) -> bool:
    """Whether another pass changes nothing: a replacement matters to the lines around only.

    Most rules match no blank, so that to them it matters to the words around only.
    """
    if _is_changed(words_around(data, places), matchers, narrow=True):
        return False
    around = (data[start:end] for start, end in windows_around(data, places))
    return not any(_is_changed(piece, matchers, narrow=False) for piece in around)


def _is_changed(data: bytes, matchers: list[Matcher], *, narrow: bool) -> bool:
    spans = [span for matcher in matchers for span in matcher.changes(data, narrow=narrow)]
    return bool(spans) and replace_spans(data, spans)[0] != data


def _scrub(text: str, *, strict: bool, pii: bool, level: int = 0) -> str:
    """The scrubbed text. Errors: any; the callers turn them into `UNAVAILABLE`."""
    found = _engine.matchers()
    matchers = [found.secret]
    if strict:
        matchers.append(found.strict)
    if pii:
        matchers.append(found.pii)
    data = text.encode("utf-8", "surrogatepass")
    if level < JSON_LEVELS and text[:1] in _JSON_STARTS:
        if "\\" not in text and not any(matcher.hits(data) for matcher in matchers):
            return text
        parsed = _parse_json(text)
        if parsed is not None:
            return _scrub_json(text, parsed, strict=strict, pii=pii, level=level)
    if len(data) <= BLOCK_BYTES:
        after = run_passes(data, matchers)
    else:
        whole = run_passes(data, [found.long])
        after = b"".join(run_passes(block, matchers) for block in blocks_of(whole))
    return text if after == data else after.decode("utf-8", "surrogatepass")


def _scrub_json(text: str, parsed: object, *, strict: bool, pii: bool, level: int) -> str:
    def scrub(inner: str) -> str:
        return _scrub(inner, strict=strict, pii=pii, level=level + 1)

    cleaned = Walker(scrub, pii=pii).walk(parsed)
    if cleaned == parsed:
        return text
    separators = (", ", ": ") if '": ' in text else (",", ":")
    return json.dumps(cleaned, ensure_ascii=text.isascii(), separators=separators)


def _parse_json(text: str) -> object:
    """The array or object that the text is, or None. Duplicate names make it text, not JSON."""
    ends = text.strip()[:1] + text.strip()[-1:]
    if ends not in ("{}", "[]"):
        return None
    try:
        parsed: object = json.loads(text, object_pairs_hook=_unique_pairs)
    except (ValueError, RecursionError):
        return None
    return parsed


def _unique_pairs(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("duplicate name")
    return made


def _closed(scrub: Callable[[str], str]) -> Callable[[str], str]:
    """The scrubber that answers `UNAVAILABLE` where `scrub` raises. Never raises itself."""

    def guarded(text: str) -> str:
        try:
            return scrub(text)
        except Exception:  # noqa: BLE001 - redaction fails closed, whatever the fault is
            return UNAVAILABLE

    return guarded


def _scrubber(*, strict: bool, pii: bool) -> Callable[[str], str]:
    return _closed(lambda text: _scrub(text, strict=strict, pii=pii))


def redact_text(text: str, *, strict: bool = False, pii: bool = False) -> str:
    """The text with every secret replaced by `[REDACTED:<rule id>]`. Never raises.

    `strict` adds the entropy fallback, for message content; `pii` also replaces e-mail addresses,
    telephone numbers and ids of persons by `[email]`, `[phone]` and `[id]`. Text that is JSON is
    walked, three levels deep, and keeps its bytes unless something in it was replaced.
    """
    return _scrubber(strict=strict, pii=pii)(text)


def suspects(texts: Sequence[str]) -> Sequence[str]:
    """The texts that `redact_text` may change; the others it surely leaves. Never raises.

    A rule runs on a text in which one of its keywords stands. Here the keywords are sought once, in
    all texts together, which finds them wherever one text has them; then the same rules run on
    each text. A thousand unlike ids cost a tenth of what they cost one by one.
    """
    try:
        matcher = _engine.matchers().secret
        plain = [text for text in texts if _is_one_pass(text)]
        hits = matcher.hits("\n".join(plain).encode("utf-8", "surrogatepass"))
        if len(hits) > MAX_COMMON_HITS:
            return texts
        suspected = [text for text in texts if not _is_one_pass(text)]
        if hits:
            suspected += [
                text for text in plain if matcher.spans(text.encode("utf-8", "surrogatepass"), hits)
            ]
    except Exception:  # noqa: BLE001 - redaction fails closed, whatever the fault is
        return texts
    return suspected


def _is_one_pass(text: str) -> bool:
    """Whether one pass over the text as it is decides: it is neither JSON nor cut into blocks."""
    return text[:1] not in _JSON_STARTS and len(text) * 4 <= BLOCK_BYTES


def redact_value(value: object, *, strict: bool = False, pii: bool = False) -> object:
    """A JSON value with every string scrubbed, names of fields included. Never raises.

    Shape: that of the input. A string under the name of a secret goes whatever it looks like;
    numbers, booleans and null stay (a number under a password's name goes). Values that JSON has no
    form for, and levels beyond `redact_walk.MAX_DEPTH`, become `UNAVAILABLE`.
    """
    return Walker(_scrubber(strict=strict, pii=pii), pii=pii).walk(value)


def redact_record(record: Mapping[str, object]) -> dict[str, object]:
    """A flat export row with every string scrubbed. Never raises.

    Shape: the columns of the input, in their order. Ids, enumerations, model and tool names and
    numbers come through unchanged; a column that holds JSON is walked. Texts are judged once and
    remembered, so that a million rows cost little more than their distinct values.
    """
    return _rows.scrub(record)


_rows = RowScrubber(
    scrub=_scrubber(strict=False, pii=False),
    walk=Walker(_scrubber(strict=False, pii=False), pii=False).walk_object,
)


def redact_message(
    message: Mapping[str, object], *, include_content: bool, pii: bool
) -> dict[str, object]:
    """A message scrubbed by shape. Never raises.

    Shape: role, tool name, name and the other facts of `redact_walk.KEPT_FIELDS`; without content
    content_chars, reasoning_chars and tool_call_count; with content the content, the reasoning and
    the tool calls themselves, scrubbed in strict mode, names of functions kept. Tool calls that
    cannot be read become `[unparseable-tool-calls]`.
    """
    facts = Walker(_scrubber(strict=False, pii=pii), pii=pii)
    content = Walker(_scrubber(strict=True, pii=pii), pii=pii)
    return message_facts(message, facts, content, include_content=include_content)
