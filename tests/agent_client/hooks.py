"""Hook payloads as hermes-agent 0.19.0 was observed to send them, and a host to send them in.

Content fields are filled: a test can see that none of it is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any, TypeVar

from agent_client.contract.events import ErrorEvent, Event, ModelCallEvent, RunEvent, ToolCallEvent
from agent_client.runs import RunTracker
from tests.agent_client.builders import SECOND_NS, START_NS

# Hook payloads hold the host's objects of any type.
Payload = dict[str, Any]
Kind = TypeVar("Kind")
SECRET = "CANARY-of-content"
SESSION = "20261122_094510_ab12cd"


class Host:
    """One process of the host: its hooks, with a clock that moves a second a call."""

    def __init__(self, session_id: str = SESSION, platform: str = "cli") -> None:
        self.session_id = session_id
        self.platform = platform
        self.turn = 0
        self.calls = 0
        self.events: list[Event] = []
        self._ticks: Iterator[int] = count(START_NS, SECOND_NS)
        self.now_ns = START_NS
        self.tracker = RunTracker(
            self.events.append, profile_id="default", agent_version="0.19.0", clock_ns=self.tick
        )

    def tick(self) -> int:
        self.now_ns = next(self._ticks)
        return self.now_ns

    # -- what was emitted ---------------------------------------------------------------------

    def runs(self) -> list[RunEvent]:
        """The last row of each run, in the order the runs began."""
        rows = {event.run_id: event for event in self.events if isinstance(event, RunEvent)}
        return list(rows.values())

    def run(self) -> RunEvent:
        (only,) = self.runs()
        return only

    def model_calls(self) -> list[ModelCallEvent]:
        return [event for event in self.events if isinstance(event, ModelCallEvent)]

    def tool_calls(self) -> list[ToolCallEvent]:
        return [event for event in self.events if isinstance(event, ToolCallEvent)]

    def errors(self) -> list[ErrorEvent]:
        return [event for event in self.events if isinstance(event, ErrorEvent)]

    def of(self, kind: type[Kind]) -> list[Kind]:
        """The events of one kind, in the order they were emitted."""
        return [event for event in self.events if isinstance(event, kind)]

    # -- what the host does ---------------------------------------------------------------------

    def ids(self) -> Payload:
        return {
            "session_id": self.session_id,
            "task_id": "task",
            "turn_id": f"{self.session_id}:task:{self.turn}",
            "platform": self.platform,
            "telemetry_schema_version": "hermes.observer.v1",
        }

    def session_start(self) -> None:
        self.tracker.on_session_start(
            {"session_id": self.session_id, "model": "m", "platform": self.platform}
        )

    def next_turn(self) -> None:
        self.turn += 1

    def request_id(self) -> str:
        return f"{self.ids()['turn_id']}:api:{self.calls}"

    def answer(self, *, tools: int = 0, **changes: Any) -> None:  # noqa: ANN401  # as Payload
        self.tracker.post_api_request({**self.request(), **self.reply(tools), **changes})
        self.calls += 1

    def request(self) -> Payload:
        ended_ns = self.tick()
        return {
            **self.ids(),
            "api_request_id": self.request_id(),
            "model": "model-a",
            "provider": "custom",
            "base_url": "https://user:pw@llm.example:8443/v1?key=1",
            "api_mode": "chat",
            "api_call_count": self.calls,
            "api_duration": 0.5,
            "started_at": (ended_ns - SECOND_NS // 2) / 1e9,
            "ended_at": ended_ns / 1e9,
        }

    def reply(self, tools: int) -> Payload:
        return {
            "finish_reason": "tool_calls" if tools else "stop",
            "message_count": 2,
            "response_model": "model-a-2026",
            "response": {"content": SECRET},
            "usage": {
                "input_tokens": 100,
                "output_tokens": 20,
                "cache_read_tokens": 50,
                "cache_write_tokens": 5,
                "reasoning_tokens": 3,
                "prompt_tokens": 150,
            },
            "assistant_message": object(),
            "assistant_content_chars": 5,
            "assistant_tool_call_count": tools,
        }

    def api_error(self, attempt: int = 0, **changes: Any) -> None:  # noqa: ANN401  # as Payload
        failure: Payload = {
            "status_code": 500,
            "retry_count": attempt,
            "max_retries": 3,
            "retryable": True,
            "reason": "server_error",
            "error": {"type": "InternalServerError", "message": SECRET},
            "request": {"messages": [SECRET]},
        }
        self.tracker.api_request_error({**self.request(), **failure, **changes})

    def login_failure(self) -> None:
        self.api_error(status_code=401, retryable=False, reason="auth")

    def tool(self, call_id: str = "call_1", **changes: Any) -> None:  # noqa: ANN401  # as Payload
        outcome: Payload = {
            "tool_name": "terminal",
            "args": {"command": SECRET},
            "result": f'{{"output": "{SECRET}"}}',
            "tool_call_id": call_id,
            "duration_ms": 40,
            "status": "ok",
            "error_type": None,
            "error_message": None,
            "middleware_trace": [],
        }
        ids = {name: value for name, value in self.ids().items() if name != "platform"}
        self.tracker.post_tool_call({**ids, **outcome, **changes})

    def denied_tool(self, call_id: str = "call_1") -> None:
        self.tool(call_id, status="error", error_type="tool_error", result='{"status": "blocked"}')

    def ask_approval(self, **changes: Any) -> None:  # noqa: ANN401  # as Payload
        self.tracker.pre_approval_request({**self.asked(), **changes})

    def asked(self) -> Payload:
        return {
            "command": SECRET,
            "description": SECRET,
            "pattern_key": SECRET,
            "pattern_keys": [SECRET],
            "session_key": "default",
            "surface": "cli",
            "turn_id": self.ids()["turn_id"],
            "tool_call_id": "call_1",
        }

    def approval(self, choice: str, **changes: Any) -> None:  # noqa: ANN401  # as Payload
        self.tracker.post_approval_response({**self.asked(), "choice": choice, **changes})

    def turn_end(self, *, completed: bool = True, interrupted: bool = False, **more: Any) -> None:  # noqa: ANN401  # as Payload
        ending = {"completed": completed, "interrupted": interrupted, "model": "m"}
        self.tracker.on_session_end({**self.ids(), **ending, **more})

    def false_end(self) -> None:
        """The TUI's second one."""
        self.tracker.on_session_end(
            {
                "session_id": self.session_id,
                "completed": False,
                "interrupted": True,
                "model": "m",
                "platform": self.platform,
            }
        )

    def finalize(self, **changes: Any) -> None:  # noqa: ANN401  # as Payload
        ending = {"session_id": self.session_id, "platform": self.platform, "reason": "shutdown"}
        self.tracker.on_session_finalize({**ending, **changes})

    def full_turn(self) -> None:
        """A turn with one tool call, as every successful one looks."""
        self.next_turn()
        self.answer(tools=1)
        self.tool()
        self.answer()
        self.turn_end()
