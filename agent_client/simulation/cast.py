"""Who is simulated: models with their prices, tools with their habits, and 24 installs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True, slots=True)
class Model:
    """A model with list prices in USD per million tokens; None where nobody sends a bill."""

    name: str
    provider: str
    base_url: str
    input_usd: float | None
    output_usd: float
    cached_usd: float
    latency_ms: float
    """Median of one call."""

    def cost_usd(self, input_tokens: int, cached_tokens: int, output_tokens: int) -> float | None:
        """The list price of one call; None when the price is not known."""
        if self.input_usd is None:
            return None
        total = input_tokens * self.input_usd + cached_tokens * self.cached_usd
        return round((total + output_tokens * self.output_usd) / 1e6, 6)


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool: how often it is used, how long it takes (median), how often it fails."""

    name: str
    weight: float
    duration_ms: float
    failure_rate: float = 0.01
    error_type: str = "ToolError"
    needs_approval: bool = False


MODELS: Final[Mapping[str, Model]] = {
    model.name: model
    for model in (
        Model("claude-sonnet-4.5", "anthropic", "api.anthropic.com", 3.0, 15.0, 0.3, 4200),
        Model("claude-haiku-4.5", "anthropic", "api.anthropic.com", 1.0, 5.0, 0.1, 1600),
        Model("gpt-5.1", "openai", "api.openai.com", 1.25, 10.0, 0.125, 5100),
        Model(
            "gemini-2.5-flash", "google", "generativelanguage.googleapis.com", 0.3, 2.5, 0.03, 900
        ),
        Model("Hermes-4-70B", "nous", "inference-api.nousresearch.com", 0.13, 0.4, 0.13, 2300),
        Model("qwen3-coder-30b", "custom", "vllm.lab.example", None, 0.0, 0.0, 1400),
    )
}

TOOLS: Final[tuple[Tool, ...]] = (
    Tool("terminal", 30, 900, 0.03, "CommandFailed", needs_approval=True),
    Tool("read_file", 22, 14, 0.01, "FileNotFoundError"),
    Tool("search_files", 14, 90),
    Tool("patch", 10, 25, 0.04, "PatchConflict"),
    Tool("write_file", 5, 18),
    Tool("web_search", 6, 1300, 0.02, "HTTPError"),
    Tool("web_extract", 5, 2600, 0.06, "HTTPError"),
    # The noisy one: a site that changed under everybody's feet.
    Tool("browser_navigate", 4, 6200, 0.27, "TimeoutError"),
    Tool("todo", 6, 4, 0.0),
    Tool("execute_code", 3, 3100, 0.05, "CodeError", needs_approval=True),
    Tool("memory", 2, 9, 0.0),
)
NOISY_TOOL: Final = "browser_navigate"
DELEGATE: Final = Tool("delegate_task", 0, 0)
FAILING_PROVIDER: Final = "anthropic"
"""The provider that has a bad afternoon during the fortnight."""

# Runs by hour of the local day, as shares of the busiest hour.
OFFICE: Final = (0, 0, 0, 0, 0, 0, 0.03, 0.2, 0.6, 0.9, 1, 0.95, 0.5, 0.8, 1, 0.95, 0.8, 0.5, 0.2)
HOURS: Final[Mapping[str, tuple[float, ...]]] = {
    "office": (*OFFICE, 0.1, 0.06, 0.04, 0.02, 0),
    "always": tuple(0.5 + 0.5 * (7 <= hour <= 22) for hour in range(24)),
    "nightly": tuple(1.0 if hour in {1, 2, 3} else 0.0 for hour in range(24)),
}
WEEKEND: Final[Mapping[str, float]] = {"office": 0.06, "always": 0.55, "nightly": 1.0}


@dataclass(frozen=True, slots=True)
class Persona:
    """One simulated install. ``models`` and ``entrypoints`` map names to weights.

    ``upgraded_days_ago``: until then it ran ``former_version``. ``silent_days``: its last run
    and its last word were that many days ago; 0 means it is alive.
    """

    name: str
    group: str
    rhythm: str
    runs_per_day: float
    utc_offset_h: int
    models: Mapping[str, float]
    entrypoints: Mapping[str, float]
    platform: str = "linux"
    version: str = "0.19.0"
    former_version: str = ""
    upgraded_days_ago: float = 0.0
    silent_days: float = 0.0
    consent: str = "unknown"
    system: tuple[str, str, str] = ("linux", "6.12.48", "x86_64")
    python: str = "3.12.11"
    managed_before: Mapping[str, object] = field(default_factory=dict)
    """What another administrator had put into managed scope before the fleet came."""


