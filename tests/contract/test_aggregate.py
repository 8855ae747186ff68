"""The aggregate plane's records: closed, bounded, and without a way in for content."""

from __future__ import annotations

import ast
import dataclasses
import json
from importlib.resources import files
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_client.contract import aggregate
from agent_client.contract.aggregate import (
    AGGREGATE_KINDS,
    IDENTIFIER_MAX_CHARS,
    Heartbeat,
    ModelUse,
    RecordFault,
    WorkflowCompleted,
    as_identifier,
    record_of,
)
from agent_client.contract.wire import LINE_CODES

# What json.loads gives; the vectors' own shape is asserted by the tests that read them.
Vector = dict[str, Any]
TEXT = files("agent_client.contract").joinpath("vectors/aggregate.json").read_text(encoding="utf-8")
VECTORS: dict[str, list[Vector]] = json.loads(TEXT)
RUN: Vector = VECTORS["valid"][0]["record"]


def named(part: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("vector", VECTORS[part], ids=lambda vector: str(vector["name"]))


@named("valid")
def test_a_valid_golden_record_is_read_and_written_the_same(vector: Vector) -> None:
    assert json.loads(json.dumps(record_of(vector["record"]).to_dict())) == vector["record"]


@named("invalid")
def test_a_faulty_golden_record_is_refused_by_field_and_code(vector: Vector) -> None:
    with pytest.raises(RecordFault) as caught:
        record_of(vector["record"])
    assert str(caught.value) == vector["fault"]
    assert caught.value.code in LINE_CODES


@pytest.mark.parametrize("kind", AGGREGATE_KINDS.values())
def test_every_field_of_a_kind_is_checked(kind: type[WorkflowCompleted | Heartbeat]) -> None:
    assert [spec.name for spec in dataclasses.fields(kind)] == list(kind.CHECKS)


def test_a_record_cannot_be_made_past_its_bounds_nor_changed() -> None:
    made = WorkflowCompleted.from_dict(RUN)
    with pytest.raises(RecordFault, match="platform: invalid_value"):
        dataclasses.replace(made, platform="two words")
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.seq = 7  # type: ignore[misc]  # the point of the test


def test_what_is_left_out_takes_its_default() -> None:
    short = {k: v for k, v in RUN.items() if k not in {"entrypoint", "platform"}}
    made = record_of(short)
    assert isinstance(made, WorkflowCompleted)
    assert (made.entrypoint, made.platform) == ("cli", None)
    assert made.models_used[0] == ModelUse("openrouter", "vendor/model-7b:latest", 2, 2085)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_no_measure_are_out_of_range(value: float) -> None:
    with pytest.raises(RecordFault, match="duration_ms: out_of_range"):
        record_of({**RUN, "duration_ms": value})


@given(st.none() | st.text(max_size=150) | st.from_regex(r"[a-z0-9/:._-]{1,130}", fullmatch=True))
def test_any_name_becomes_an_identifier_that_says_no_sentence(name: str | None) -> None:
    said = as_identifier(name)
    assert record_of({**RUN, "platform": said}).to_dict()["platform"] == said
    assert said in {"unknown", "other", name}
    assert len(said) <= IDENTIFIER_MAX_CHARS
    assert not any(char.isspace() for char in said)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(st.sampled_from(VECTORS["valid"]), st.sampled_from(sorted(RUN)), JUNK)
def test_no_value_whatever_raises_anything_but_a_fault(
    vector: Vector, field: str, value: object
) -> None:
    try:
        made = record_of({**vector["record"], field: value})
    except RecordFault:
        return
    assert record_of(json.loads(json.dumps(made.to_dict()))) == made


def test_nothing_that_knows_content_is_imported() -> None:
    tree = ast.parse(files("agent_client.contract").joinpath("aggregate.py").read_text("utf-8"))
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {module for module in modules if module and module.startswith("agent_client")} == {
        "agent_client.contract.events",
        "agent_client.contract.tables",
    }
    assert aggregate.__name__ == "agent_client.contract.aggregate"
