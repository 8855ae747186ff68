"""One home between its two servers, with every way out of it watched from outside.

``cross`` records sessions whose every free-text field holds a canary, takes each way out there is
and keeps what came out of each: files, bodies, headers, stdout, stderr, log lines. ``breaches`` is
the judgement: what came out although a gate that ought to hold it was shut.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

from agent_client import cli, config
from agent_client.contract.wire import PATH_TELEMETRY
from agent_client.emitter import Emitter
from agent_client.policy.posture import resolve
from agent_client.runs import RunTracker
from tests.agent_client import hooks, host_state
from tests.agent_client.builders import SECOND_NS
from tests.agent_client.canary import bytes_below, canary_of, unpacked
from tests.agent_client.homes import enrolled
from tests.agent_client.loopback_console import CREDENTIAL, LoopbackConsole
from tests.agent_client.otlp_receiver import OtlpReceiver

KEY = "ghp_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"
"""A secret with a look of its own, made up; it stands where names stand, and in content."""
ACTIONS = ("answer", "tool", "skill", "memory", "cron", "error", "approval", "subagent", "turn")
REPORTS = (
    ["status"],
    ["status", "--json"],
    ["insights"],
    ["insights", "--json"],
    ["preview", "--lines"],
    ["preview", "--json"],
    ["doctor", "--offline"],
    ["policy", "show"],
    ["push", "--dry-run", "--lines"],
)
SENDS = (["push"], ["push", "--json"], ["policy", "sync"], ["export", "--otlp"])
CONTENT = canary_of("content")
HOST_ONLY = canary_of("host")


@dataclass(frozen=True, slots=True)
class Gates:
    """The configuration; each switch is one gate's key."""

    local: bool = True
    console: bool = True
    otlp: bool = True
    consent: str = "unknown"
    allow_aggregate: bool = True
    trajectories: bool = False
    pii: bool = False
    pushes_content: bool = False
    asks_content: bool = True
    has_past: bool = False
    """Whether a session was recorded while everything was open, before this configuration."""

    def telemetry(self, collector_url: str) -> dict[str, object]:
        """The section of config.yaml that says so."""
        return {
            "local": self.local,
            "consent_state": self.consent,
            "allow_aggregate": self.allow_aggregate,
            "content_redaction": "pii" if self.pii else "none",
            "trajectories": {"enabled": self.trajectories},
            "export": {
                "console": {"enabled": self.console, "content": self.pushes_content},
                "otlp": {"enabled": self.otlp, "endpoint": collector_url},
            },
        }

    @property
    def may_aggregate(self) -> bool:
        return self.allow_aggregate and self.consent == "aggregate"


@dataclass(slots=True)
class Crossing:
    """What came out, by the way it took; ``planes``: of each pushed batch."""

    gates: Gates
    ways: dict[str, bytes] = field(default_factory=dict)
    planes: list[str] = field(default_factory=list)
    collected: int = 0

    def breaches(self) -> list[str]:
        """Everything that came out through a gate that ought to have been shut."""
        found = [f"{way}: {trace}" for way, trace in self._content()]
        found += [f"{way}: secret" for way, data in self._outward() if KEY.encode() in data]
        found += [f"{way}: credential" for way in self.ways if self._holds_credential(way)]
        gates = self.gates
        shut = {
            "local": not (gates.local and gates.console),
            # Recording may be off and its owner still agree to be counted.
            "aggregate": not (gates.console and gates.may_aggregate),
            "trajectories": not (gates.console and gates.trajectories and gates.pushes_content),
        }
        found += [f"pushed: {plane}" for plane in self.planes if shut.get(plane, True)]
        if self.collected and not (gates.local and gates.otlp):
            found.append("collector: requests")
        if not gates.local and not gates.has_past and self.ways.get("file telemetry/events.jsonl"):
            found.append("recorded")
        return sorted(set(found))

    def _content(self) -> Iterator[tuple[str, str]]:
        may_hold = self.gates.trajectories and self.gates.asks_content
        for way, data in self.ways.items():
            if not (may_hold and way.startswith("export")):
                for canary in (CONTENT, HOST_ONLY):
                    yield from ((way, f"{canary.field} {t}") for t in canary.traces_in(data))
            else:
                yield from ((way, f"host {t}") for t in HOST_ONLY.traces_in(data))

    def _holds_credential(self, way: str) -> bool:
        """Whether it holds the console's credential, which goes to the console and nowhere else."""
        is_its_place = way.startswith(("console", "file telemetry/credential"))
        return not is_its_place and CREDENTIAL.encode() in self.ways[way]

    def _outward(self) -> Iterator[tuple[str, bytes]]:
        # On the machine itself the log and its index keep names as the host said them.
        local = ("file telemetry/events", "file telemetry/telemetry.db", "file telemetry/spool")
        return ((way, data) for way, data in self.ways.items() if not way.startswith(local))


