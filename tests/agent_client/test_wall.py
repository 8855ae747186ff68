"""The hard wall between the planes: nothing crosses it by any way, and every gate is needed.

The first half drives random sessions under random configurations and looks for canaries in
everything that came out. The second half takes one gate away at a time and demands that the same
look finds the hole: a check that cannot fail would prove nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent_client.config import lookup, usable_value
from agent_client.contract.redact import redact_message
from agent_client.hostdb import SESSION_COLUMNS
from agent_client.policy import posture
from tests.agent_client.canary import canary_of
from tests.agent_client.wall import ACTIONS, CONTENT, Crossing, Gates, cross

# What stands in for a gate takes anything, as the hole it stands for does.
Anything = Any
OPEN = Gates(consent="aggregate")

gates = st.builds(
    Gates,
    local=st.sampled_from([True, True, True, False]),
    console=st.booleans(),
    otlp=st.booleans(),
    consent=st.sampled_from(["unknown", "local", "aggregate", "nonsense"]),
    allow_aggregate=st.booleans(),
    trajectories=st.booleans(),
    pii=st.booleans(),
    pushes_content=st.booleans(),
    asks_content=st.booleans(),
    has_past=st.booleans(),
)
sessions = st.lists(st.sampled_from(ACTIONS), max_size=12).map(tuple)


def crossing(chosen: Gates, actions: tuple[str, ...] = ACTIONS) -> Crossing:
    with tempfile.TemporaryDirectory() as folder:
        return cross(Path(folder), chosen, actions)


@pytest.mark.slow
@pytest.mark.timeout(600)  # some twenty whole homes, each through every verb
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(chosen=gates, actions=sessions)
def test_nothing_crosses_a_shut_gate_by_any_way(chosen: Gates, actions: tuple[str, ...]) -> None:
    assert crossing(chosen, actions).breaches() == []


def test_what_the_gates_let_through_does_go_out() -> None:
    out = crossing(OPEN)
    assert out.breaches() == []
    assert sorted(set(out.planes)) == ["aggregate", "local"]
    assert out.collected >= 3
    assert b"skill_view" in out.ways["export out/rows.ndjson"]


def test_content_goes_where_its_plane_is_open_and_asked_for_and_nowhere_else() -> None:
    out = crossing(replace(OPEN, trajectories=True))
    assert out.breaches() == []
    assert CONTENT.traces_in(out.ways["export out/rows.ndjson"])
    quiet = crossing(replace(OPEN, trajectories=True, asks_content=False))
    assert quiet.breaches() == []


def test_a_canary_is_seen_in_every_disguise() -> None:
    import base64
    from urllib.parse import quote

    raw = canary_of("x").token.encode()
    disguises = [
        raw,
        raw[::-1],
        raw.hex().encode(),
        base64.b64encode(b"ab" + raw + b"c"),
        base64.b64encode(b"a" + raw),
        quote(raw).encode(),
        raw[:12] + b" " + raw[12:],
        raw.decode().encode("utf-16-le"),
    ]
    assert all(canary_of("x").traces_in(b"before " + data + b" after") for data in disguises)
    assert not canary_of("x").traces_in(canary_of("y").token.encode())


# ------------------------------------------------------------------ one gate away at a time


def as_opened(**open_keys: object) -> Callable[..., posture.Posture]:
    """``resolve`` as it would be if some keys did not count."""
    real = posture.resolve

    def resolved(config: Anything) -> posture.Posture:
        return replace(real(config), **open_keys)  # type: ignore[arg-type]  # names of fields

    return resolved


def with_content(message: Anything, *, include_content: bool, pii: bool) -> Anything:
    return redact_message(message, include_content=True, pii=pii)


def unscrubbed(record: Anything) -> Anything:
    return dict(record)


def usable_but(key: str, value: object) -> Callable[..., object]:
    def usable(name: str, found: object) -> object:
        return value if name == key else usable_value(name, found)

    return usable


SHUT = Gates()
HOLES: dict[str, tuple[Gates, dict[str, object]]] = {
    # The configuration's own gates.
    "trajectories plane": (
        SHUT,
        {"agent_client.export.resolve": as_opened(trajectories_enabled=True)},
    ),
    "messages scrubbed by shape": (
        SHUT,
        {"agent_client.sessions.redact_message": with_content},
    ),
    "names in messages": (
        SHUT,
        {"agent_client.sessions.identifier_of": lambda value: str(value)[:200]},
    ),
    "consent": (
        SHUT,
        {"agent_client.policy.posture.Posture.may_upload_aggregate": lambda _self: True},
    ),
    "console switch": (
        replace(SHUT, console=False),
        {"agent_client.push_send.resolve": as_opened(console_enabled=True)},
    ),
    "collector switch": (
        replace(SHUT, otlp=False),
        {
            "agent_client.config.ClientConfig.get": lambda self, key, default=None: (
                True
                if key == "telemetry.export.otlp.enabled"
                else lookup(self.values, key, default)
            )
        },
    ),
    "recording": (
        replace(SHUT, local=False),
        {"tests.agent_client.wall.resolve": as_opened(local_enabled=True)},
    ),
    "recording, at the push": (
        replace(SHUT, local=False, has_past=True),
        {"agent_client.push_send.resolve": as_opened(local_enabled=True)},
    ),
    "recording, at the collector": (
        replace(SHUT, local=False, has_past=True),
        {"agent_client.otlp.target.resolve": as_opened(local_enabled=True)},
    ),
    # The closed list of what is read of the host's database.
    "columns of sessions": (
        SHUT,
        {"agent_client.hostdb.SESSION_COLUMNS": {**SESSION_COLUMNS, "cwd": "text"}},
    ),
    # What the recorder takes of a hook's free text.
    "names that models write": (
        SHUT,
        {"agent_client.calls.identifier_of": lambda value: str(value)[:200]},
    ),
    "skill names": (
        SHUT,
        {"agent_client.happenings.skill_name_of": str},
    ),
    "actions of tools": (
        SHUT,
        {"agent_client.happenings._action": lambda said, _known: str(said.get("action"))[:200]},
    ),
    "classes of errors": (
        SHUT,
        {"agent_client.calls.error_class_of": lambda reason, _status: str(reason)[:200]},
    ),
    "hosts of addresses": (
        SHUT,
        {"agent_client.calls.host_of": lambda url: url},
    ),
    "words of spans": (
        SHUT,
        {"agent_client.spans.word_of": lambda value, _words: value},
    ),
    "choices of approvals": (
        SHUT,
        {"agent_client.approvals.approval_of": lambda choice: str(choice)[:200]},
    ),
    # The scrubber on each way out.
    "secrets in exports and pushes": (
        SHUT,
        {
            "agent_client.encoding.redact_record": unscrubbed,
            "agent_client.encoding.redact_text": lambda text: text,
        },
    ),
    "secrets at the collector": (
        replace(SHUT, console=False),
        {"agent_client.otlp.scrub.redact_record": unscrubbed},
    ),
    "secrets in insights": (
        SHUT,
        {"agent_client.contract.redact.redact_value": lambda value: value},
    ),
}


@pytest.mark.parametrize("name", HOLES)
def test_without_this_gate_the_canary_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shut, holes = HOLES[name]
    assert crossing(shut).breaches() == []
    for target, hole in holes.items():
        monkeypatch.setattr(target, hole)
    assert crossing(shut).breaches() != [], "the gate is not needed, or the look is blind"
