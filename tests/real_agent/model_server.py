"""A scripted model provider on loopback: OpenAI's chat completions, streamed or not.

The last user message says what happens: TOOL (one tool call, then a text), TWO_TOOLS (one works,
one fails), NOTES (a skill, a memory, a scheduled job), DANGER (a command that wants approval), LOOP
(a tool call every time), LOGIN (401), BROKEN (500), FLAKY (500 once), DELEGATE (a subagent), SLOW
(sets ``is_waiting``, answers when ``release`` is set), STUCK (slow after a tool call), anything
else a text. Every request body is
kept in ``requests``.

Source: OpenAI API reference, chat completions and their streaming chunks.
"""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Message = dict[str, object]
USAGE = {
    "prompt_tokens": 900,
    "completion_tokens": 40,
    "total_tokens": 940,
    "prompt_tokens_details": {"cached_tokens": 300},
    "completion_tokens_details": {"reasoning_tokens": 7},
}
NOTE_SECRET = "canary-note-60217"  # what is remembered, scheduled and written into a skill
TOOL_SECRET = "ghp_0123456789abcdefghijABCDEFGHIJ012345"  # made up; must never reach a console


@dataclass(slots=True)
class ModelServer:
    """The running server: its address, what it was asked, and the brake of SLOW."""

    port: int = 0
    requests: list[dict[str, object]] = field(default_factory=list)
    release: threading.Event = field(default_factory=threading.Event)
    is_waiting: threading.Event = field(default_factory=threading.Event)
    seen: frozenset[str] = frozenset()

    @property
    def base_url(self) -> str:
        """What goes into the provider's ``base_url``."""
        return f"http://127.0.0.1:{self.port}/v1"

    def is_first(self, word: str) -> bool:
        """Whether a word is asked for the first time."""
        is_new, self.seen = word not in self.seen, self.seen | {word}
        return is_new

    def models_asked(self) -> list[object]:
        """The model of each request, in order."""
        return [request.get("model") for request in self.requests]


@contextmanager
def serve_model() -> Iterator[ModelServer]:
    """Run the server until the block ends."""
    state = ModelServer()
    handler = type("Handler", (_Handler,), {"state": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    state.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, name="model-server", daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.release.set()
        server.shutdown()
        server.server_close()
        thread.join(5)


_ids = itertools.count()


def _tool_call(tool: str, /, **arguments: str) -> dict[str, object]:
    function = {"name": tool, "arguments": json.dumps(arguments)}
    return {"id": f"call_{next(_ids):08d}", "type": "function", "function": function}


def _text(content: object) -> str:
    if isinstance(content, list):
        return " ".join(part.get("text", "") for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _script(messages: list[Message]) -> tuple[str, list[dict[str, object]]]:
    """The next answer: a text, or tool calls."""
    asked = max((n for n, m in enumerate(messages) if m.get("role") == "user"), default=-1)
    wish = _text(messages[asked].get("content")) if asked >= 0 else ""
    if "LOOP" in wish:
        return "", [_tool_call("terminal", command="echo again")]
    if any(message.get("role") == "tool" for message in messages[asked + 1 :]):
        return "All done.", []
    if "TWO_TOOLS" in wish:
        return "", [
            _tool_call("terminal", command="echo works"),
            _tool_call("read_file", path="/nonexistent/missing.txt"),
        ]
    if "NOTES" in wish:
        skill = f"---\nname: notes\ndescription: {NOTE_SECRET}\n---\n\n# Notes\n\n{NOTE_SECRET}\n"
        return "", [
            _tool_call("skill_manage", action="create", name="notes", content=skill),
            _tool_call("skill_view", name="notes"),
            _tool_call("skill_view", name=f"no such skill {NOTE_SECRET}"),
            _tool_call("memory", action="add", target="user", content=NOTE_SECRET),
            _tool_call("cronjob", action="create", schedule="every 2h", prompt=NOTE_SECRET),
        ]
    if "DANGER" in wish:
        return "", [_tool_call("terminal", command="rm -rf ./scratch_danger")]
    if "DELEGATE" in wish:
        return "", [_tool_call("delegate_task", goal="child goal TOOL", context="none")]
    if "TOOL" in wish:
        return "", [_tool_call("terminal", command=f"echo {TOOL_SECRET}")]
    return "Hello.", []


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: ModelServer

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base's name
        pass

    def do_GET(self) -> None:  # the base's name
        model = {"id": "scripted", "object": "model", "context_length": 200_000}
        self._answer(200, {"object": "list", "data": [model]})

    def do_POST(self) -> None:  # the base's name
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.state.requests.append(body)
        messages: list[Message] = body.get("messages", [])
        wish = " ".join(_text(m.get("content")) for m in messages if m.get("role") == "user")
        if "LOGIN" in wish:
            error = {"message": "Incorrect API key", "type": "invalid_request_error"}
            self._answer(401, {"error": {**error, "code": "invalid_api_key"}})
            return
        if "BROKEN" in wish or ("FLAKY" in wish and self.state.is_first("FLAKY")):
            self._answer(500, {"error": {"message": "exploded", "type": "server_error"}})
            return
        has_result = any(message.get("role") == "tool" for message in messages)
        if "SLOW" in wish or ("STUCK" in wish and has_result):
            self.state.is_waiting.set()
            self.state.release.wait(60)
        text, calls = _script(messages)
        if body.get("stream"):
            self._stream(str(body.get("model")), text, calls)
        else:
            self._complete(str(body.get("model")), text, calls)

    def _answer(self, status: int, data: object) -> None:
        body = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _complete(self, model: str, text: str, calls: list[dict[str, object]]) -> None:
        message: Message = {"role": "assistant", "content": text or None}
        if calls:
            message["tool_calls"] = calls
        reason = "tool_calls" if calls else "stop"
        choice = {"index": 0, "message": message, "finish_reason": reason}
        answer = {"id": "c", "object": "chat.completion", "created": 1, "model": model}
        self._answer(200, {**answer, "choices": [choice], "usage": USAGE})

    def _stream(self, model: str, text: str, calls: list[dict[str, object]]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        base = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": model}
        deltas: list[tuple[Message, str | None]] = [({"role": "assistant", "content": text}, None)]
        deltas += [({"tool_calls": [{"index": n, **c}]}, None) for n, c in enumerate(calls)]
        deltas.append(({}, "tool_calls" if calls else "stop"))
        for delta, reason in deltas:
            choice = {"index": 0, "delta": delta, "finish_reason": reason}
            self._event({**base, "choices": [choice]})
        self._event({**base, "choices": [], "usage": USAGE})
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def _event(self, data: object) -> None:
        self.wfile.write(b"data: " + json.dumps(data).encode() + b"\n\n")
        self.wfile.flush()