def cross(folder: Path, gates: Gates, actions: tuple[str, ...] = ACTIONS) -> Crossing:
    """Record, then take every way out. ``folder`` is empty."""
    home, temporary = folder / "home", folder / "tmp"
    home.mkdir()
    temporary.mkdir()
    crossing = Crossing(gates)
    with (
        LoopbackConsole() as console,
        OtlpReceiver() as collector,
        _logged() as logged,
        mock.patch.dict(os.environ, {"HERMES_HOME": str(home), "NO_COLOR": "1"}),
        mock.patch.object(tempfile, "tempdir", str(temporary)),
    ):
        os.environ.pop("HERMES_MANAGED_DIR", None)
        enrolled(home, console)
        if gates.has_past:
            _record(home, actions)
        section = gates.telemetry(collector.url)
        (home / "config.yaml").write_text(yaml.safe_dump({"telemetry": section}))
        _record(home, actions)
        _converse(home)
        for number, argv in enumerate(_verbs(gates, folder)):
            code, out, err = _run(argv)
            name = " ".join(word for word in argv if not word.startswith("/"))
            crossing.ways[f"{name} #{number} out"] = out
            crossing.ways[f"{name} #{number} err"] = err
            assert code in {0, 1, 2, 3, 5}, (argv, code, err)
        for number, request in enumerate(console.requests):
            data = unpacked(request.body) + repr(request.headers).encode()
            crossing.ways[f"console #{number} {request.path}"] = data
        crossing.planes += [
            sent.headers["telemetry-plane"] for sent in console.sent(PATH_TELEMETRY)
        ]
        for number, received in enumerate(collector.requests):
            data = unpacked(received.body) + repr(received.headers).encode()
            crossing.ways[f"otlp #{number} {received.path}"] = data
        crossing.collected = len(collector.requests)
    crossing.ways["log lines"] = logged.getvalue().encode()
    for name, data in bytes_below(folder).items():
        if name.startswith("out/"):
            crossing.ways[f"export {name}"] = data
        elif not name.startswith(("home/state.db", "home/config.yaml")):
            crossing.ways[f"file {name.removeprefix('home/')}"] = data
    return crossing


def _verbs(gates: Gates, folder: Path) -> Iterator[list[str]]:
    out = folder / "out"
    out.mkdir()
    content = ["--include-content"] if gates.asks_content else []
    yield from REPORTS
    yield ["export", "--out", str(out / "rows.ndjson"), *content]
    yield ["export", "--out", str(out / "rows.json"), "--format", "json", *content]
    yield ["export", "--out", "-", *content]
    yield from SENDS
    yield ["rebuild"]
    yield ["prune", "--dry-run"]


def _run(argv: list[str]) -> tuple[int, bytes, bytes]:
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(argv)
    return code, _bytes_of(out), _bytes_of(err)


def _bytes_of(stream: io.TextIOWrapper) -> bytes:
    stream.flush()
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue()


