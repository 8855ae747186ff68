"""compile: precedence, meta, deletes; run over the golden vectors both sides share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agent_client import contract
from agent_client.contract.canonical import digest_of
from agent_client.contract.policy_doc import Bundle
from fleet.policy.compile import PinSpec, PolicyError, compile_bundle, resolve, same_content

VECTORS = json.loads((Path(contract.__file__).parent / "vectors" / "policy.json").read_text())


def spec(key: str, value: object = True, **fields: Any) -> PinSpec:  # noqa: ANN401  # Any: a test's shorthand
    return PinSpec(pin_id=1, key=key, value=value, **fields)


def bundle_of(*pins: PinSpec, group_number: int = 0, **fields: Any) -> Bundle:  # noqa: ANN401  # Any: as above
    return compile_bundle(pins, group_number=group_number, fleet_id="f", version=1, **fields)


@pytest.mark.parametrize("vector", VECTORS["compile"], ids=lambda vector: vector["name"])
def test_the_golden_bundle_comes_out_byte_for_byte(vector: dict[str, Any]) -> None:
    given = vector["given"]
    bundle = compile_bundle(
        [PinSpec.from_dict(pin) for pin in given["pins"]],
        group_number=given["group_number"],
        fleet_id=given["fleet_id"],
        version=given["version"],
        earlier_keys=given["earlier_keys"],
        at_ns=given["at_ns"],
    )
    assert json.loads(json.dumps(bundle.to_dict())) == vector["bundle"]
    assert digest_of(bundle.to_dict()) == vector["sha256"]


@pytest.mark.parametrize(
    ("fleet", "group", "value"),
    [
        ({}, {}, "group"),
        ({"is_locked": True}, {}, "fleet"),
        ({}, {"level": "recommended"}, "fleet"),
        ({"level": "recommended"}, {"level": "recommended"}, "group"),
        ({"level": "recommended", "is_locked": True}, {}, "fleet"),
    ],
)
def test_who_wins(fleet: dict[str, Any], group: dict[str, Any], value: str) -> None:
    pins = [spec("a.b", "fleet", **fleet), spec("a.b", "group", group_number=7, **group)]
    assert resolve(pins, group_number=7)["a.b"].value == value
    assert resolve(pins, group_number=8)["a.b"].value == "fleet"


def test_a_recommended_pin_goes_into_its_own_tree() -> None:
    bundle = bundle_of(spec("a.b", 1), spec("a.c", 2, level="recommended"))
    assert (bundle.mandatory, bundle.recommended) == ({"a": {"b": 1}}, {"a": {"c": 2}})


def test_a_key_once_pinned_and_now_free_is_deleted() -> None:
    assert bundle_of(spec("a.b"), earlier_keys=["a.b", "c.d"]).delete == ("c.d",)


def test_another_groups_key_is_deleted_for_who_moved_out_of_it() -> None:
    other = spec("x.y", group_number=7)
    assert bundle_of(other, earlier_keys=["x.y"]).delete == ("x.y",)
    assert bundle_of(other, group_number=7, earlier_keys=["x.y"]).delete == ()


@pytest.mark.parametrize(("on_expiry", "is_there"), [("release", False), ("hold", True)])
def test_a_lapsed_pin_is_left_out_only_when_it_releases(on_expiry: str, is_there: bool) -> None:
    bundle = bundle_of(spec("a.b", expires_ns=5, on_expiry=on_expiry), at_ns=5)
    assert ("a.b" in bundle.meta) is is_there


def test_a_pin_inside_another_is_refused() -> None:
    with pytest.raises(PolicyError, match=r"a\.b"):
        bundle_of(spec("a", {"x": 1}), spec("a.b", 2))


def test_a_bundle_beyond_256_kib_is_refused() -> None:
    with pytest.raises(PolicyError, match="256 KiB"):
        bundle_of(*[spec(f"a.k{number}", "x" * 16_000) for number in range(20)])


def test_meta_says_where_a_value_comes_from() -> None:
    pin = spec("a.b", group_number=7, group_name="north", reason="why", ticket="T-1", revision=4)
    meta = bundle_of(pin, group_number=7).meta["a.b"]
    assert (meta["layer"], meta["layer_name"], meta["revision"]) == ("group", "north", 4)
    assert (meta["reason"], meta["ticket"], meta["on_expiry"]) == ("why", "T-1", "hold")


def test_the_same_content_under_another_number_is_the_same() -> None:
    one = bundle_of(spec("a.b"))
    other = compile_bundle([spec("a.b")], group_number=0, fleet_id="f", version=9, rollback_of=2)
    assert same_content(one, other)
    assert not same_content(one, bundle_of(spec("a.b", False)))


def test_a_pin_softened_to_a_recommendation_is_taken_out_of_managed_scope() -> None:
    bundle = bundle_of(spec("a.b", level="recommended"), spec("a.c"), earlier_keys=["a.b", "a.c"])
    assert bundle.delete == ("a.b",)
