"""What the simulated installs do: runs and their events, deterministic by seed, without I/O.

A day's runs are drawn from the seed, the install's name and the date alone, so that asking for
any span of time gives the same runs as asking for it in pieces.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from agent_client.contract.events import (
    ErrorEvent,
    Event,
    ModelCallEvent,
    RunEvent,
    ToolCallEvent,
)
from agent_client.happenings import gateway_message
from agent_client.ids import id_within
from agent_client.simulation.cast import (
    DELEGATE,
    FAILING_PROVIDER,
    HOURS,
    MODELS,
    TOOLS,
    WEEKEND,
    Model,
    Persona,
    Tool,
)
from agent_client.spans import approval_span, subagent_span, turn_span, turn_status

S: Final = 1_000_000_000
HOUR_NS: Final = 3600 * S
DAY_NS: Final = 24 * HOUR_NS
MS_NS: Final = 1_000_000
OUTAGE_DAYS_AGO: Final = 4
OUTAGE_HOURS: Final = (12.5, 16.5)
"""UTC, on the last weekday at least OUTAGE_DAYS_AGO before the anchor."""
GROWTH_PER_DAY: Final = 0.012
"""Fleets grow; a flat line would look made up."""


@dataclass(frozen=True, slots=True)
class World:
    """What all installs share. ``anchor_ns`` is when the simulation was first started."""

    seed: int
    anchor_ns: int

    def is_outage(self, at_ns: int) -> bool:
        """Whether FAILING_PROVIDER is failing at that time."""
        day = self.anchor_ns // DAY_NS - OUTAGE_DAYS_AGO
        while _weekday(day) >= 5:
            day -= 1
        hours = (at_ns - day * DAY_NS) / HOUR_NS
        return OUTAGE_HOURS[0] <= hours < OUTAGE_HOURS[1]


@dataclass(frozen=True, slots=True)
class Run:
    """One finished run: its final event and its children, in the order they happened."""

    start_ns: int
    end_ns: int
    events: tuple[Event, ...]


def runs_between(world: World, persona: Persona, after_ns: int, until_ns: int) -> Iterator[Run]:
    """The runs that ended in (after, until], in the order they started."""
    for day in range(after_ns // DAY_NS - 1, until_ns // DAY_NS + 1):
        for start_ns, rng in _starts(world, persona, day):
            if start_ns >= until_ns or start_ns > last_word_ns(world, persona):
                continue
            run = make_run(world, persona, start_ns, rng)
            if after_ns < run.end_ns <= until_ns:
                yield run


def last_word_ns(world: World, persona: Persona) -> float:
    """When an install fell silent; infinite for the living."""
    return world.anchor_ns - persona.silent_days * DAY_NS if persona.silent_days else math.inf


def wakefulness(persona: Persona, at_ns: int) -> float:
    """How likely a run starts at a moment, 0 to 1: office hours of its time zone, week-ends."""
    local_ns = at_ns + persona.utc_offset_h * HOUR_NS
    share = HOURS[persona.rhythm][local_ns // HOUR_NS % 24]
    return share * (WEEKEND[persona.rhythm] if _weekday(local_ns // DAY_NS) >= 5 else 1.0)


def make_run(
    world: World,
    persona: Persona,
    start_ns: int,
    rng: random.Random,
    parent: RunEvent | None = None,
) -> Run:
    """A run that starts at a moment; a subagent's when it has a parent."""
    return _Writer(world, persona, start_ns, rng, parent).write()


def version_at(world: World, persona: Persona, at_ns: int) -> str:
    """The agent's version at a time: some were upgraded during the fortnight."""
    upgraded_ns = world.anchor_ns - persona.upgraded_days_ago * DAY_NS
    return (
        persona.former_version
        if persona.former_version and at_ns < upgraded_ns
        else persona.version
    )


