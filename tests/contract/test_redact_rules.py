"""Every rule row by its own examples, and what the whole table must hold."""

from __future__ import annotations

import re

import pytest
import re2

from agent_client.contract.redact import _Re2Compiler, redact_text
from agent_client.contract.redact_engine import (
    Matcher,
    is_narrow_pattern,
    replace_spans,
    windows_around,
    words_around,
)
from agent_client.contract.redact_finders import rule_finder
from agent_client.contract.redact_rules import LEAD, Rule
from agent_client.contract.redact_table import ALL_RULES
from tests.contract.redact_examples import expand

MATCHES = [(rule, text) for rule in ALL_RULES for text in rule.matches]
NON_MATCHES = [(rule, text) for rule in ALL_RULES for text in rule.non_matches]


def finds(rule: Rule, text: str) -> bool:
    """Whether this rule alone, behind its own keywords, finds something."""
    matcher = Matcher(_Re2Compiler())
    matcher.add(rule.keywords, rule_finder(matcher, rule))
    matcher.close()
    data = text.encode()
    return bool(matcher.spans(data, matcher.hits(data)))


@pytest.mark.parametrize(("rule", "template"), MATCHES, ids=lambda v: getattr(v, "id", "text"))
def test_rule_finds_its_example(rule: Rule, template: str) -> None:
    assert finds(rule, expand(template))


@pytest.mark.parametrize(("rule", "template"), NON_MATCHES, ids=lambda v: getattr(v, "id", "text"))
def test_rule_leaves_its_counter_example(rule: Rule, template: str) -> None:
    assert not finds(rule, expand(template))


@pytest.mark.parametrize("rule", ALL_RULES, ids=lambda rule: rule.id)
def test_example_of_a_rule_is_gone_from_the_text(rule: Rule) -> None:
    for template in rule.matches:
        text = expand(template)
        cleaned = redact_text(f"before\n{text}\nafter")
        assert "[REDACTED:" in cleaned
        assert text not in cleaned


@pytest.mark.parametrize("rule", ALL_RULES, ids=lambda rule: rule.id)
def test_rule_row_is_complete(rule: Rule) -> None:
    assert rule.keywords
    assert rule.matches
    assert rule.non_matches
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]*", rule.id)


def test_rule_ids_are_unique() -> None:
    ids = [rule.id for rule in ALL_RULES]
    assert len(ids) == len(set(ids))


def test_every_pattern_compiles_in_the_linear_engine() -> None:
    for rule in ALL_RULES:
        assert re2.compile(rule.pattern).groups >= rule.group


def test_placeholders_of_a_row_let_a_value_through() -> None:
    rule = Rule("x", r"zq_\w{8,}", ("zq_",), placeholders=("docs",), entropy=1.0)
    assert finds(rule, "zq_a8b9c0d1")
    assert not finds(rule, "zq_a8DOCS0d1")


def test_replacement_is_widened_to_whole_characters() -> None:
    data = "aéb".encode()
    assert replace_spans(data, [(2, 3, 0, "[X]")]) == (b"a[X]b", [(1, 4)])
    assert replace_spans(data, [(1, 2, 0, "[X]")]) == (b"a[X]b", [(1, 4)])


def test_windows_hold_the_line_before_and_the_line_after() -> None:
    data = b"a\nb\nXX XX\nc\nd\ne\nXX\n"
    assert windows_around(data, [(4, 6), (7, 9)]) == [(2, 11)]
    assert windows_around(data, [(4, 6), (16, 18)]) == [(2, 11), (14, 19)]
    assert windows_around(b"XX\nXX", [(0, 2), (3, 5)]) == [(0, 5)]


def test_where_rules_meet_the_earlier_names_the_replacement() -> None:
    spans = [(0, 4, 5, "[late]"), (2, 6, 1, "[early]")]
    assert replace_spans(b"abcdefgh", spans)[0] == b"[early]gh"


def test_words_hold_the_places_and_no_blank() -> None:
    data = b"a bXXc dXX XXe\nf\tXX"
    assert words_around(data, [(3, 5), (8, 10), (11, 13), (17, 19)]) == b"bXXc dXX XXe XX"
    assert words_around(b"aXXbXXc d", [(1, 3), (4, 6)]) == b"aXXbXXc"
    assert words_around(data, []) == b""


@pytest.mark.parametrize(
    "source", [r"a\sb", "a b", r"[^x]", "a.b", r"\W", r"\S\D", "(?m)^a", "a$", r"\x20", r"\n"]
)
def test_pattern_that_may_match_a_blank_is_not_narrow(source: str) -> None:
    assert not is_narrow_pattern(source)
    assert is_narrow_pattern(r"\bab[\w+/=-]{4}\.c\b")


def test_narrow_rules_match_no_blank() -> None:
    narrow = [(r, t) for r, t in MATCHES if is_narrow_pattern(r.pattern.removeprefix(LEAD))]
    assert len(narrow) > 300
    for rule, template in narrow:
        text = expand(template).encode()
        torn = b"".join(text[:at] + b" " + text[at:] + b"\n" for at in range(len(text)))
        search = _Re2Compiler().compile(rule.pattern.encode()).finditer
        assert not any(set(m.group()) & set(b" \t\r\n") for m in search(torn)), rule.id
