"""What can be pinned, and to what."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_client.contract.policy_keys import (
    KEYS,
    MAX_KEY_CHARS,
    TELEMETRY_KEYS,
    PolicyKey,
    key_fault,
    nest,
    value_fault,
)

PRICE = {"input": 1, "output": 2}


@pytest.mark.parametrize("entry", TELEMETRY_KEYS, ids=lambda entry: entry.key)
def test_every_key_of_ours_can_be_pinned_and_says_what_it_does(entry: PolicyKey) -> None:
    assert key_fault(entry.key) == ""
    assert KEYS[entry.key] is entry
    assert entry.help.endswith(".")
    assert entry.plane in {"local", "aggregate", "trajectories"}


@pytest.mark.parametrize("entry", TELEMETRY_KEYS, ids=lambda entry: entry.key)
def test_every_default_is_a_value_its_key_takes(entry: PolicyKey) -> None:
    if entry.default is not None:
        assert value_fault(entry.key, entry.default) == ""
    assert all(value_fault(entry.key, value) == "" for value in entry.loosens)


@pytest.mark.parametrize("key", ["model.default", "plugins.enabled", "a", "a-b.c_d.0"])
def test_a_dotted_key_of_the_host_can_be_pinned(key: str) -> None:
    assert key_fault(key) == ""


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("", "letters"),
        ("a..b", "letters"),
        (".a", "letters"),
        ("-a", "letters"),
        ("a b", "letters"),
        ("a\n", "letters"),
        ("ä", "letters"),
        ("x" * (MAX_KEY_CHARS + 1), "letters"),
        ("model", "model.default"),
        ("telemetry", "no such telemetry key"),
        ("telemetry.locla", "no such telemetry key"),
    ],
)
def test_a_key_that_cannot_be_pinned_says_why(key: str, words: str) -> None:
    assert words in key_fault(key)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("telemetry.local", False),
        ("telemetry.retention_days", 1),
        ("telemetry.retention_days", 3650),
        ("telemetry.consent_state", "aggregate"),
        ("telemetry.install_id", ""),
        ("telemetry.export.otlp.endpoint", "https://collector.example:4318/v1"),
        ("telemetry.export.otlp.headers_env", {"Authorization": "COLLECTOR_AUTH"}),
        ("telemetry.prices", {}),
        ("telemetry.prices", {"vendor/m.1": {"input": 3, "output": 15.5, "cache_read": 0}}),
        ("model.default", "vendor/model"),
        ("plugins.enabled", ["telemetry"]),
        ("some.limit", 1.5),
        ("some.flag", False),
    ],
)
def test_a_fitting_value_is_taken(key: str, value: object) -> None:
    assert value_fault(key, value) == ""


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("telemetry.local", 1, "true or false"),
        ("telemetry.retention_days", True, "whole number"),
        ("telemetry.retention_days", 1.0, "whole number"),
        ("telemetry.retention_days", 0, "1 to 3650"),
        ("telemetry.consent_state", "yes", "unknown, local, aggregate"),
        ("telemetry.consent_state", None, "Use a text"),
        ("telemetry.export.console.endpoint", "ftp://x", "http://"),
        ("telemetry.export.console.endpoint", "https://me@host/", "user name"),
        ("telemetry.export.otlp.headers_env", "X", "map"),
        ("telemetry.export.otlp.headers_env", {"a b": "X"}, "header name"),
        ("telemetry.export.otlp.headers_env", {1: "X"}, "header name"),
        ("telemetry.export.otlp.headers_env", {"a": "secret-value"}, "never the header's value"),
        ("telemetry.export.otlp.headers_env", {"a": 1}, "never the header's value"),
        ("telemetry.prices", [], "map of model"),
        ("telemetry.prices", {str(n): PRICE for n in range(101)}, "At most 100"),
        ("telemetry.prices", {1: PRICE}, "Name a model"),
        ("telemetry.prices", {"": PRICE}, "Name a model"),
        ("telemetry.prices", {"x" * 201: PRICE}, "Name a model"),
        ("telemetry.prices", {"m": 3}, "input and for output"),
        ("telemetry.prices", {"m": {"input": 3}}, "input and for output"),
        ("telemetry.prices", {"m": {**PRICE, "tokens": 3}}, "Use only these prices"),
        ("telemetry.prices", {"m": {**PRICE, "input": "3"}}, "number of dollars"),
        ("telemetry.prices", {"m": {**PRICE, "input": True}}, "number of dollars"),
        ("telemetry.prices", {"m": {**PRICE, "input": -1}}, "number of dollars"),
        ("telemetry.prices", {"m": {**PRICE, "output": 100_001}}, "number of dollars"),
        ("telemetry.prices", {"m": {**PRICE, "output": float("nan")}}, "NaN"),
        ("some.key", None, "empty"),
        ("some.key", {}, "empty"),
        ("some.key", "${HOME}", "environment"),
        ("some.key", {"a": ["${HOME}"]}, "environment"),
        ("some.key", {"${HOME}": 1}, "environment"),
        ("some.key", "x" * 16_385, "16,384"),
        ("some.key", "a\x00b", "no place"),
        ("some.key", ["\ud800"], "no place"),
        ("some.key", float("nan"), "NaN"),
        ("some.key", [float("-inf")], "NaN"),
    ],
)
def test_a_value_that_does_not_fit_says_why(key: str, value: object, words: str) -> None:
    assert words in value_fault(key, value)


segments = st.from_regex(r"[a-z]{1,3}", fullmatch=True)
keys = st.lists(segments, min_size=1, max_size=3).map(".".join)


def flat(tree: dict[str, object], above: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            found.update(flat(value, f"{above}{name}."))
        else:
            found[above + name] = value
    return found


@given(st.dictionaries(keys, st.integers(), max_size=6))
def test_nesting_loses_no_pin_or_refuses_an_overlap(pins: dict[str, object]) -> None:
    overlaps = any(other.startswith(f"{key}.") for key in pins for other in pins)
    if overlaps:
        with pytest.raises(ValueError, match="pin"):
            nest(pins)
    else:
        assert flat(nest(pins)) == pins


@pytest.mark.parametrize(
    "pins",
    [{"a": 1, "a.b": 2}, {"a": {"b": 1}, "a.b": 2}, {"a-b": 1, "a": {"x": 1}, "a.y": 2}],
    ids=str,
)
def test_a_pin_inside_another_pin_is_refused(pins: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="pin"):
        nest(pins)


def test_nesting_changes_no_value_it_was_given() -> None:
    value: dict[str, object] = {"b": 1}
    nest({"a": value, "c.d": 2})
    assert value == {"b": 1}
