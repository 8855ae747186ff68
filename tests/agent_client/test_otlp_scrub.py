from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_client.contract.redact import redact_record
from agent_client.contract.tables import MODEL_CALLS, Table
from agent_client.otlp import scrub
from agent_client.otlp.scrub import NEVER_LEAVE, Scrubber
from agent_client.store import Row
from tests.agent_client.test_otlp_oracle import ROWS

SECRET = "ghp_a1B2c3D4e5a1B2c3D4e5a1B2c3D4e5f6G7h8"


def row_of(table: Table, values: dict[str, object]) -> Row:
    return Row(table, 1, tuple(values[name] for name in table.column_names()))


def call(**changes: object) -> Row:
    values: dict[str, object] = dict.fromkeys(MODEL_CALLS.column_names())
    return row_of(MODEL_CALLS, {**values, "span_id": "s", "run_id": "r", **changes})


@given(st.lists(ROWS, min_size=1, max_size=5), st.booleans())
def test_it_is_the_redactor_on_the_whole_row(
    rows: list[tuple[Table, dict[str, object]]], has_secret: bool
) -> None:
    scrubber = Scrubber()
    for table, drawn in rows + rows:  # the second time from memory
        values = {**drawn, "run_id": f"token {SECRET}"} if has_secret else drawn
        raw, record = scrubber.pair_of(row_of(table, values))
        whole = redact_record(values)
        assert raw == values
        assert record == {name: whole[name] for name in whole if name not in NEVER_LEAVE}
        assert SECRET not in str(record)


def test_each_text_is_redacted_once_under_each_name(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def noted(texts: dict[str, object]) -> dict[str, object]:
        seen.extend(texts)
        return dict(texts)

    monkeypatch.setattr(scrub, "redact_record", noted)
    scrubber = Scrubber()
    for number in range(3):
        scrubber.pair_of(call(model="model-a", provider="model-a", api_request_id=str(number)))
    assert sorted(seen) == ["api_request_id"] * 3 + ["model", "provider", "run_id"]


def test_texts_that_never_repeat_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrub, "MAX_KNOWN", 10)
    scrubber = Scrubber()
    for number in range(100):
        scrubber.pair_of(call(api_request_id=f"request-{number}"))
    assert max(map(len, scrubber._known.values())) <= 10


def test_a_text_in_the_place_of_a_number_does_not_leave() -> None:
    _, record = Scrubber().pair_of(call(input_tokens=SECRET, status_code=b"\xff", model=7))
    assert (record["input_tokens"], record["status_code"], record["model"]) == (None, None, "7")
