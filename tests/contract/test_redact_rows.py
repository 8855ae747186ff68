"""Rows are scrubbed fast, and exactly as walking them value by value would."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_client.contract import redact_rows
from agent_client.contract.redact import UNAVAILABLE, redact_record, redact_text
from agent_client.contract.redact_rows import RowScrubber
from agent_client.contract.redact_walk import Walker
from tests.contract.redact_examples import expand

GITHUB = expand("ghp_<w36>")
NAMES = st.sampled_from(
    ["run_id", "model", "name", "kind", "value", "key", "data", "api_key", "password", "a", "x y"]
)
TEXTS = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        [
            GITHUB, "Secret", "API_KEY", "hunter2!x", "", "ok", expand("<h32>"), expand("<h34>"),
            expand("11<h32>"), expand("hf_<l34>"), "20261122_094211_c57e6c:task:abcd1234:api:1",
            expand("call_<w24>"), "20261122_094211_c57e6c:" + GITHUB, "call_" + GITHUB,
            json.dumps({"password": "correct horse"}), UNAVAILABLE, "\ud800",
        ]
    ),
)  # fmt: skip
VALUES = st.one_of(TEXTS, st.none(), st.integers(), st.floats(allow_nan=False), st.booleans())
ROWS = st.dictionaries(NAMES, st.one_of(VALUES, st.lists(TEXTS, max_size=2)), max_size=6)


def walked(row: Mapping[str, object]) -> dict[str, object]:
    return Walker(redact_text, pii=False).walk_object(row)


@given(row=ROWS)
def test_a_row_is_scrubbed_as_if_it_were_walked(row: dict[str, object]) -> None:
    assert redact_record(row) == walked(row)
    assert list(redact_record(row)) == list(walked(row))


@pytest.mark.parametrize(
    "column", ["run_id", "span_id", "model", "provider", "tool_name", "base_url", "attrs_json"]
)
def test_a_secret_goes_from_every_column(column: str) -> None:
    assert GITHUB not in str(redact_record({column: GITHUB, "ts_ns": 1}))
    assert GITHUB not in str(redact_record({column: f"gpt-5 {GITHUB}", "ts_ns": 1}))


@pytest.mark.parametrize(
    "template",
    [
        "<h32>-us12",
        "<h32>-<h8>-<h8>",
        "11<h32>",
        "<h16>-<h16>-<h16>",
        "sdk-<h8>-<h4>-<h4>-<h4>-<h12>",
        "<h24>.<h32>",
        "hf_<l34>",
    ],
)
def test_a_credential_that_looks_like_an_id_goes(template: str) -> None:
    assert redact_record({"run_id": expand(template)}) != {"run_id": expand(template)}


def test_json_in_a_column_is_walked() -> None:
    row = {"span_id": "a1", "attrs_json": json.dumps({"db": {"password": "correct horse"}})}
    assert json.loads(str(redact_record(row)["attrs_json"])) == {
        "db": {"password": "[REDACTED:named-password]"}
    }


def test_a_text_is_judged_once() -> None:
    judged: list[str] = []

    def scrub(text: str) -> str:
        judged.append(text)
        return text

    rows = RowScrubber(scrub, dict)
    for number in range(5):
        rows.scrub({"model": "claude-opus-4-5-20251101", "n": number, "run_id": expand("<h32>")})
    assert judged == ["claude-opus-4-5-20251101"]


def test_what_could_not_be_scrubbed_is_tried_again() -> None:
    answers = iter([UNAVAILABLE, UNAVAILABLE, "ok-1"])
    rows = RowScrubber(lambda _text: next(answers), dict)
    assert rows.scrub({"a": "ok-1"}) == {"a": UNAVAILABLE}
    assert rows.scrub({"a": UNAVAILABLE}) == {"a": UNAVAILABLE}
    assert rows.scrub({"a": "ok-1"}) == {"a": "ok-1"}


def test_memory_of_texts_and_columns_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redact_rows, "MAX_REMEMBERED", 10)
    monkeypatch.setattr(redact_rows, "MAX_COLUMNS", 10)
    rows = RowScrubber(lambda text: text, dict)
    for number in range(100):
        rows.scrub({"abcdefghijklmnopqrstuvwxyz"[number % 26] * 3: f"text {number} "})
    rows.scrub({"a": "long " * 100})
    assert len(rows._clean) <= 10
    assert len(rows._plain_columns) <= 10
