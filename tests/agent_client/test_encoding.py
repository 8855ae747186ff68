"""The fast way of encoding gives the very bytes of the plain one, whatever the values are."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_client import encoding
from agent_client.contract import redact
from agent_client.contract.redact_table import ALL_RULES
from agent_client.contract.tables import EVENT_TABLES, MODEL_CALLS, Table
from agent_client.encoding import RowEncoder, dumps, encode
from agent_client.store import Row
from tests.contract.redact_examples import expand

SECRETS = [expand(example) for rule in ALL_RULES for example in rule.matches]
HEX = st.text("0123456789abcdef", min_size=32, max_size=32)
WORDS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,40}", fullmatch=True)
PARTS = st.sampled_from(["token", "AKIA", "ghp_", "sk-", "key", ":", "\n", "=", "%s", '"', "\\"])
TEXTS = st.one_of(
    st.none(),
    HEX,
    WORDS,
    st.sampled_from(SECRETS),
    st.lists(st.one_of(PARTS, WORDS), max_size=4).map("".join),
    st.text(st.characters(codec=None), max_size=20),
)
NUMBERS = st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.floats())
HOSTILE = st.one_of(TEXTS, NUMBERS, st.binary(max_size=12))


def row_of(table: Table, seq: int, *values: Any) -> Row:  # noqa: ANN401  # any stored value
    """A row whose columns hold the values round and round."""
    count = len(table.columns)
    return Row(table, seq, tuple((values * count)[:count]))


def fast(table: Table, rows: list[Row]) -> list[bytes]:
    lines = RowEncoder(table).lines([(row.seq, *row.values) for row in rows])
    return [line.encode("ascii") for line in lines]


def columns_of(table: Table, values: list[Any]) -> list[Row]:
    """A row for each value, which stands in every column."""
    return [row_of(table, number, value) for number, value in enumerate(values)]


@given(st.sampled_from(EVENT_TABLES), st.lists(TEXTS, min_size=1, max_size=30))
def test_texts_encoded_together_are_those_encoded_one_by_one(
    table: Table, values: list[str | None]
) -> None:
    rows = columns_of(table, values)
    assert fast(table, rows) == [encode(row) for row in rows]


@given(st.lists(st.lists(HOSTILE, min_size=1, max_size=5), min_size=1, max_size=12))
def test_any_stored_value_gives_valid_json_the_same_both_ways(blocks: list[list[Any]]) -> None:
    rows = [row_of(MODEL_CALLS, seq, *values) for seq, values in enumerate(blocks)]
    lines = fast(MODEL_CALLS, rows)
    assert lines == [encode(row) for row in rows]
    for line in lines:
        json.loads(line, parse_constant=pytest.fail)


@pytest.mark.parametrize("start", range(0, len(SECRETS), 40))
def test_no_secret_hides_among_harmless_values(start: int) -> None:
    part = SECRETS[start : start + 40]
    harmless = [f"call_{number:024x}" for number in range(len(part))]
    values = [value for pair in zip(harmless, part, strict=True) for value in pair]
    rows = columns_of(MODEL_CALLS, values)
    assert fast(MODEL_CALLS, rows) == [encode(row) for row in rows]


def test_a_value_seen_before_is_scrubbed_as_the_first_time() -> None:
    encoder = RowEncoder(MODEL_CALLS)
    values = ["model-a", SECRETS[0], None, "model-b\n", "a" * 5_000]
    rows = [(row.seq, *row.values) for row in columns_of(MODEL_CALLS, values)]
    assert encoder.lines(rows) == encoder.lines(rows)


def test_what_is_remembered_is_bounded() -> None:
    encoder = RowEncoder(MODEL_CALLS)
    for block in range(40):
        values = [f"model {block} {number}" for number in range(100)] * 3
        encoder.lines([(1, *row.values) for row in columns_of(MODEL_CALLS, values)])
    assert all(len(column) <= encoding.MEMO_VALUES for column in encoder._columns)


def test_without_its_engine_both_ways_close(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "re2", None)
    monkeypatch.setattr(redact, "_engine", redact._Engine())
    rows = columns_of(MODEL_CALLS, [f"model-{number}" for number in range(20)])
    lines = fast(MODEL_CALLS, rows)
    assert lines == [encode(row) for row in rows]
    assert all(b"model-" not in line for line in lines)


def test_a_column_named_like_a_secret_shows_none_of_its_values() -> None:
    column = encoding._Column("password")
    form, texts = column.texts(tuple(f"{number}f3a9c17be4" * 3 for number in range(20)))
    assert (form, set(map(str, texts or ()))) == ("%s", {'"[REDACTED:named-password]"'})


def test_rows_that_are_all_alike_are_as_many_lines() -> None:
    nothing = (None,) * (len(MODEL_CALLS.columns) + 1)
    first, second = RowEncoder(MODEL_CALLS).lines([nothing, nothing])
    assert first == second
    assert set(json.loads(first).values()) == {"tel_model_calls", None}


def test_no_rows_are_no_lines() -> None:
    assert RowEncoder(MODEL_CALLS).lines([]) == []


def test_a_number_json_has_no_form_for_becomes_null() -> None:
    assert dumps({"a": [float("inf"), {"b": float("nan")}], "c": 1.5}) == (
        '{"a":[null,{"b":null}],"c":1.5}'
    )
