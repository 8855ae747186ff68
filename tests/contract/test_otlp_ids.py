"""Ids of spans: agreed by agent and relay, fixed by vectors, never all zero."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_client.contract import otlp_ids as ids

VECTORS = json.loads(
    files("agent_client.contract").joinpath("vectors/otlp_ids.json").read_text(encoding="utf-8")
)["vectors"]
INSTALL = "0b5f3d1e-8a1c-4b55-9d0e-1f2a3b4c5d6e"


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_vector_gives_its_id(vector: dict[str, Any]) -> None:
    if vector["kind"] == "trace":
        made = ids.trace_id(vector["install_id"], vector["recorded"], vector["trace_id"])
    else:
        made = ids.span_id(vector["kind"], vector["install_id"], vector["recorded"])
        maker = ids.span_id_maker(vector["kind"], vector["install_id"])
        assert maker(vector["recorded"]) == made
    assert made.hex() == vector["id"]


@given(kind=st.text(max_size=9), recorded=st.text(max_size=40))
def test_one_id_and_many_are_the_same(kind: str, recorded: str) -> None:
    assert ids.span_id_maker(kind, INSTALL)(recorded) == ids.span_id(kind, INSTALL, recorded)


def test_the_runs_id_is_that_of_its_kind() -> None:
    assert ids.run_span_id(INSTALL, "r") == ids.span_id("run", INSTALL, "r")


class Zeros:
    def digest(self) -> bytes:
        return bytes(32)


def test_an_id_is_never_all_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent_client.contract.otlp_ids.hashlib.sha256", lambda _data: Zeros())
    assert ids.hashed(8, "x") == ids.span_id_maker("run", INSTALL)("x") == bytes(7) + b"\x01"


@pytest.mark.parametrize("recorded", [None, "", "0" * 32, "A" * 32, "ab" * 15, "zz" * 16, 7])
def test_what_is_no_trace_id_is_hashed_from_the_run(recorded: object) -> None:
    assert not ids.is_trace_id(recorded)
    assert ids.trace_id(INSTALL, "r", recorded) == ids.hashed(16, "trace", INSTALL, "r")
