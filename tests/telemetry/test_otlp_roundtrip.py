"""Forward by the agent's exporter, backward by the console: the same rows again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from agent_client.contract import otlp_ids as ids
from agent_client.contract.otlp_genai import PROFILES
from agent_client.contract.tables import ERRORS, MODEL_CALLS, RUNS, SPANS, TOOL_CALLS, Table
from agent_client.otlp.encode import Sender, encode_spans
from agent_client.otlp.facts import Facts
from agent_client.otlp.mapping import Mapper
from agent_client.otlp.scrub import NEVER_LEAVE
from agent_client.otlp.signals import Span
from telemetry.ingest.otlp_mapping import Mapped, map_spans
from telemetry.ingest.otlp_protobuf import decode_protobuf
from telemetry.ingest.validate import TimeBounds
from tests.agent_client.otlp_homes import INSTALL
from tests.agent_client.otlp_rows import rows_of
from tests.telemetry import otlp_builders as otlp
from tests.telemetry.builders import S, recent_ns
from tests.telemetry.otlp_builders import ANY_TIME

SPAN_TABLES = (RUNS, MODEL_CALLS, TOOL_CALLS, SPANS)
HASHED = {"span_id", "parent_span_id"}
"""Only hashes of these leave the machine."""


def exported(table: Table, row: Mapping[str, object], profile: str, **facts: Any) -> Span:  # noqa: ANN401 -- as Facts has them
    mapper = Mapper(INSTALL, profile, errors_as_events=bool(facts))
    mapper.facts = Facts(**facts)
    made = mapper.map(table, row, without_ids(row))
    assert isinstance(made, Span)
    return made


def without_ids(row: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in row.items() if name not in NEVER_LEAVE}


def taken_in(span: Span, profile: str = "1.41") -> Mapped:
    sender = Sender("1.0", profile, {"service.name": "hermes-agent"})
    return map_spans(decode_protobuf(encode_spans([span], sender)), ANY_TIME)


def row_of(table: Table, mapped: Mapped) -> dict[str, Any]:
    assert (mapped.refused, mapped.traces) == ([], {})
    (found,) = mapped.rows[table.name]
    return dict(zip((*table.column_names(), "seq"), found, strict=True))


def can_be_stored(table: Table, row: Mapping[str, object]) -> bool:
    """Whether the wire would take the row: no NUL, no empty key, an end that is known."""
    texts = [value for value in row.values() if isinstance(value, str)]
    keys = [row[column.name] for column in table.columns if column.required]
    is_timed = bool(row["start_ns"]) and row["end_ns"] is not None
    return is_timed and "" not in keys and not any("\x00" in text for text in texts)


def expressed(table: Table, row: Mapping[str, object], span: Span) -> dict[str, object]:
    """What of a row the export can say: hosts for addresses, objects for attributes."""
    kept = {name: row[name] for name in table.column_names() if name not in HASHED}
    kept["end_ns"] = max(int(str(row["start_ns"])), int(str(row["end_ns"])))
    if "base_url" in kept:
        kept["base_url"] = span.attributes.get("hermes.base_url")
    if "attrs_json" in kept:
        kept["attrs_json"] = plain_attributes(row["attrs_json"])
    return kept


def plain_attributes(text: object) -> object:
    try:
        found = json.loads(text) if isinstance(text, str) else {}
    except ValueError:
        found = {}
    return found if isinstance(found, dict) and found else None


@pytest.mark.parametrize("table", SPAN_TABLES, ids=lambda table: table.name)
@given(data=st.data())
def test_what_the_agent_exports_is_the_row_it_recorded(table: Table, data: st.DataObject) -> None:
    row = data.draw(rows_of(table))
    assume(can_be_stored(table, row))
    profile = data.draw(st.sampled_from(PROFILES))
    span = exported(table, row, profile)
    found = row_of(table, taken_in(span, profile))
    got = {name: found[name] for name in table.column_names() if name not in HASHED}
    if "attrs_json" in got:
        got["attrs_json"] = plain_attributes(got["attrs_json"])
    assert got == expressed(table, row, span)
    if "span_id" in found:
        event = str(table.event)
        assert found["span_id"] == ids.span_id(event, INSTALL, str(row["span_id"])).hex()


TOKENS = (
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
)
COUNTS = st.integers(0, 10**9) | st.none()


@given(
    tokens=st.fixed_dictionaries(
        dict.fromkeys(
            (
                "input_tokens",
                "output_tokens",
                "cache_read_tokens",
                "cache_write_tokens",
                "reasoning_tokens",
            ),
            COUNTS,
        )
    ),
    profile=st.sampled_from(PROFILES),
)
def test_tokens_come_back_by_the_conventions_alone(
    tokens: dict[str, int | None], profile: str
) -> None:
    assume(any(tokens[name] is not None for name in ("input_tokens", "output_tokens")))
    row = dict.fromkeys(MODEL_CALLS.column_names()) | tokens
    row |= {"run_id": "r", "span_id": "s", "start_ns": 1, "end_ns": 2}
    span = exported(MODEL_CALLS, row, profile)
    span.attributes = {
        name: value for name, value in span.attributes.items() if not name.startswith("hermes.")
    }
    (found,) = taken_in(span, profile).rows[MODEL_CALLS.name]
    got = dict(zip(MODEL_CALLS.column_names(), found[:-1], strict=True))
    assert {name: got[name] or 0 for name in tokens} == {n: v or 0 for n, v in tokens.items()}


def test_a_runs_errors_come_back_from_the_events_of_its_span() -> None:
    run = dict.fromkeys(RUNS.column_names()) | {"run_id": "r", "start_ns": 5, "end_ns": 9}
    error = dict.fromkeys(ERRORS.column_names()) | {
        "run_id": "r",
        "span_id": "e",
        "ts_ns": 7,
        "error_class": "auth",
        "recovery": "none",
        "retryable": 1,
        "status_code": 401,
    }
    span = exported(RUNS, run, "1.41", errors={"r": [(error, without_ids(error))]})
    (found,) = taken_in(span).rows[ERRORS.name]
    got = dict(zip(ERRORS.column_names(), found[:-1], strict=True))
    kept = ("run_id", "ts_ns", "error_class", "recovery", "status_code")
    assert {name: got[name] for name in kept} == {name: error[name] for name in kept}
    assert got["retryable"] is True


def test_a_column_out_of_its_bounds_refuses_the_span() -> None:
    row = dict.fromkeys(TOOL_CALLS.column_names()) | {"run_id": "r", "span_id": "s"}
    row |= {"start_ns": 1, "end_ns": 2, "tool_name": "t" * 300}
    (refused,) = taken_in(exported(TOOL_CALLS, row, "1.41")).refused
    assert (refused.code, refused.detail) == ("too_long", "tool_name")


@pytest.mark.parametrize(("start_ns", "code"), [(1, "time_too_old"), (2**62, "time_in_future")])
def test_a_column_that_says_another_time_than_its_span_is_judged_too(
    start_ns: int, code: str
) -> None:
    said = {"hermes.event": "tool_call", "hermes.run_id": "r", "hermes.start_ns": start_ns}
    at_ns = recent_ns()
    decoded = decode_protobuf(otlp.protobuf(otlp.span(start_ns=at_ns, attributes=said)))
    (refused,) = map_spans(decoded, TimeBounds(at_ns - S, at_ns + S)).refused
    assert (refused.code, refused.detail) == (code, "start_ns")
