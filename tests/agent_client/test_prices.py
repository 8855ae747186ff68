"""Negotiated prices: on the calls they cover, from the tokens that were counted."""

from __future__ import annotations

import pytest

from agent_client.contract.policy_keys import MAX_PRICE_USD, value_fault
from agent_client.contract.tables import COUNT_MAX
from agent_client.prices import PriceTable
from agent_client.runs import RunTracker
from tests.agent_client.hooks import Host

FULL = {"input": 2.0, "output": 10, "cache_read": 0.5, "cache_write": 2.5, "reasoning": 20}
COUNTED: dict[str, int | None] = {
    "input_tokens": 100,
    "output_tokens": 20,
    "cache_read_tokens": 50,
    "cache_write_tokens": 5,
    "reasoning_tokens": 3,
}


def cost_of(prices: dict[str, float], **tokens: int | None) -> float | None:
    price = PriceTable({"m": prices}).price_of("p", "m")
    assert price is not None
    return price.cost_usd({**COUNTED, **tokens})


def host_with(prices: object) -> Host:
    host = Host()
    host.tracker = RunTracker(host.events.append, prices=PriceTable(prices), clock_ns=host.tick)
    return host


def test_each_kind_of_token_has_its_price() -> None:
    dollars = 100 * 2.0 + 17 * 10 + 3 * 20 + 50 * 0.5 + 5 * 2.5
    assert cost_of(FULL) == pytest.approx(dollars / 1e6)


def test_cached_tokens_cost_what_input_costs_and_reasoning_is_output() -> None:
    assert cost_of({"input": 2.0, "output": 10.0}) == pytest.approx((155 * 2 + 20 * 10) / 1e6)


def test_tokens_that_were_not_counted_have_no_cost() -> None:
    assert cost_of(FULL, input_tokens=None) is None
    assert cost_of(FULL, output_tokens=None) is None
    assert cost_of(FULL, reasoning_tokens=None) is not None


def test_more_reasoning_than_output_is_all_of_the_output() -> None:
    assert cost_of(
        {**FULL, "input": 0, "cache_read": 0, "cache_write": 0}, reasoning_tokens=99
    ) == (pytest.approx(20 * 20 / 1e6))


def test_a_model_may_be_free() -> None:
    assert cost_of({"input": 0, "output": 0}) == 0.0


def test_a_cost_beyond_any_bill_is_not_known() -> None:
    assert cost_of({"input": MAX_PRICE_USD, "output": 0}, input_tokens=COUNT_MAX) is None


def test_the_price_of_a_provider_goes_before_that_of_a_model() -> None:
    table = PriceTable({"m": {"input": 1, "output": 1}, "p/m": {"input": 2, "output": 2}})
    named, other = table.price_of("p", "m"), table.price_of("q", "m")
    assert named is not None
    assert other is not None
    assert (named.input, other.input) == (2, 1)
    assert table.price_of("p", "n") is None
    assert table.price_of("p", None) is None


@pytest.mark.parametrize("value", [None, {}, 7, "x"])
def test_no_table_has_no_price(value: object) -> None:
    assert PriceTable(value).price_of("p", "m") is None


def test_a_call_with_a_price_says_what_it_cost_and_who_says_so() -> None:
    host = host_with({"custom/model-a": FULL})
    host.answer()
    host.answer(model="model-b")
    priced, other = host.model_calls()
    assert (priced.cost_status, priced.cost_source) == ("estimated", "override")
    assert priced.estimated_cost_usd == pytest.approx(cost_of(FULL))
    assert (other.cost_status, other.cost_source, other.estimated_cost_usd) == (
        "unknown",
        None,
        None,
    )


def test_a_priced_call_without_usage_is_not_free() -> None:
    host = host_with({"model-a": FULL})
    host.answer(usage=None)
    (call,) = host.model_calls()
    assert (call.cost_status, call.cost_source, call.estimated_cost_usd) == ("unknown", None, None)


def test_a_table_the_contract_takes_makes_prices() -> None:
    table = {"anthropic/claude-sonnet-5": FULL, "local": {"input": 0, "output": 0}}
    assert value_fault("telemetry.prices", table) == ""
    assert PriceTable(table).price_of("openrouter", "anthropic/claude-sonnet-5") is not None
