"""Records of the trajectories plane with defaults, and how they are pushed."""

from __future__ import annotations

from fleet.lib.clock import datetime_to_ns, now
from telemetry.ingest.receive import Outcome
from tests.telemetry import builders as make

CONSENT = {"consent_state": "local", "trajectories": True, "policy_version": 3}
SESSION = "20261128_101500_ab12cd"


def seconds(ago_s: float = 3600) -> float:
    """A time as the host's database has it."""
    return round(datetime_to_ns(now()) / 1e9 - ago_s, 3)


def session(seq: int = 1, **values: object) -> dict[str, object]:
    """A session's facts, as a push sends them."""
    defaults: dict[str, object] = {
        "_kind": "session",
        "id": SESSION,
        "seq": seq,
        "source": "cli",
        "model": "m-1",
        "started_at": seconds(),
        "ended_at": None,
        "message_count": 2,
        "tool_call_count": 1,
        "title": "A question about rivers",
    }
    return defaults | values


def message(number: int = 1, **values: object) -> dict[str, object]:
    """A message of that session."""
    defaults: dict[str, object] = {
        "_kind": "message",
        "session_id": SESSION,
        "id": number,
        "role": "user",
        "timestamp": seconds(3500 - number),
        "content": f"Which river is number {number}?",
    }
    return defaults | values


def push(*records: dict[str, object] | bytes, **values: object) -> Outcome:
    """Receive a batch of content."""
    return make.push(*records, **({"plane": "trajectories", "consent": CONSENT} | values))
