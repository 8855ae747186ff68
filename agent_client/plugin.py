"""The host adapter: ``register(ctx)`` connects hermes-agent's hooks to the recorder.

The only module that imports the host, which loads it for every command; it loads the recorder with
the first hook. Callbacks take ``**kw``, return None and
never raise. ``pre_*`` hooks make the host build payloads that we have no use for and are not
subscribed to. The one exception costs the host nothing: it builds ``pre_approval_request`` whether
anybody listens or not, and nothing else tells when a person was asked.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from agent_client.guard import never_raise, note_fault

if TYPE_CHECKING:
    from agent_client.emitter import Emitter
    from agent_client.otlp.streamer import Streamer
    from agent_client.pusher import BackgroundPusher
    from agent_client.runs import RunTracker

HOOKS: Final[dict[str, str]] = {
    "on_session_start": "on_session_start",
    "on_session_end": "on_session_end",
    "on_session_finalize": "on_session_finalize",
    "post_api_request": "post_api_request",
    "api_request_error": "api_request_error",
    "post_tool_call": "post_tool_call",
    "pre_approval_request": "pre_approval_request",
    "post_approval_response": "post_approval_response",
    "subagent_start": "on_subagent_start",
    "subagent_stop": "on_subagent_stop",
}
"""Hook of the host to method of RunTracker; by name, as the recorder is loaded with the first."""

PUSH_AFTER_S: Final = 10.0
"""Most short sessions are over by then, and their process never loads the network side."""

_FALSE_WORDS: Final = frozenset({"false", "no", "off", "0"})

Callback = Callable[..., None]


class HostContext(Protocol):
    """What we use of the host's ``PluginContext``."""

    def register_hook(self, hook_name: str, callback: Callback) -> None:
        """Subscribe to a hook."""

    def register_cli_command(
        self,
        name: str,
        help: str,  # noqa: A002  # the host's own parameter name
        setup_fn: Callable[[argparse.ArgumentParser], None],
        handler_fn: Callable[[argparse.Namespace], int],
        description: str = "",
    ) -> None:
        """Add ``hermes <name>``."""


_context: HostContext | None = None
_starting: dict[int, threading.Lock] = {}
_emitter: Emitter | None = None
_tracker: RunTracker | None = None
_pushing_pid = 0
_pusher: BackgroundPusher | None = None
_streamer: Streamer | None = None


@never_raise("plugin.register")
def register(ctx: HostContext) -> None:
    """Entry point of the host. Safe to call again: the host does when it re-reads its plugins."""
    global _context  # noqa: PLW0603  # register() may be called again
    if _is_on(_telemetry_section().get("local")):
        home = _home()
        _context = ctx
        for hook, method in HOOKS.items():
            ctx.register_hook(hook, _callback(hook, method, home))
    # Last: a host that knows no commands is recorded all the same.
    ctx.register_cli_command(
        "telemetry",
        "See, export and send what this agent has recorded",
        _add_verbs,
        _run_verb,
        "The local telemetry plane: status, insights, export, enroll, push, policy, doctor.",
    )


def _callback(hook: str, method: str, home: Path) -> Callback:
    @never_raise(f"hook.{hook}")
    def callback(**kw: object) -> None:
        getattr(_tracker or _start(home), method)(kw)
        if _pushing_pid != os.getpid():
            _push_in_background(home)

    return callback


def _start(home: Path) -> RunTracker:
    """The process's recorder; hooks may come first from several threads at once."""
    global _emitter, _tracker  # noqa: PLW0603  # one a process
    from agent_client.recording import start_recording

    # A lock a process: a child forked while another thread held this one would wait for ever.
    with _starting.setdefault(os.getpid(), threading.Lock()):
        if _tracker is None:
            profile = getattr(_context, "profile_name", None)
            emitter, tracker = start_recording(
                home,
                profile_id=profile if isinstance(profile, str) else None,
                agent_version=_host_version(),
                prices=_telemetry_section().get("prices"),
            )
            _emitter = emitter
            _tracker = tracker  # last: who sees it need not take the lock
        return _tracker


def _push_in_background(home: Path) -> None:
    """With the first hook of a process, a forked one too: a daemon that pushes if it lives on."""
    global _pushing_pid  # noqa: PLW0603  # one thread a process
    _pushing_pid = os.getpid()
    threading.Thread(
        target=_push_later, args=(home,), name="hermes-telemetry-push-later", daemon=True
    ).start()


@never_raise("plugin.push")
def _push_later(home: Path) -> None:
    global _pusher  # noqa: PLW0603  # one a process
    time.sleep(PUSH_AFTER_S)
    from agent_client.pusher import BackgroundPusher

    _pusher = BackgroundPusher(home)
    _pusher.start()
    _stream_otlp(home)


@never_raise("plugin.otlp")
def _stream_otlp(home: Path) -> None:
    """Hear of durable batches, where there is something to encode them with."""
    global _streamer  # noqa: PLW0603  # one a process; a forked child's goes on by itself
    from agent_client.otlp.encode import is_installed

    if _streamer is None and _emitter is not None and is_installed():
        from agent_client.otlp.streamer import start_streamer

        _streamer = start_streamer(home, _emitter)


def _telemetry_section() -> Mapping[str, object]:
    """Our section as the host resolves it, managed scope included; empty when unreadable."""
    try:
        from hermes_cli.config import load_config  # type: ignore[import-not-found]  # the host's

        section = load_config().get("telemetry")
    except Exception as error:  # noqa: BLE001  # whatever the host raises, recording stays on
        note_fault("plugin.config", error)
        return {}
    return section if isinstance(section, Mapping) else {}


def _is_on(local: object) -> bool:
    """``config.usable_value("telemetry.local", …)`` without loading it; a test holds them alike."""
    return str(local).strip().lower() not in _FALSE_WORDS


def _home() -> Path:
    try:
        from hermes_constants import get_hermes_home  # type: ignore[import-not-found]  # the host's

        return Path(get_hermes_home())
    except ImportError:
        from agent_client.config import resolve_home

        return resolve_home()


def _host_version() -> str | None:
    version = getattr(sys.modules.get("hermes_cli"), "__version__", None)
    return version if isinstance(version, str) else None


def _add_verbs(parser: argparse.ArgumentParser) -> None:
    from agent_client.cli import add_verbs

    add_verbs(parser)


def _run_verb(args: argparse.Namespace) -> int:
    from agent_client.cli import run

    code = run(args)
    # The host ignores a handler's return value; scripts need the documented exit code.
    if code:
        sys.exit(code)
    return code
