"""Texts judged together: whatever redaction would change is among the suspects."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_client.contract import redact
from agent_client.contract.redact import redact_text, suspects
from agent_client.contract.redact_table import ALL_RULES
from tests.contract.redact_examples import expand

EXAMPLES = [expand(template) for rule in ALL_RULES for template in rule.matches]
CHANGED = [text for text in EXAMPLES if redact_text(text) != text]
PLAIN = [expand(f"chatcmpl-<h{n}>") for n in range(20, 40)]
TEXTS = st.one_of(
    st.sampled_from([*EXAMPLES, *PLAIN, '{"a\\u0062c": 1}', "\ud800", "x" * 5000]),
    st.text(max_size=30),
)


@pytest.mark.parametrize("first", range(4))
def test_every_secret_is_a_suspect_among_plain_ids(first: int) -> None:
    assert len(CHANGED) > 100
    for text in CHANGED[first::4]:
        assert text in suspects([*PLAIN[:10], text, *PLAIN[10:]])


@given(st.lists(TEXTS, max_size=6))
def test_what_redaction_changes_is_a_suspect(texts: list[str]) -> None:
    assert {text for text in texts if redact_text(text) != text} <= set(suspects(texts))


def test_ids_of_a_provider_are_no_suspects() -> None:
    assert not suspects(PLAIN)


def test_a_secret_escaped_in_json_is_a_suspect() -> None:
    escaped = "".join(f"\\u{ord(char):04x}" for char in expand("ghp_<w36>"))
    text = f'{{"note": "{escaped}"}}'
    assert redact_text(text) != text
    assert text in suspects([text])


def test_without_an_engine_all_are_suspects(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ImportError("re2")

    monkeypatch.setattr(redact._engine, "matchers", fail)
    assert list(suspects(PLAIN)) == PLAIN
