"""The signed documents: read what was written, refuse the rest by name."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from agent_client.contract.policy_doc import Assignment, Bundle, CheckIn, Root, _Document

Document = Root | Bundle | Assignment | CheckIn


def documents() -> list[Document]:
    """One of each, every field filled."""
    return [
        Root("f", 1, 2, 3, {"k": {"scheme": "ed25519", "public": "00"}}, {"root": {"key_ids": []}}),
        Bundle(
            "f",
            4,
            {"model": {"default": "m"}},
            rollback_of=3,
            min_agent="0.1.0",
            recommended={"a": 1},
            constraints=({"key": "a"},),
            meta={"model.default": {"layer": "group"}},
            delete=("b.c",),
        ),
        Assignment("f", "i", 5, "ab", 6, 7, 300, stage="canary", nonce="n"),
        CheckIn(
            8,
            "applied",
            reason="r",
            drift=({"key": "a", "cause": "unknown"},),
            health={"queued": 1},
            versions={"agent": "0.1.0"},
        ),
    ]


def kinds(documents: list[Document]) -> list[str]:
    return [type(document).__name__ for document in documents]


@pytest.mark.parametrize("document", documents(), ids=kinds(documents()))
def test_a_document_survives_json(document: Document) -> None:
    data = json.loads(json.dumps(document.to_dict()))
    assert type(document).from_dict(data) == document
    assert type(document).from_dict({**data, "of_tomorrow": 1}) == document


@pytest.mark.parametrize("document", documents(), ids=kinds(documents()))
def test_a_missing_field_is_named(document: Document) -> None:
    for name in sorted(document._required()):
        data = {key: value for key, value in document.to_dict().items() if key != name}
        with pytest.raises(ValueError, match=f"^{name}: missing$"):
            type(document).from_dict(data)


@pytest.mark.parametrize("document", documents(), ids=kinds(documents()))
def test_a_field_of_the_wrong_type_is_named(document: Document) -> None:
    for name in document.to_dict():
        with pytest.raises(ValueError, match=f"^{name}: wrong type$"):
            type(document).from_dict({**document.to_dict(), name: None})


def test_a_boolean_is_no_version() -> None:
    with pytest.raises(ValueError, match=r"^version: wrong type$"):
        Bundle.from_dict({"fleet_id": "f", "version": True, "mandatory": {}})


@pytest.mark.parametrize("data", [None, [], "text", 3])
def test_what_is_no_object_is_refused(data: object) -> None:
    with pytest.raises(ValueError, match="not an object"):
        Assignment.from_dict(data)


@dataclass(frozen=True, slots=True)
class OfTomorrow(_Document):
    """A document with what none of today's has: a flag, and no required field."""

    is_strict: bool = False


def test_a_flag_is_read_and_a_number_is_no_flag() -> None:
    assert OfTomorrow.from_dict({"is_strict": True}) == OfTomorrow(is_strict=True)
    assert OfTomorrow.from_dict({}) == OfTomorrow()
    with pytest.raises(ValueError, match=r"^is_strict: wrong type$"):
        OfTomorrow.from_dict({"is_strict": 1})


def test_optional_fields_take_their_default() -> None:
    assert CheckIn.from_dict({"seq": 1, "status": "pending"}) == CheckIn(1, "pending")