@contextlib.contextmanager
def _logged() -> Iterator[io.StringIO]:
    """Every log line of the process, with its traceback, down to DEBUG."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield text
    finally:
        root.setLevel(level)
        root.removeHandler(handler)


def _record(home: Path, actions: tuple[str, ...]) -> None:
    """A session through the real recorder, as the host's plugin would start it."""
    emitter = Emitter(home, resolve(config.load(home)).local_enabled)
    now_ns = time.time_ns()
    host = hooks.Host(platform="slack")
    host._ticks = iter(range(now_ns - 60 * SECOND_NS, now_ns, SECOND_NS // 4))
    host.tracker = RunTracker(emitter.emit, agent_version="0.19.0", clock_ns=host.tick)
    with mock.patch.object(hooks, "SECRET", f"{CONTENT.text} {KEY}"):
        host.session_start()
        host.next_turn()
        for action in actions:
            _act(host, action)
        host.turn_end()
        host.finalize()
    emitter.close()


def _act(host: hooks.Host, action: str) -> None:
    said = hooks.SECRET
    match action:
        case "answer":
            host.answer(
                model=f"model {KEY}",
                finish_reason=said,
                response_model=said,
                base_url=f"https://{CONTENT.token}:pw@llm.example/{CONTENT.token}?q={CONTENT.token}",
            )
        case "tool":
            host.tool(error_message=said, tool_name=KEY)
            host.tool(tool_name=said, error_type=said)
        case "skill":
            host.tool(tool_name="skill_view", args={"name": said, "content": said})
            host.tool(tool_name="skill_manage", args={"action": said, "name": "pdf"})
        case "memory":
            host.tool(tool_name="memory", args={"action": said, "content": said, "target": said})
        case "cron":
            host.tool(tool_name="cronjob", args={"action": said, "prompt": said, "name": said})
        case "error":
            host.api_error(reason=said)
        case "approval":
            host.ask_approval()
            host.approval("once", surface=said, decided_by=said)
            host.approval(said)
        case "subagent":
            child = {"child_session_id": "child", "child_role": said, "child_goal": said}
            parent = {"parent_session_id": host.session_id, "parent_turn_id": host.ids()["turn_id"]}
            host.tracker.on_subagent_start({**parent, **child})
            host.tracker.on_subagent_stop(
                {**parent, **child, "child_summary": said, "child_status": said}
            )
        case "turn":
            host.turn_end(reason=said)
            host.next_turn()


def _converse(home: Path) -> None:
    """The host's own database: content in its messages, personal facts in its sessions."""
    said = f"{CONTENT.text} {KEY}"
    with (
        mock.patch.object(host_state, "CANARY", HOST_ONLY.text),
        host_state.host_database(home) as connection,
    ):
        host_state.add_session(connection, title=said, **_personal())
        host_state.add_message(connection, content=said, **_unread())
        call = {"function": {"name": "terminal", "arguments": json.dumps({"command": said})}}
        host_state.add_message(
            connection,
            role="assistant",
            content=said,
            reasoning=said,
            reasoning_content=said,
            reasoning_details=said,
            tool_calls=json.dumps([call]),
            **_unread(),
        )
        host_state.add_message(
            connection, role="tool", tool_name="terminal", content=said, **_unread()
        )
        # A model that calls a tool which is none: its words stand where names belong.
        names = ("tool_name", "tool_call_id", "finish_reason", "effect_disposition")
        spoken: dict[str, Any] = dict.fromkeys(names, said)
        host_state.add_message(connection, role=said, content=said, **spoken, **_unread())


def _personal() -> dict[str, Any]:
    return {name: HOST_ONLY.text for name in host_state.PERSONAL if name != "title"}


def _unread() -> dict[str, Any]:
    names = ("codex_message_items", "codex_reasoning_items", "platform_message_id", "api_content")
    return dict.fromkeys(names, HOST_ONLY.text)
