"""Homes whose aggregate plane is pushed, and what the console has of it."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent_client import push
from agent_client.contract.wire import PATH_TELEMETRY
from agent_client.outbox import read_outbox
from tests.agent_client.builders import model_call, run_event, store_events
from tests.agent_client.homes import configure
from tests.agent_client.loopback_console import Fault, LoopbackConsole

CONSENT = "telemetry: {consent_state: aggregate}\n"
NO_CONSENT = "telemetry: {consent_state: local}\n"
SECOND_NS = 10**9


def run_of(home: Path, number: int, **changes: Any) -> None:  # noqa: ANN401 -- columns of a run
    """Record a run of now with one call."""
    now_ns = time.time_ns()
    times = {"start_ns": now_ns, "end_ns": now_ns + SECOND_NS}
    store_events(
        home,
        run_event(number, **{**times, **changes}),
        model_call(number, run_id=f"run-{number}", start_ns=now_ns),
    )


def summed_up(console: LoopbackConsole) -> list[str]:
    """The runs the console has a summary of."""
    return sorted(name for kind, name in console.summaries if kind == "workflow_completed")


def aggregate_posts(console: LoopbackConsole) -> list[tuple[str, bytes]]:
    """Batch id and body of each request under the aggregate plane."""
    return [
        (request.headers["idempotency-key"], request.body)
        for request in console.sent(PATH_TELEMETRY)
        if request.headers["telemetry-plane"] == "aggregate"
    ]


def quick() -> push.Timing:
    return push.Timing(sleep=lambda _seconds: None)


def only_summaries(home: Path) -> None:
    """From here on a push has only the aggregate plane to send."""
    configure(home, "telemetry: {local: false, consent_state: aggregate}\n")


def hold_a_batch(home: Path, console: LoopbackConsole) -> None:
    """run-1 is sent; run-2 was, its answer lost for good: it waits in the outbox."""
    run_of(home, 1)
    push.push_once(home)
    run_of(home, 2)
    only_summaries(home)
    console.faults.append(Fault(PATH_TELEMETRY, "status", 503, "unavailable"))
    push.push_once(home, timing=replace(quick(), max_attempts=1))
    assert read_outbox(home, "aggregate") is not None
    assert summed_up(console) == ["run-1"]