_MAC: Final = ("macos", "15.6", "arm64")
_ARM: Final = ("linux", "6.6.51", "aarch64")
_CLI: Final = {"cli": 8.0, "tui": 2.0}
_GATEWAY: Final = {"gateway": 1.0}
_CRON: Final = {"cron": 1.0}
_SONNET: Final = {"claude-sonnet-4.5": 6.0, "claude-haiku-4.5": 2.0}
_MIXED: Final = {"gpt-5.1": 4.0, "claude-sonnet-4.5": 3.0, "gemini-2.5-flash": 1.0}
_OPEN: Final = {"Hermes-4-70B": 6.0, "qwen3-coder-30b": 3.0}
_SMALL: Final = {"claude-haiku-4.5": 4.0, "gemini-2.5-flash": 5.0}

PLATFORM, RESEARCH, SUPPORT = "Platform", "Research", "Support"

CAST: Final[tuple[Persona, ...]] = (
    Persona("plat-anja", PLATFORM, "office", 11, 1, _SONNET, _CLI, consent="aggregate"),
    Persona("plat-bilal", PLATFORM, "office", 9, 1, _SONNET, _CLI, system=_MAC),
    Persona("plat-chen", PLATFORM, "office", 12, 8, _MIXED, _CLI, consent="aggregate"),
    Persona("plat-dora", PLATFORM, "office", 7, 0, _SONNET, _CLI, system=_MAC, consent="local"),
    Persona("plat-emre", PLATFORM, "office", 8, 2, _MIXED, _CLI, "linux", "0.19.0", "0.18.2", 5),
    Persona("plat-fay", PLATFORM, "office", 10, -5, _SONNET, _CLI, "linux", "0.19.0", "0.18.2", 4),
    Persona("ci-build-01", PLATFORM, "always", 15, 0, _SMALL, {"batch": 1.0}, "linux", "0.18.2"),
    Persona("ci-build-02", PLATFORM, "always", 14, 0, _SMALL, {"batch": 1.0}, "linux", "0.18.2"),
    Persona("ops-nightly", PLATFORM, "nightly", 6, 0, _SMALL, _CRON, "cron", system=_ARM),
    Persona(
        "plat-gustav",
        PLATFORM,
        "office",
        6,
        1,
        _MIXED,
        _CLI,
        # He keeps a file of his own in managed scope; the fleet's pin does not get past it.
        managed_before={"telemetry": {"retention_days": 365}},
    ),
    Persona("lab-hana", RESEARCH, "office", 8, 9, _OPEN, _CLI, consent="aggregate"),
    Persona("lab-ivo", RESEARCH, "office", 7, 1, _OPEN, _CLI, "linux", "0.19.0", "0.18.2", 5),
    Persona("lab-jun", RESEARCH, "office", 9, 9, _OPEN, {"cli": 5.0, "acp": 4.0}),
    Persona("lab-kira", RESEARCH, "office", 6, -8, _MIXED, _CLI, system=_MAC),
    Persona("lab-leo", RESEARCH, "office", 5, -5, _OPEN, _CLI, silent_days=3.2, version="0.17.4"),
    Persona("lab-eval-01", RESEARCH, "nightly", 10, 1, _OPEN, {"batch": 1.0}, system=_ARM),
    Persona("lab-notebook", RESEARCH, "office", 6, 1, _MIXED, {"api": 1.0}, "api_server"),
    Persona("desk-mia", SUPPORT, "office", 7, 1, _SMALL, _CLI, system=_MAC),
    Persona("desk-noor", SUPPORT, "office", 6, 5, _SMALL, _CLI, "linux", "0.18.2"),
    Persona("bot-slack", SUPPORT, "always", 16, 0, _SMALL, _GATEWAY, "slack", consent="aggregate"),
    Persona("bot-telegram", SUPPORT, "always", 12, 0, _SMALL, _GATEWAY, "telegram", system=_ARM),
    Persona("bot-email", SUPPORT, "always", 8, 0, _MIXED, _GATEWAY, "email", "0.18.2"),
    Persona("desk-olga", SUPPORT, "office", 5, 2, _SMALL, _CLI, silent_days=6.4, version="0.17.4"),
    Persona("desk-pat", SUPPORT, "office", 6, -5, _MIXED, _CLI, system=_MAC, consent="local"),
)
GROUPS: Final = (PLATFORM, RESEARCH, SUPPORT)
