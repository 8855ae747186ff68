"""Negotiated prices (``telemetry.prices``): what a model call costs by the owner's own table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from agent_client.contract.tables import USD_MAX

TOKENS_PER_PRICE: Final = 1_000_000
"""Prices are US dollars for a million tokens, as providers publish them."""


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars for a million tokens.

    Tokens read from or written to a cache cost what input costs unless they have a price.
    Reasoning tokens are part of the output tokens; their own price replaces that of output.
    """

    input: float
    output: float
    cache_read: float
    cache_write: float
    reasoning: float

    def cost_usd(self, tokens: Mapping[str, int | None]) -> float | None:
        """What these tokens cost; None when input or output were not counted."""
        uncached, out = tokens.get("input_tokens"), tokens.get("output_tokens")
        if uncached is None or out is None:
            return None
        reasoning = min(tokens.get("reasoning_tokens") or 0, out)
        total = (
            uncached * self.input
            + (out - reasoning) * self.output
            + reasoning * self.reasoning
            + (tokens.get("cache_read_tokens") or 0) * self.cache_read
            + (tokens.get("cache_write_tokens") or 0) * self.cache_write
        ) / TOKENS_PER_PRICE
        return round(total, 12) if total <= USD_MAX else None


class PriceTable:
    """Prices by ``provider/model`` or ``model``, from a value that the contract has checked."""

    def __init__(self, value: object) -> None:
        self._prices: dict[str, Price] = {}
        entries = value if isinstance(value, Mapping) else {}
        for key, entry in entries.items():
            self._prices[str(key)] = Price(
                input=entry["input"],
                output=entry["output"],
                cache_read=entry.get("cache_read", entry["input"]),
                cache_write=entry.get("cache_write", entry["input"]),
                reasoning=entry.get("reasoning", entry["output"]),
            )

    def price_of(self, provider: str | None, model: str | None) -> Price | None:
        """The price of a model; the one for this provider goes first."""
        if not self._prices or not model:
            return None
        return self._prices.get(f"{provider}/{model}") or self._prices.get(model)
