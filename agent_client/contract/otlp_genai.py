"""The GenAI semantic conventions as literals, by profile: they moved and were renamed after 1.41.

``1.41`` is what receivers speak today, ``next`` the renamed form, ``both`` doubles what differs.
Importing a package of constants would tie us to whichever names it holds that day.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from agent_client.contract.otlp_names import INT64_MAX, Attributes

PROFILES: Final = ("1.41", "next", "both")
SCHEMA_1_41: Final = "https://opentelemetry.io/schemas/1.41.0"
AGENT_NAME: Final = "hermes-agent"

PROVIDERS: Final = {
    "anthropic": "anthropic",
    "azure": "azure.ai.openai",
    "bedrock": "aws.bedrock",
    "cohere": "cohere",
    "deepseek": "deepseek",
    "gemini": "gcp.gemini",
    "groq": "groq",
    "kimi": "moonshot_ai",
    "mistral": "mistral_ai",
    "moonshot": "moonshot_ai",
    "nous": "nous",
    "openai": "openai",
    "openai-codex": "openai",
    "openrouter": "openrouter",
    "perplexity": "perplexity",
    "vertex": "gcp.vertex_ai",
    "xai": "x_ai",
}
"""The host's names and the conventions'; openrouter and nous have none and keep their own."""

TOKEN_BOUNDS: Final = tuple(float(4**power) for power in range(14))
DURATION_BOUNDS: Final = tuple(0.01 * 2**power for power in range(14))
RUN_BOUNDS: Final = tuple(0.1 * 2**power for power in range(13))


def is_1_41(profile: str) -> bool:
    """Whether the names of 1.41 are sent."""
    return profile != "next"


def is_next(profile: str) -> bool:
    """Whether the names after 1.41 are sent."""
    return profile in {"next", "both"}


@lru_cache(maxsize=256)
def provider_name(provider: object) -> str:
    """``gen_ai.provider.name``; a provider of no known name in lower case, "" for none."""
    text = provider.strip().lower() if isinstance(provider, str) else ""
    return PROVIDERS.get(text, text)


@lru_cache(maxsize=256)
def tool_type(backend: object, tool_name: object) -> str:
    """``gen_ai.tool.type``: extension for another server's tools, datastore for memory."""
    where = backend.lower() if isinstance(backend, str) else ""
    name = tool_name.lower() if isinstance(tool_name, str) else ""
    if where in {"mcp", "remote"} or name.startswith(("mcp_", "mcp-", "mcp:")):
        return "extension"
    if name in {"memory", "session_search"} or name.startswith("memory_"):
        return "datastore"
    return "function"


def usage_attributes(
    profile: str,
    *,
    uncached: int,
    cache_read: int,
    cache_write: int,
    output: int | None,
    reasoning: int,
) -> Attributes:
    """``gen_ai.usage.*`` of a call: input counts cached tokens too, as the conventions ask.

    Sent raw, the uncached count alone makes receivers compute a negative cost.
    """
    whole = min(uncached + cache_read + cache_write, INT64_MAX)
    found: Attributes = {"gen_ai.usage.input_tokens": whole}
    if output is not None:
        found["gen_ai.usage.output_tokens"] = output
    if cache_read:
        found["gen_ai.usage.cache_read.input_tokens"] = cache_read
    if cache_write and is_1_41(profile):
        found["gen_ai.usage.cache_creation.input_tokens"] = cache_write
    if cache_write and is_next(profile):
        found["gen_ai.usage.cache_write.input_tokens"] = cache_write
    if reasoning:
        found["gen_ai.usage.reasoning.output_tokens"] = reasoning
    return found
