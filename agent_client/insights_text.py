"""The Observability section as text, for ``insights``."""

from __future__ import annotations

from typing import Final

from agent_client.insights import TOP_MODELS, TOP_TOOLS, Summary

TOP_NAMES: Final = 8
NAME_CHARS: Final = 60


def duration_text(ms: object) -> str:
    """850ms, 2.4s or 1.5m; a dash when unknown."""
    if not isinstance(ms, (int, float)):
        return "-"
    if ms < 1000:
        return f"{ms:.0f}ms"
    return f"{ms / 1000:.1f}s" if ms < 60_000 else f"{ms / 60_000:.1f}m"


def render(overview: Summary) -> str:
    """The section; "" when there is no data."""
    if not overview["has_data"]:
        return ""
    lines = ["Observability", "-------------"]
    lines += _workflows(overview["workflows"])  # type: ignore[arg-type]  # a Summary by construction
    lines += _tools(overview["tool_calls"])  # type: ignore[arg-type]  # as above
    lines += _models(overview["model_calls"])  # type: ignore[arg-type]  # as above
    errors: dict[str, dict[str, int]] = overview["errors"]  # type: ignore[assignment]  # as above
    if errors["by_class"]:
        lines.append("Errors          " + _pairs(errors["by_class"]))
    return "\n".join(lines) + "\n"


def _workflows(runs: dict[str, object]) -> list[str]:
    rate = float(runs["success_rate"]) * 100  # type: ignore[arg-type]  # a float by construction
    lines = [
        f"Workflows       {runs['total']} ({rate:.1f}% completed)",
        (
            f"Duration        p50 {duration_text(runs['duration_p50_ms'])}, "
            f"p95 {duration_text(runs['duration_p95_ms'])}"
        ),
        "Entrypoints     " + _pairs(runs["by_entrypoint"]),
        "Ended           " + _pairs(runs["by_end_reason"]),
    ]
    if runs["cost_usd"] is None:
        return [*lines, "Cost            unknown (no run has a known cost)"]
    coverage = f"known for {runs['runs_with_cost']} of {runs['total']} runs"
    return [*lines, f"Cost            ${runs['cost_usd']:.4f} ({coverage})"]


def _tools(tools: dict[str, object]) -> list[str]:
    if not tools["total"]:
        return []
    rate = float(tools["failure_rate"]) * 100  # type: ignore[arg-type]  # a float by construction
    calls: dict[str, int] = tools["by_tool"]  # type: ignore[assignment]  # as above
    failures: dict[str, int] = tools["failures_by_tool"]  # type: ignore[assignment]  # as above
    lines = [f"Tool calls      {tools['total']} ({rate:.1f}% failed)"]
    for name, count in list(calls.items())[:TOP_TOOLS]:
        failed = f", {failures[name]} failed" if name in failures else ""
        lines.append(f"  {_shown(name):<24} {count}{failed}")
    return lines


def _models(models: dict[str, object]) -> list[str]:
    if not models["total"]:
        return []
    tokens: dict[str, int] = models["tokens"]  # type: ignore[assignment]  # a dict by construction
    breakdown: list[dict[str, object]] = models["breakdown"]  # type: ignore[assignment]  # as above
    lines = [
        (
            f"Model calls     {models['total']}, tokens {tokens['input']:,} in, "
            f"{tokens['output']:,} out, {tokens['cache_read']:,} from cache"
        ),
        "Providers       " + _pairs(models["by_provider"]),
    ]
    for entry in breakdown[:TOP_MODELS]:
        hit = float(entry["cache_hit_rate"]) * 100  # type: ignore[arg-type]  # a float by construction
        name = f"{_shown(entry['provider'])}/{_shown(entry['model'])}"
        lines.append(
            f"  {name:<36} {entry['calls']} calls, "
            f"mean {duration_text(entry['mean_latency_ms'])}, {hit:.0f}% cache hits"
        )
    return lines


def _pairs(counts: object) -> str:
    if not isinstance(counts, dict):
        return ""
    shown = [f"{_shown(name)} {count}" for name, count in list(counts.items())[:TOP_NAMES]]
    more = len(counts) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _shown(name: object) -> str:
    """A recorded name for a terminal: what would steer it, or fill the screen, is not printed."""
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(name))
    return text if len(text) <= NAME_CHARS else text[: NAME_CHARS - 1] + "…"
