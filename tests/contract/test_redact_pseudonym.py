"""Pseudonyms: stable under a key, different under another, and left alone by the scrubber."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_client.contract.redact import redact_text, redact_value
from agent_client.contract.redact_pseudonym import pseudonym

KEY = bytes(range(32))
VECTORS = json.loads(
    files("agent_client.contract").joinpath("vectors/pseudonyms.json").read_text(encoding="utf-8")
)["vectors"]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_vector_gives_its_pseudonym(vector: dict[str, str]) -> None:
    assert pseudonym(vector["value"], bytes.fromhex(vector["key_hex"])) == vector["pseudonym"]


@given(value=st.text(max_size=40))
def test_pseudonym_is_stable_and_says_nothing(value: str) -> None:
    made = pseudonym(value, KEY)
    assert made == pseudonym(value, KEY)
    assert made != pseudonym(value, KEY[::-1])
    assert made != pseudonym(value + "x", KEY)
    assert len(made) == 35


@given(value=st.text(max_size=40))
def test_scrubber_leaves_a_pseudonym_alone(value: str) -> None:
    made = pseudonym(value, KEY)
    for strict in (False, True):
        assert redact_text(f"user_id={made}", strict=strict, pii=True) == f"user_id={made}"
        assert redact_value({"user_id": made}, strict=strict, pii=True) == {"user_id": made}


def test_short_key_is_refused() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        pseudonym("42", b"short")
