"""Canonical JSON: one value, one sequence of bytes."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_client.contract.canonical import canonical_json, digest_of, sha256_hex

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
)
documents = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)


@given(documents)
def test_canonical_bytes_read_back_as_the_same_value(value: object) -> None:
    assert json.loads(canonical_json(value)) == value


@given(documents)
def test_canonical_bytes_are_their_own_canonical_form(value: object) -> None:
    data = canonical_json(value)
    assert canonical_json(json.loads(data)) == data


@given(st.dictionaries(texts, scalars, min_size=2, max_size=6))
def test_the_order_of_keys_does_not_matter(value: dict[str, object]) -> None:
    turned = dict(reversed(list(value.items())))
    assert canonical_json(turned) == canonical_json(value)
    assert digest_of(turned) == digest_of(value)


def test_the_form_has_sorted_keys_no_white_space_and_plain_utf8() -> None:
    value = {"b": [1, 2.5, None, True], "a": "é\u2028\n"}
    assert canonical_json(value) == '{"a":"é\u2028\\n","b":[1,2.5,null,true]}'.encode()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [float("-inf")], "\ud800"])
def test_values_without_one_form_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"JSON compliant|surrogates not allowed"):
        canonical_json(value)


def test_a_value_json_has_no_form_for_is_refused() -> None:
    with pytest.raises(TypeError):
        canonical_json({"when": object()})


def test_a_digest_is_the_hex_sha256_of_the_canonical_bytes() -> None:
    assert digest_of({"a": 1}) == hashlib.sha256(b'{"a":1}').hexdigest() == sha256_hex(b'{"a":1}')
