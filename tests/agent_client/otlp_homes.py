"""Homes that send to a receiver, and the timing of drains that never wait."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from agent_client.contract import otlp_ids as ids
from agent_client.contract.events import Event
from agent_client.otlp.encode import Sender
from agent_client.otlp.facts import look_up
from agent_client.otlp.mapping import Mapper
from agent_client.otlp.resource import resource_of
from agent_client.otlp.scrub import Scrubber
from agent_client.otlp.signals import Log, Span
from agent_client.push import Timing
from agent_client.store import Store
from tests.agent_client.builders import START_NS, Anything, one_of_each, store_events

INSTALL = "0b5f3d1e-8a1c-4b55-9d0e-1f2a3b4c5d6e"
TRACE = "0af7651916cd43dd8448eb211c80319c"


def configure(home: Path, url: str, **keys: object) -> None:
    """A config.yaml (JSON is YAML) with OTLP on; ``keys`` are more of ``telemetry.export.otlp``."""
    otlp = {"enabled": True, "endpoint": url, **keys}
    telemetry = {"install_id": INSTALL, "export": {"otlp": otlp}}
    (home / "config.yaml").write_text(json.dumps({"telemetry": telemetry}))


def recorded(home: Path, url: str, *events: Event, **keys: object) -> None:
    """A configured home with these events in it, or one of each kind."""
    configure(home, url, **keys)
    store_events(home, *(events or in_trace(*one_of_each())))


def in_trace(*events: Event, trace_id: str | None = TRACE) -> list[Event]:
    return [replace(event, trace_id=trace_id) for event in events]


def run_id_of(run_id: str) -> bytes:
    """The span id of a run."""
    return ids.span_id("run", INSTALL, run_id)


def instant(waits: list[float] | None = None, *, now_ns: int = START_NS) -> Timing:
    """A timing whose clock stands still and whose waits are only noted."""
    noted = [] if waits is None else waits
    return Timing(clock_ns=lambda: now_ns, sleep=noted.append, chance=lambda: 1.0)


def mapped(
    home: Path, *events: Event, profile: str = "1.41", errors_as_events: bool = False
) -> list[Span | Log]:
    """What stored events become, in the order of their ``seq``."""
    store_events(home, *events)
    mapper, scrubber = Mapper(INSTALL, profile, errors_as_events=errors_as_events), Scrubber()
    with Store(home) as store:
        pairs = [(row, scrubber.pair_of(row)) for row in store.rows_after(0, 10_000)]
        mapper.facts = look_up(store.connection, pairs, scrubber, with_errors=errors_as_events)
    made = [mapper.map(row.table, raw, record) for row, (raw, record) in pairs]
    return [entry for entry in made if entry is not None]


def spans_of(home: Path, *events: Event, **how: Anything) -> list[Span]:
    """What stored events become, all of them spans."""
    made = mapped(home, *events, **how)
    assert all(isinstance(entry, Span) for entry in made)
    return [entry for entry in made if isinstance(entry, Span)]


def span_of(home: Path, event: Event, profile: str = "1.41") -> Span:
    """The one span that an event becomes."""
    (made,) = spans_of(home, event, profile=profile)
    return made


def sender(profile: str = "1.41") -> Sender:
    return Sender("0.1.0", profile, resource_of(INSTALL, bytes(32)))