def _starts(world: World, persona: Persona, day: int) -> list[tuple[int, random.Random]]:
    """Starts of one UTC day, each with the randomness of its run."""
    rng = random.Random(f"{world.seed}/{persona.name}/{day}")
    hours = [wakefulness(persona, day * DAY_NS + hour * HOUR_NS) for hour in range(24)]
    full = sum(HOURS[persona.rhythm])
    growth = 1.0 + GROWTH_PER_DAY * max(day - world.anchor_ns // DAY_NS, -30)
    expected = persona.runs_per_day * sum(hours) / full * growth * rng.uniform(0.75, 1.2)
    count = int(expected) + (rng.random() < expected % 1)
    if not count or not any(hours):
        return []
    starts = [
        day * DAY_NS + hour * HOUR_NS + rng.randrange(HOUR_NS)
        for hour in rng.choices(range(24), weights=hours, k=count)
    ]
    return [(start_ns, random.Random(rng.random())) for start_ns in sorted(starts)]


class _Writer:
    """Writes one run down, moving its own clock."""

    def __init__(
        self,
        world: World,
        persona: Persona,
        start_ns: int,
        rng: random.Random,
        parent: RunEvent | None,
    ) -> None:
        self.world, self.persona, self.rng, self.parent = world, persona, rng, parent
        self.start_ns = self.now_ns = start_ns
        self.run_id = _hex(rng, 32)
        self.trace_id = parent.trace_id if parent and parent.trace_id else _hex(rng, 32)
        self.model: Model = MODELS[_pick(rng, persona.models)]
        self.entrypoint = "subagent" if parent else _pick(rng, persona.entrypoints)
        self.events: list[Event] = []
        self.context_tokens = rng.randint(6_000, 14_000)
        self.calls = self.tools = self.errors = 0
        self.turn_span_id = self.run_id
        self.cost_usd: float | None = 0.0

    def write(self) -> Run:
        """The whole run."""
        turns = 1 if self.parent or self.entrypoint != "cli" else self.rng.choice((1, 1, 2, 3))
        end_reason, done = self._ending(), 0
        for _turn in range(turns):
            done += 1
            if not self._spanned_turn(done, end_reason if done == turns else "completed"):
                end_reason = "failed"
                break
            self.now_ns += int(self.rng.uniform(0, 90) * S) if done < turns else 0
        self.events.append(self._final(end_reason, done))
        return Run(self.start_ns, self.now_ns, tuple(self.events))

    def _ending(self) -> str:
        endings = {"completed": 93.5, "interrupted": 3.6, "max_iterations": 1.0, "timeout": 0.7}
        if self.entrypoint == "gateway":
            endings["interrupted"] = 1.0
        return _pick(self.rng, {**endings, "failed": 1.2})

    def _spanned_turn(self, number: int, end_reason: str) -> bool:
        """One turn with its span, and at a gateway with the messages that begin and end it."""
        self.turn_span_id = id_within(self.run_id, f"turn {number}")
        start_ns, calls, tools = self.now_ns, self.calls, self.tools
        is_gateway = self.entrypoint == "gateway"
        if is_gateway:
            self.events.append(self._message(start_ns))
        is_done = self._turn(end_reason)
        ended = end_reason if is_done else "failed"
        self.events.append(
            turn_span(
                self.turn_span_id,
                self.run_id,
                self.trace_id,
                (start_ns, self.now_ns),
                ended,
                model_call_count=self.calls - calls,
                tool_call_count=self.tools - tools,
            )
        )
        if is_gateway:
            self.events.append(self._message(self.now_ns, turn_status(ended)))
        return is_done

    def _message(self, at_ns: int, result: str | None = None) -> Event:
        made = gateway_message(
            self.run_id, self.trace_id, self.turn_span_id, at_ns, self._platform(), result
        )
        return replace(made, span_id=id_within(self.turn_span_id, result or "in"))

    def _turn(self, end_reason: str) -> bool:
        """One user turn: model calls with tools between; False when a call was given up."""
        steps = 1 + min(int(self.rng.expovariate(0.42)), 12)
        if end_reason == "max_iterations":
            steps = 16
        for step in range(steps):
            is_last = step == steps - 1
            if end_reason == "failed" and is_last:
                self._error(self.rng.choice(("network", "invalid_response", "context_overflow")))
                return False
            if not self._model_call(is_last=is_last):
                return False
            if not is_last:
                self._tools()
        return True

    def _model_call(self, *, is_last: bool) -> bool:
        retries = self._attempts_before_success()
        if retries is None:
            return False
        rng, model = self.rng, self.model
        cached = int(self.context_tokens * rng.uniform(0.55, 0.95)) if self.calls else 0
        fresh, output = self.context_tokens - cached, int(rng.lognormvariate(5.3, 0.8)) + 8
        latency_ms = model.latency_ms * rng.lognormvariate(0, 0.45) + output * 6
        cost = self._cost(model.cost_usd(fresh, cached, output))
        start_ns = self.now_ns
        self.now_ns += int(latency_ms * MS_NS)
        self.events.append(
            ModelCallEvent(
                _hex(rng, 32),
                self.run_id,
                provider=model.provider,
                model=model.name,
                base_url=model.base_url,
                input_tokens=fresh,
                output_tokens=output,
                cache_read_tokens=cached,
                latency_ms=round(latency_ms, 1),
                ttft_ms=round(latency_ms * rng.uniform(0.15, 0.4), 1),
                estimated_cost_usd=cost,
                cost_status="unknown" if cost is None else "estimated",
                retry_count=retries,
                trace_id=self.trace_id,
                parent_span_id=self.turn_span_id,
                start_ns=start_ns,
                end_ns=self.now_ns,
                response_model=model.name,
                finish_reason="stop" if is_last else "tool_calls",
                api_request_id=f"req_{_hex(rng, 16)}",
                status_code=200,
            )
        )
        self.calls += 1
        self.context_tokens = min(self.context_tokens + output + rng.randint(200, 3_000), 180_000)
        return True

    def _cost(self, cost_usd: float | None) -> float | None:
        """A call's cost as the recorder knew it: now and then a price is missing for a run."""
        if cost_usd is None or self.cost_usd is None:
            self.cost_usd = None
            return None
        self.cost_usd = round(self.cost_usd + cost_usd, 6)
        return cost_usd

    def _attempts_before_success(self) -> int | None:
        """Failed attempts before the call goes through; None when it was given up."""
        is_failing = self.model.provider == FAILING_PROVIDER and self.world.is_outage(self.now_ns)
        chance = 0.75 if is_failing else 0.012
        for attempt in range(4):
            if self.rng.random() >= chance:
                return attempt
            error_class = "provider_error" if is_failing else self._ordinary_error()
            self._error(error_class, attempt=attempt, is_given_up=attempt == 3)
        return None

    def _ordinary_error(self) -> str:
        return _pick(self.rng, {"rate_limit": 6.0, "provider_timeout": 2.0, "network": 1.0})

    def _error(self, error_class: str, *, attempt: int = 0, is_given_up: bool = True) -> None:
        self.now_ns += int(self.rng.uniform(0.4, 6.0) * S)
        status = {"rate_limit": 429, "provider_error": 529}.get(error_class)
        self.errors += 1
        self.events.append(
            ErrorEvent(
                _hex(self.rng, 32),
                self.run_id,
                ts_ns=self.now_ns,
                error_class=error_class,
                subsystem="model",
                recovery="none" if is_given_up else "retried",
                trace_id=self.trace_id,
                parent_span_id=self.turn_span_id,
                retryable=not is_given_up,
                status_code=status,
                retry_count=attempt,
            )
        )

    def _tools(self) -> None:
        for _index in range(self.rng.choice((1, 1, 1, 2, 3))):
            if self.parent is None and self.persona.rhythm == "office" and self.rng.random() < 0.02:
                self._delegate()
            else:
                tool = self.rng.choices(TOOLS, weights=[tool.weight for tool in TOOLS])[0]
                self._tool(tool, tool.duration_ms * self.rng.lognormvariate(0, 0.8))

    def _tool(self, tool: Tool, duration_ms: float) -> None:
        rng = self.rng
        is_failed = rng.random() < tool.failure_rate
        if is_failed and tool.error_type == "TimeoutError":
            duration_ms = max(duration_ms, rng.uniform(20_000, 30_000))
        result = _outcome(tool, is_failed=is_failed, rng=rng)
        approval = None
        if tool.needs_approval and rng.random() < 0.12:
            approval = _pick(rng, {"once": 5.0, "session": 3.0, "always": 1.0, "denied": 1.0})
            result = "blocked" if approval == "denied" else result
        if approval:
            self._wait_for(approval)
        start_ns = self.now_ns
        self.now_ns += int(duration_ms * MS_NS)
        self.tools += 1
        self.errors += result in {"error", "timeout"}
        self.events.append(
            ToolCallEvent(
                _hex(rng, 32),
                self.run_id,
                tool_name=tool.name,
                duration_ms=round(duration_ms, 1),
                result_class=result,
                approval=approval,
                trace_id=self.trace_id,
                parent_span_id=self.turn_span_id,
                start_ns=start_ns,
                end_ns=self.now_ns,
                tool_call_id=f"call_{_hex(rng, 20)}",
                error_type=tool.error_type if result in {"error", "timeout"} else None,
            )
        )

    def _wait_for(self, choice: str) -> None:
        """A person decides about a tool call: seconds, or minutes."""
        start_ns = self.now_ns
        self.now_ns += int(self.rng.lognormvariate(1.8, 0.9) * S)
        name = f"approval {self.tools}"
        self.events.append(
            approval_span(
                id_within(self.run_id, name),
                self.run_id,
                self.trace_id,
                self.turn_span_id,
                (start_ns, self.now_ns),
                choice,
                "gateway" if self.entrypoint == "gateway" else "cli",
                None,
            )
        )

    def _delegate(self) -> None:
        """A subagent: a run of its own inside this one, as long as the tool call that waits."""
        own = self._final("completed", 0)
        child = make_run(self.world, self.persona, self.now_ns, self.rng, own)
        self.events.extend(child.events)
        (child_run_id,) = {e.run_id for e in child.events if isinstance(e, RunEvent)}
        self.events.append(
            subagent_span(
                child_run_id,
                self.run_id,
                self.trace_id,
                self.turn_span_id,
                (self.now_ns, child.end_ns),
                "completed",
            )
        )
        self._tool(DELEGATE, (child.end_ns - self.now_ns) / MS_NS + 40)

    def _final(self, end_reason: str, turns: int) -> RunEvent:
        cost = self.cost_usd if self.calls else None
        return RunEvent(
            self.run_id,
            trace_id=self.trace_id,
            session_id=f"{self.persona.name}_{self.run_id[:8]}",
            entrypoint=self.entrypoint,
            platform="subagent" if self.parent else self._platform(),
            start_ns=self.start_ns,
            end_ns=self.now_ns,
            end_reason=end_reason,
            model_call_count=self.calls,
            tool_call_count=self.tools,
            error_count=self.errors,
            estimated_cost_usd=cost,
            cost_status="unknown" if cost is None else "estimated",
            parent_run_id=self.parent.run_id if self.parent else None,
            agent_version=version_at(self.world, self.persona, self.start_ns),
            turn_count=turns,
        )

    def _platform(self) -> str:
        is_chat = self.entrypoint in {"gateway", "cron", "api"}
        return self.persona.platform if is_chat else self.entrypoint


def _outcome(tool: Tool, *, is_failed: bool, rng: random.Random) -> str:
    if not is_failed:
        return "ok"
    if tool.error_type == "TimeoutError":
        return "timeout"
    return "blocked" if rng.random() < 0.05 else "error"


def _weekday(day: int) -> int:
    """0 is Monday; the epoch's day 0 was a Thursday."""
    return (day + 3) % 7


def _hex(rng: random.Random, digits: int) -> str:
    return f"{rng.getrandbits(digits * 4):0{digits}x}"


def _pick(rng: random.Random, weights: Mapping[str, float]) -> str:
    names: Sequence[str] = list(weights)
    return rng.choices(names, weights=list(weights.values()))[0]
