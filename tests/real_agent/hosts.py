"""Long-lived hosts of the real agent: the terminal UI's gateway and the API server."""

from __future__ import annotations

import json
import queue
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable

from tests.real_agent.agent import Agent

ANSWER_S = 60
API_KEY = "made-up-0123456789abcdef0123456789abcdef"

Message = dict[str, object]


def one_tui_session(agent: Agent, prompt: str, *, end: str) -> None:
    """One prompt through the TUI's JSON-RPC gateway, ended by ``close``, ``eof`` or ``SIGTERM``."""
    process = subprocess.Popen(
        [agent.venv / "bin" / "python", "-m", "tui_gateway.entry"],
        env=agent.environ(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=agent.home.parent,
    )
    messages: queue.Queue[Message] = queue.Queue()
    reader = threading.Thread(target=_read, args=(process, messages), daemon=True)
    reader.start()
    try:
        _call(process, 1, "session.create", cols=80)
        created = _await(messages, lambda message: message.get("id") == 1)
        result = created["result"]
        assert isinstance(result, dict)
        session = result["session_id"]
        _call(process, 2, "prompt.submit", session_id=session, text=prompt)
        _await(messages, _is_complete)
        if end == "SIGTERM":
            process.send_signal(signal.SIGTERM)
        elif end == "close":
            _call(process, 3, "session.close", session_id=session)
            _await(messages, lambda message: message.get("id") == 3)
        if process.stdin is not None:
            process.stdin.close()
        process.wait(ANSWER_S)
    finally:
        process.kill()
        process.wait()
        reader.join(5)
        if process.stdout is not None:
            process.stdout.close()


def one_api_request(agent: Agent, prompt: str) -> None:
    """One chat completion through ``hermes gateway run``, then SIGTERM while it is idle."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = {
        "API_SERVER_ENABLED": "1",
        "API_SERVER_KEY": API_KEY,
        "API_SERVER_HOST": "127.0.0.1",
        "API_SERVER_PORT": str(port),
    }
    process = subprocess.Popen(
        [agent.venv / "bin" / "hermes", "gateway", "run"],
        env=agent.environ() | server,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=agent.home.parent,
    )
    try:
        _await_server(port, process)
        body = {"model": "scripted", "messages": [{"role": "user", "content": prompt}]}
        answer = _request(port, "/v1/chat/completions", json.dumps(body).encode())
        assert b"All done." in answer
        process.send_signal(signal.SIGTERM)
        process.wait(ANSWER_S)
    finally:
        process.kill()
        process.wait()


def _read(process: subprocess.Popen[str], messages: queue.Queue[Message]) -> None:
    for line in process.stdout or ():
        if line.startswith("{"):
            messages.put(json.loads(line))


def _call(process: subprocess.Popen[str], number: int, method: str, **params: object) -> None:
    assert process.stdin is not None
    request = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
    process.stdin.write(json.dumps(request) + "\n")
    process.stdin.flush()


def _await(messages: queue.Queue[Message], wanted: Callable[[Message], bool]) -> Message:
    while True:
        message = messages.get(timeout=ANSWER_S)
        if wanted(message):
            return message


def _is_complete(message: Message) -> bool:
    params = message.get("params")
    return isinstance(params, dict) and params.get("type") == "message.complete"


def _await_server(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + ANSWER_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            _request(port, "/v1/models")
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError("the API server did not start")


def _request(port: int, path: str, body: bytes | None = None) -> bytes:
    request = urllib.request.Request(  # loopback
        f"http://127.0.0.1:{port}{path}",
        data=body,
        headers={"Authorization": f"Bearer {API_KEY}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:  # loopback
        data: bytes = answer.read()
    return data
