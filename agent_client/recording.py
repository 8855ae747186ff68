"""What the plugin loads with the first hook of a process: the recorder, put together.

Apart from ``plugin`` because a host loads its plugins for every command, and most commands record
nothing: ``hermes --version`` does not pay for it.
"""

from __future__ import annotations

from pathlib import Path

from agent_client.config import usable_value
from agent_client.emitter import Emitter, set_emitter
from agent_client.prices import PriceTable
from agent_client.recovery import reconcile
from agent_client.runs import RunTracker
from agent_client.subscribers import Batch


def start_recording(
    home: Path, *, profile_id: str | None, agent_version: str | None, prices: object
) -> tuple[Emitter, RunTracker]:
    """The process's emitter and the tracker that turns hooks into its events.

    ``prices``: the value of ``telemetry.prices`` as the host has it.
    """
    emitter = Emitter(home)
    emitter.subscribe(_TurnEnds(emitter))
    set_emitter(emitter)
    tracker = RunTracker(
        emitter.emit,
        profile_id=profile_id,
        agent_version=agent_version,
        prices=PriceTable(usable_value("telemetry.prices", prices)),
    )
    return emitter, tracker


class _TurnEnds:
    """Prices a session's runs whenever a turn of it has ended, on the subscriber's thread."""

    def __init__(self, emitter: Emitter) -> None:
        self._emitter = emitter

    def __call__(self, events: Batch) -> None:
        ended = {
            str(event["session_id"])
            for event in events
            if event.get("event") == "run" and event.get("end_ns") and event.get("session_id")
        }
        if ended:
            with self._emitter.inside_sqlite():
                reconcile(self._emitter.home, ended)
