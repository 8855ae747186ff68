"""A home with records on both sides of the line."""

from __future__ import annotations

import time
from pathlib import Path

from agent_client.contract.events import Event
from agent_client.retention import DAY_NS
from tests.agent_client.builders import Anything, model_call, run_event, store_events

NOW_NS = time.time_ns()
OLD_NS = NOW_NS - 40 * DAY_NS
NEW_NS = NOW_NS - 2 * DAY_NS


def call(number: int, at_ns: int, **changes: Anything) -> Event:
    return model_call(number, start_ns=at_ns, end_ns=at_ns + 1000, **changes)


def fill(home: Path) -> None:
    """Calls 0 to 19 are too old, 20 to 39 are not; runs likewise, one of them on the line."""
    for number in range(0, 40, 4):
        at_ns = OLD_NS if number < 20 else NEW_NS
        store_events(
            home,
            run_event(number, start_ns=at_ns, end_ns=at_ns + 1),
            *(call(n, at_ns) for n in range(number, number + 4)),
        )
    # Began long ago and ended lately; its cost stands in an early line only.
    begun: dict[str, Anything] = {"start_ns": OLD_NS, "end_ns": NEW_NS}
    store_events(home, run_event(100, **begun, estimated_cost_usd=0.5, cost_status="actual"))
    store_events(home, run_event(100, **begun, end_reason="failed"))
