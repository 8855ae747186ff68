"""The golden vectors of the scrubber: both sides must give these bytes."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest

from agent_client.contract.redact import redact_text

DOCUMENT = json.loads(
    files("agent_client.contract").joinpath("vectors/redact.json").read_text(encoding="utf-8")
)


@pytest.mark.parametrize("vector", DOCUMENT["vectors"], ids=lambda vector: vector["name"])
def test_vector_gives_its_bytes(vector: dict[str, object]) -> None:
    parts = vector["parts"]
    assert isinstance(parts, list)
    cleaned = redact_text(
        "".join(parts), strict=vector["strict"] is True, pii=vector["pii"] is True
    )
    assert cleaned == vector["expected"]


def test_vectors_have_names_of_their_own() -> None:
    names = [vector["name"] for vector in DOCUMENT["vectors"]]
    assert len(names) == len(set(names)) >= 20
