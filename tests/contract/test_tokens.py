"""Tokens: their written form is parsed, or refused before any query."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import agent_client.contract
from agent_client.contract.tokens import Token, checksum, parse_enrollment, parse_token

VECTORS = Path(agent_client.contract.__file__).with_name("vectors") / "tokens.json"


def vectors(part: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(VECTORS.read_text(encoding="utf-8"))[part]
    return found


def hex_of(length: int) -> st.SearchStrategy[str]:
    return st.binary(min_size=length // 2, max_size=length // 2).map(bytes.hex)


tokens = st.builds(Token, st.sampled_from(["hfe", "hfa"]), hex_of(12), hex_of(64))


@given(tokens)
def test_every_token_is_parsed_from_its_text(token: Token) -> None:
    assert parse_token(token.text()) == token
    assert len(token.text()) == 89


@given(tokens, st.integers(0, 88), st.sampled_from("0123456789abcdefg_"))
def test_one_wrong_character_is_always_noticed(token: Token, place: int, char: str) -> None:
    text = token.text()
    changed = text[:place] + char + text[place + 1 :]
    assert (parse_token(changed) is None) == (changed != text)


@given(st.text())
def test_no_text_makes_the_parsers_raise(text: str) -> None:
    assert parse_token(text) is None
    assert parse_enrollment(text) is None


@given(tokens)
def test_a_token_never_shows_its_secret_when_printed(token: Token) -> None:
    assert token.secret not in f"{token!r} {token}"


@pytest.mark.parametrize("vector", vectors("valid"), ids=lambda vector: vector["prefix"])
def test_a_golden_token_is_read(vector: dict[str, str]) -> None:
    token = Token(vector["prefix"], vector["key_id"], vector["secret"])
    assert parse_token(vector["text"]) == token
    assert token.text() == vector["text"]
    assert checksum(vector["text"][:-8]) == vector["text"][-8:]


@pytest.mark.parametrize("vector", vectors("invalid"), ids=lambda vector: vector["name"])
def test_a_faulty_golden_token_is_refused(vector: dict[str, str]) -> None:
    assert parse_token(vector["text"]) is None


@pytest.mark.parametrize("vector", vectors("enrollment"), ids=["plain", "with white space"])
def test_a_golden_enrollment_string_is_read(vector: dict[str, str]) -> None:
    found = parse_enrollment(vector["text"])
    assert found is not None
    assert (found[0].text(), found[1]) == (vector["token"], vector["fingerprint"])


@pytest.mark.parametrize("vector", vectors("invalid_enrollment"), ids=lambda vector: vector["name"])
def test_a_faulty_golden_enrollment_string_is_refused(vector: dict[str, str]) -> None:
    assert parse_enrollment(vector["text"]) is None
