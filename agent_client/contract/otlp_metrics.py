"""The metrics that agent and console send, by name: units and explicit bounds (A3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from agent_client.contract.otlp_genai import DURATION_BOUNDS, RUN_BOUNDS, TOKEN_BOUNDS


@dataclass(frozen=True, slots=True)
class Instrument:
    """Unit and, for a histogram, its explicit bounds."""

    unit: str
    bounds: tuple[float, ...] = ()
    is_whole: bool = False


_TOKENS: Final = Instrument("{token}", TOKEN_BOUNDS)
_TOKEN_COUNT: Final = Instrument("{token}", is_whole=True)
_SECONDS: Final = Instrument("s", DURATION_BOUNDS)
_RUN_SECONDS: Final = Instrument("s", RUN_BOUNDS)
_NEXT_USAGE: Final = "gen_ai.client.inference.usage."
INSTRUMENTS: Final[Mapping[str, Instrument]] = {
    "gen_ai.client.token.usage": _TOKENS,
    "gen_ai.client.operation.duration": _SECONDS,
    "gen_ai.client.operation.time_to_first_chunk": _SECONDS,
    "gen_ai.client.inference.duration": _SECONDS,
    "gen_ai.client.inference.time_to_first_chunk": _SECONDS,
    "gen_ai.client.inference.operation.input_tokens": _TOKENS,
    "gen_ai.client.inference.operation.output_tokens": _TOKENS,
    f"{_NEXT_USAGE}input_tokens": _TOKEN_COUNT,
    f"{_NEXT_USAGE}output_tokens": _TOKEN_COUNT,
    f"{_NEXT_USAGE}cache_read.input_tokens": _TOKEN_COUNT,
    f"{_NEXT_USAGE}cache_write.input_tokens": _TOKEN_COUNT,
    f"{_NEXT_USAGE}reasoning.output_tokens": _TOKEN_COUNT,
    "gen_ai.execute_tool.duration": _SECONDS,
    "gen_ai.invoke_agent.duration": _RUN_SECONDS,
    "hermes.tool.duration": _SECONDS,
    "hermes.run.duration": _RUN_SECONDS,
    "hermes.run.count": Instrument("{run}", is_whole=True),
    "hermes.cost.usd": Instrument("USD"),
    "hermes.error.count": Instrument("{error}", is_whole=True),
    "hermes.events.dropped": Instrument("{event}", is_whole=True),
    "hermes.fleet.installs": Instrument("{install}", is_whole=True),
    "hermes.export.lag": Instrument("s"),
}
