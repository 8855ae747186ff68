"""The tables of the insight pages, from answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final
from uuid import UUID

from django.urls import reverse
from django.utils.translation import gettext as _

from fleet.lib.clock import now
from fleet.models import Install
from fleet.templatetags.fleet_format import duration_s, percent, points, relative, words
from telemetry.insight.answers import (
    CohortLine,
    Comparison,
    Costs,
    Errors,
    FirstLine,
    InstallLine,
    Models,
    Scope,
    Silence,
    Tools,
)
from telemetry.insight.intervals import Rate, difference
from telemetry.pages import tables
from telemetry.pages.figures import rate_tone
from telemetry.pages.tables import Cell, Column, Table

MAX_ROWS: Final = 50


def _ranks(what: str) -> tuple[Column, ...]:
    return tuple(
        Column(f"{what}_{rank}_ms", rank, is_optional=rank != "p95")
        for rank in ("p50", "p95", "p99")
    )


def models_table(found: Models) -> Table:
    """Models with calls, failures, tokens, cost and latency."""
    return Table(
        "models",
        _("Models"),
        _("known cost in USD with its coverage"),
        tables.columns(
            Column("model", _("Model"), is_number=False),
            Column("provider", _("Provider"), is_number=False, is_optional=True),
            Column("calls", _("Calls")),
            Column("change", _("Change"), is_optional=True),
            Column("failed_share", _("Failed"), is_optional=True),
            Column("retries", _("Retries"), is_optional=True),
            Column("tokens", _("Tokens")),
            Column("cache_share", _("From cache"), is_optional=True),
            Column("cost_usd", _("Cost")),
            Column("cost_coverage", _("Coverage"), is_optional=True),
            _ranks("latency"),
            Column("first_token_p50_ms", _("First token p50"), is_optional=True),
        ),
        tuple(
            (
                tables.name(line.model),
                tables.name(line.provider),
                tables.number(line.calls, _before(found.scope, line.previous_calls)),
                tables.changed(line.calls, _before(found.scope, line.previous_calls)),
                tables.rate(line.failure),
                tables.number(line.retries),
                tables.number(line.tokens.total_tokens),
                tables.share(line.tokens.cache_hit_rate),
                *tables.cost(line.cost),
                *tables.ranks(line.latency),
                tables.milliseconds(line.first_token.p50_ms if line.first_token else None),
            )
            for line in found.lines[:MAX_ROWS]
        ),
        _("No model was called in this window."),
        max(0, len(found.lines) - MAX_ROWS),
    )


def tokens_table(found: Models) -> Table:
    """Tokens by kind, against the window before."""
    kinds = (
        ("input_tokens", _("Input")),
        ("output_tokens", _("Output")),
        ("cache_read_tokens", _("Read from cache")),
        ("cache_write_tokens", _("Written to cache")),
        ("reasoning_tokens", _("Reasoning (part of output)")),
    )
    current, previous, total = (
        found.tokens.value,
        found.tokens.previous,
        found.tokens.value.total_tokens,
    )
    rows = []
    for field, title in kinds if total else ():
        value, before = getattr(current, field), getattr(previous, field)
        rows.append(
            (
                tables.name(title),
                tables.number(value, _before(found.scope, before)),
                tables.changed(value, _before(found.scope, before)),
                Cell(value / total, percent(value / total), share=value / total, tone="2"),
            )
        )
    return Table(
        "tokens",
        _("Tokens by kind"),
        "",
        (
            Column("kind", _("Kind"), is_number=False),
            Column("tokens", _("Tokens")),
            Column("change", _("Change")),
            Column("share", _("Share")),
        ),
        tuple(rows),
        _("No model was called in this window."),
    )


def costs_table(found: Costs) -> Table:
    """Runs and cost by how the cost is known."""
    total = found.total.value.count
    return Table(
        "costs",
        _("Cost by how it is known"),
        _("per run, auxiliary calls included"),
        (
            Column("cost_status", _("Cost is"), is_number=False),
            Column("runs", _("Runs")),
            Column("share", _("Share of runs")),
            Column("cost_usd", _("Cost")),
            Column("coverage", _("Coverage"), is_optional=True),
        ),
        tuple(
            (
                Cell(line.cost_status, words(line.cost_status), is_name=True),
                tables.number(line.cost.count),
                Cell(
                    line.cost.count / total,
                    percent(line.cost.count / total),
                    share=line.cost.count / total,
                    tone="3",
                ),
                *tables.cost(line.cost),
            )
            for line in found.lines
        ),
        _("No run began in this window."),
    )


def tools_table(found: Tools) -> Table:
    """Tools with what went wrong and how long they took."""
    return Table(
        "tools",
        _("Tools"),
        _("failures are errors, timeouts and blocked calls; denied by a person or a rule"),
        tables.columns(
            Column("tool", _("Tool"), is_number=False),
            Column("calls", _("Calls")),
            Column("change", _("Change"), is_optional=True),
            Column("failure_rate", _("Failure rate")),
            Column("failure_95", _("95 % sure"), is_optional=True),
            Column("timeout_rate", _("Timeouts"), is_optional=True),
            Column("blocked_rate", _("Blocked"), is_optional=True),
            Column("denied_rate", _("Denied"), is_optional=True),
            _ranks("duration"),
        ),
        tuple(
            (
                tables.name(line.tool_name),
                tables.number(line.calls, _before(found.scope, line.previous_calls)),
                tables.changed(line.calls, _before(found.scope, line.previous_calls)),
                tables.rate(line.failure, rate_tone(line.failure_rate)),
                _bounds(line.failure),
                tables.rate(line.timeout),
                tables.rate(line.block),
                tables.rate(line.denial),
                *tables.ranks(line.duration),
            )
            for line in found.lines[:MAX_ROWS]
        ),
        _("No tool was called in this window."),
        max(0, len(found.lines) - MAX_ROWS),
    )


def errors_table(found: Errors) -> Table:
    """Errors by class and subsystem."""
    highest = max((line.errors for line in found.lines), default=0) or 1
    return Table(
        "errors",
        _("Errors by class"),
        _("given up: not retried with success"),
        (
            Column("error_class", _("Class"), is_number=False),
            Column("subsystem", _("Subsystem"), is_number=False, is_optional=True),
            Column("errors", _("Errors")),
            Column("change", _("Change"), is_optional=True),
            Column("given_up", _("Given up")),
            Column("given_up_share", _("Share given up"), is_optional=True),
        ),
        tuple(
            (
                Cell(line.error_class, words(line.error_class), line.error_class, is_name=True),
                tables.name(line.subsystem),
                Cell(
                    line.errors,
                    tables.number(line.errors).text,
                    share=line.errors / highest,
                    tone="bad",
                ),
                tables.changed(line.errors, _before(found.scope, line.previous_errors)),
                tables.number(line.given_up),
                tables.rate(Rate(line.given_up, line.errors)),
            )
            for line in found.lines[:MAX_ROWS]
        ),
        _("No error was reported in this window."),
        max(0, len(found.lines) - MAX_ROWS),
    )


def cohorts_table(
    found: Comparison, *, ident: str, title: str, column: str, names: Mapping[str, str]
) -> Table:
    """Versions or groups side by side, each against the largest."""
    base = found.lines[0] if found.lines else None
    return Table(
        ident,
        title,
        _("the difference is to %s, the largest; 95 %% confidence")
        % (names.get(base.name, base.name) if base else ""),
        tables.columns(
            Column(ident.rstrip("s"), column, is_number=False),
            Column("runs", _("Runs")),
            Column("success_rate", _("Success rate")),
            Column("success_95", _("95 % sure"), is_optional=True),
            Column("difference", _("Difference")),
            Column("difference_is", _("It"), is_number=False, is_optional=True),
            Column("failure_rate", _("Failed"), is_optional=True),
            _ranks("duration"),
            Column("cost_per_success_usd", _("USD a success"), is_optional=True),
            Column("failed_cost_usd", _("USD on failures"), is_optional=True),
        ),
        tuple(
            (
                tables.name(names.get(line.name, line.name)),
                tables.number(line.totals.run_count),
                tables.rate(line.totals.success),
                tables.interval(line.totals.success),
                *_difference(base, line),
                tables.rate(line.totals.failure),
                *tables.ranks(line.duration),
                tables.usd(line.totals.usd_per_success),
                tables.usd(line.totals.failed_usd),
            )
            for line in found.lines[:MAX_ROWS]
        ),
        _("No run began in this window."),
        max(0, len(found.lines) - MAX_ROWS),
    )


def installs_table(
    lines: Iterable[InstallLine], known: Mapping[UUID, Install], *, ident: str, title: str
) -> Table:
    """The first installs in one order."""
    return Table(
        ident,
        title,
        "",
        (
            Column("install", _("Install"), is_number=False),
            Column("group", _("Group"), is_number=False, is_optional=True),
            Column("runs", _("Runs")),
            Column("failed_runs", _("Failed")),
            Column("failed_share", _("Share failed"), is_optional=True),
            Column("tool_failures", _("Tool failures"), is_optional=True),
            Column("errors", _("Errors"), is_optional=True),
            Column("tokens", _("Tokens"), is_optional=True),
            Column("cost_usd", _("Known cost")),
        ),
        tuple(
            (
                _install(known, line.install_id),
                _group(known, line.install_id),
                tables.number(line.runs),
                tables.number(line.failed_runs),
                tables.rate(Rate(line.failed_runs, line.runs)),
                tables.number(line.tool_failures),
                tables.number(line.errors),
                tables.number(line.tokens),
                tables.usd(line.cost_usd),
            )
            for line in lines
        ),
        _("No install did in this window."),
    )


def silence_table(found: Silence, known: Mapping[UUID, Install]) -> Table:
    """Installs that are quieter than they ever were."""
    moment = now()
    return Table(
        "silent",
        _("Silent installs"),
        _("quiet for half as long again as ever in 30 days, judged by the day"),
        (
            Column("install", _("Install"), is_number=False),
            Column("group", _("Group"), is_number=False, is_optional=True),
            Column("last_seen_at", _("Last activity")),
            Column("usual_gap_days", _("Usual gap")),
            Column("longest_gap_days", _("Longest gap"), is_optional=True),
            Column("active_days", _("Active days"), is_optional=True),
        ),
        tuple(
            (
                _install(known, line.install_id),
                _group(known, line.install_id),
                tables.moment(line.last_seen_at, relative(line.last_seen_at, at=moment)),
                Cell(
                    round(line.usual_gap.total_seconds() / 86_400, 2),
                    duration_s(line.usual_gap.total_seconds()),
                ),
                Cell(line.longest_gap.days, duration_s(line.longest_gap.total_seconds())),
                tables.number(line.active_days),
            )
            for line in found.silent
        ),
        _("No install is quieter than it ever was."),
        found.silent_count - len(found.silent),
    )


def new_table(lines: Iterable[FirstLine], known: Mapping[UUID, Install]) -> Table:
    """What the fleet had for the first time."""
    moment = now()
    return Table(
        "first-seen",
        _("Seen for the first time"),
        _("in the whole fleet, newest first"),
        (
            Column("value", _("Value"), is_number=False),
            Column("kind", _("Kind"), is_number=False),
            Column("install", _("First on"), is_number=False, is_optional=True),
            Column("first_at", _("When")),
        ),
        tuple(
            (
                tables.name(line.value),
                Cell(line.kind, words(line.kind)),
                _install(known, line.install_id),
                tables.moment(line.first_at, relative(line.first_at, at=moment)),
            )
            for line in lines
        ),
        _("No new model, tool, version or endpoint in this window."),
    )


def _before(scope: Scope, previous: int) -> int | None:
    """The number of the window before, when there was a whole one."""
    return previous if scope.has_earlier else None


def _bounds(found: Rate) -> Cell:
    text = f"{percent(found.low)} – {percent(found.high)}" if found.total else "–"
    return Cell(text, text)


def _difference(base: CohortLine | None, line: CohortLine) -> tuple[Cell, Cell]:
    """The difference in success to the largest cohort, and whether it may be chance."""
    if base is None or base is line:
        return Cell(None, "–"), Cell(None, "")
    bounds = difference(base.totals.success, line.totals.success)
    if bounds is None:
        return Cell(None, "–"), Cell(None, "")
    low, high = bounds
    value = line.totals.completed_count / line.totals.run_count
    change = value - base.totals.completed_count / base.totals.run_count
    title = _("between %(low)s and %(high)s") % {"low": points(low), "high": points(high)}
    word = _("is real") if low > 0 or high < 0 else _("may be chance")
    return Cell(round(change, 6), points(change), title), Cell(word, word, title)


def _install(known: Mapping[UUID, Install], install_id: UUID) -> Cell:
    install = known.get(install_id)
    if install is None:
        return Cell(install_id, str(install_id)[:8], str(install_id), is_name=True)
    href = reverse("admin:fleet_install_change", args=[install.pk])
    return Cell(str(install), str(install), str(install), href, is_name=True)


def _group(known: Mapping[UUID, Install], install_id: UUID) -> Cell:
    install = known.get(install_id)
    text = str(install.group) if install is not None and install.group else "–"
    return Cell(text, text, text, is_name=True)
