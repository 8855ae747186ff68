"""The host adapter, against the host's boundary: a context object and its config module."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent_client import emitter as emitter_module
from agent_client import plugin, pusher, recording
from agent_client.config import usable_value
from agent_client.otlp import streamer
from tests.agent_client.accounts import host_accounts, usage
from tests.agent_client.builders import query
from tests.agent_client.homes import enrolled, record
from tests.agent_client.hooks import SESSION, Host
from tests.agent_client.loopback_console import LoopbackConsole
from tests.agent_client.otlp_homes import configure
from tests.agent_client.otlp_receiver import OtlpReceiver

ROOT = Path(__file__).parents[2]
Hooks = list[tuple[str, Callable[..., None]]]


def eventually(holds: Callable[[], bool]) -> bool:
    """Whether something comes true within ten seconds."""
    deadline = time.monotonic() + 10
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.01)
    return holds()


class Context:
    """The part of the host's PluginContext that we use."""

    def __init__(self) -> None:
        self.hooks: Hooks = []
        self.commands: list[str] = []
        self.profile_name = "default"

    def register_hook(self, hook_name: str, callback: Callable[..., None]) -> None:
        self.hooks.append((hook_name, callback))

    def register_cli_command(self, name: str, *rest: object, **more: object) -> None:
        self.commands.append(name)

    def fire(self, hook: str, **kw: object) -> list[object]:
        return [callback(**kw) for name, callback in self.hooks if name == hook]


@pytest.fixture
def telemetry_section() -> dict[str, object]:
    return {}


@pytest.fixture
def home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, telemetry_section: dict[str, object]
) -> Iterator[Path]:
    """A process of the host with this HERMES_HOME, in which nothing is registered yet."""
    package = types.ModuleType("hermes_cli")
    package.__version__ = "0.19.0"  # type: ignore[attr-defined]  # a module made here
    config = types.ModuleType("hermes_cli.config")
    config.load_config = lambda: {"telemetry": telemetry_section}  # type: ignore[attr-defined]  # as above
    constants = types.ModuleType("hermes_constants")
    constants.get_hermes_home = lambda: str(tmp_path)  # type: ignore[attr-defined]  # as above
    for module in (package, config, constants):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(plugin, "_emitter", None)
    monkeypatch.setattr(plugin, "_tracker", None)
    monkeypatch.setattr(plugin, "_pushing_pid", 0)
    monkeypatch.setattr(plugin, "_streamer", None)
    monkeypatch.setattr(plugin, "PUSH_AFTER_S", 3600.0)
    yield tmp_path
    if plugin._streamer is not None:
        assert plugin._streamer.stop()
    if plugin._emitter is not None:
        plugin._emitter.close()
    emitter_module.set_emitter(None)


def test_only_the_named_hooks_are_subscribed_to(home: Path) -> None:
    context = Context()
    plugin.register(context)
    names = [name for name, _ in context.hooks]
    assert sorted(names) == sorted(plugin.HOOKS)
    makes_the_host_work = [name for name in names if name.startswith(("pre_", "transform_"))]
    assert makes_the_host_work == ["pre_approval_request"]  # which the host builds in any case
    assert context.commands == ["telemetry"]


def test_registering_again_keeps_one_recorder(home: Path) -> None:
    first, again = Context(), Context()
    plugin.register(first)
    plugin._start(home)
    recorder = plugin._emitter
    plugin.register(again)
    assert plugin._emitter is recorder
    assert emitter_module.get_emitter() is recorder
    first.fire("on_session_start", session_id=SESSION, platform="cli")
    again.fire("on_session_start", session_id=SESSION, platform="cli")
    assert recorder is not None
    assert recorder.flush()
    assert query(home, "SELECT session_id, profile_id, agent_version FROM tel_runs") == [
        (SESSION, "default", "0.19.0")
    ]


def test_a_process_that_lives_on_pushes_by_itself(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugin, "PUSH_AFTER_S", 0.0)
    monkeypatch.setattr(pusher, "CHANCE", lambda: 0.0)
    with LoopbackConsole() as console:
        enrolled(home, console)
        record(home)
        context = Context()
        plugin.register(context)
        context.fire("on_session_start", session_id=SESSION, platform="cli")
        assert eventually(lambda: len(console.rows) >= 3)
        assert plugin._pusher is not None
        assert plugin._pusher.stop()


def test_a_process_that_lives_on_streams_to_its_collector(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugin, "PUSH_AFTER_S", 0.0)
    monkeypatch.setattr(streamer, "GATHER_S", 0.0)
    with OtlpReceiver() as receiver:
        configure(home, receiver.url)
        record(home)
        context = Context()
        plugin.register(context)
        context.fire("on_session_start", session_id=SESSION, platform="cli")
        assert eventually(lambda: len(receiver.spans) >= 3)
        assert plugin._pusher is not None
        assert plugin._pusher.stop()


def test_without_the_extra_nothing_streams(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent_client.otlp.encode.find_spec", lambda _name: None)
    plugin.register(Context())
    plugin._stream_otlp(home)
    assert plugin._streamer is None


def test_a_process_starts_one_push_thread(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Path] = []
    monkeypatch.setattr(plugin, "_push_later", started.append)
    context = Context()
    plugin.register(context)
    for _ in range(3):
        context.fire("on_session_start", session_id=SESSION, platform="cli")
    assert eventually(lambda: started == [home])


@pytest.mark.parametrize("hook", plugin.HOOKS)
def test_a_callback_returns_none_whatever_it_is_called_with(home: Path, hook: str) -> None:
    context = Context()
    plugin.register(context)
    for kw in ({}, {"session_id": object()}, {"of_tomorrow": 1}, {"session_id": [1], "usage": 7}):
        assert context.fire(hook, **kw) == [None]


def test_a_callback_that_fails_stays_with_us(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("mine")

    monkeypatch.setattr("agent_client.runs.RunTracker.on_session_start", broken)
    context = Context()
    plugin.register(context)
    assert context.fire("on_session_start", session_id=SESSION) == [None]


def test_a_session_through_the_hooks_is_one_run_with_its_calls(home: Path) -> None:
    context, host = Context(), Host()
    plugin.register(context)
    host.tracker = plugin._start(plugin._home())
    host.session_start()
    host.full_turn()
    host.finalize()
    assert plugin._emitter is not None
    assert plugin._emitter.flush()
    assert query(home, "SELECT end_reason, model_call_count, tool_call_count FROM tel_runs") == [
        ("completed", 2, 1)
    ]


@pytest.mark.parametrize("value", [False, "false"])
def test_with_telemetry_local_off_there_is_no_hook_and_no_file(
    home: Path, telemetry_section: dict[str, object], value: object
) -> None:
    telemetry_section["local"] = value
    context = Context()
    plugin.register(context)
    assert context.hooks == []
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("value", [None, [], "perhaps"])
def test_a_malformed_switch_reads_as_on(
    home: Path, telemetry_section: dict[str, object], value: object
) -> None:
    telemetry_section["local"] = value
    context = Context()
    plugin.register(context)
    assert len(context.hooks) == len(plugin.HOOKS)


def test_a_malformed_section_reads_as_on(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["hermes_cli.config"], "load_config", lambda: {"telemetry": 7})
    context = Context()
    plugin.register(context)
    assert context.hooks != []


def test_a_host_whose_config_cannot_be_read_is_recorded(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise RuntimeError("bad YAML")

    monkeypatch.setattr(sys.modules["hermes_cli.config"], "load_config", broken)
    context = Context()
    plugin.register(context)
    assert context.hooks != []


def test_without_the_hosts_constants_the_home_is_the_environments(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "hermes_constants", None)
    monkeypatch.setenv("HERMES_HOME", str(home / "other"))
    assert plugin._home() == home / "other"


def test_a_host_without_commands_is_recorded_all_the_same(home: Path) -> None:
    class Older(Context):
        def register_cli_command(self, name: str, *rest: object, **more: object) -> None:
            raise AttributeError(name)

    context = Older()
    plugin.register(context)
    assert context.hooks != []


def test_registering_never_raises_into_the_host(home: Path) -> None:
    plugin.register(object())  # type: ignore[arg-type]  # a host of another kind


def test_the_hosts_command_has_our_verbs_and_exit_codes(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HERMES_HOME", str(home))
    monkeypatch.setenv("HERMES_MANAGED_DIR", str(home))
    parser = argparse.ArgumentParser()
    plugin._add_verbs(parser)
    assert plugin._run_verb(parser.parse_args(["status", "--json"])) == 0
    assert capsys.readouterr().out.startswith("{")
    with pytest.raises(SystemExit) as ended:
        plugin._run_verb(parser.parse_args(["push"]))
    assert ended.value.code == 4


PRICED = {"custom/model-a": {"input": 10, "output": 100}}


def played(*, turns: int = 1) -> Host:
    """A session through the registered hooks."""
    context, host = Context(), Host()
    plugin.register(context)
    host.tracker = plugin._start(plugin._home())
    host.session_start()
    for _ in range(turns):
        host.full_turn()
    assert plugin._emitter is not None
    assert plugin._emitter.flush()
    return host


def run_cost(home: Path) -> tuple[object, ...]:
    ((cost_usd, status),) = query(home, "SELECT estimated_cost_usd, cost_status FROM tel_runs")
    return cost_usd, status


def test_a_run_is_priced_at_the_end_of_its_turn_by_the_living_process(home: Path) -> None:
    host_accounts(home, usage(0.25, session_id=SESSION))
    played()
    assert eventually(lambda: run_cost(home) == (0.25, "estimated"))
    assert query(home, "SELECT DISTINCT cost_status, estimated_cost_usd FROM tel_model_calls") == [
        ("unknown", None)
    ]


@pytest.mark.parametrize("telemetry_section", [{"prices": PRICED}])
def test_the_owners_prices_are_those_of_the_hosts_configuration(home: Path) -> None:
    host_accounts(home, usage(7.0, session_id=SESSION, model="model-a", input_tokens=1))
    played(turns=2)
    # 4 calls of 155 tokens in, cached ones among them, and 20 out.
    assert eventually(lambda: run_cost(home) == (4 * (155 * 10 + 20 * 100) / 1e6, "estimated"))


@pytest.mark.parametrize("telemetry_section", [{"prices": {"model-a": "cheap"}}, {"prices": 7}])
def test_prices_that_are_none_price_nothing(home: Path) -> None:
    played()
    assert run_cost(home) == (None, "unknown")


def test_a_fork_waits_for_the_pricing_to_leave_sqlite(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[bool] = []

    def look(*_: object) -> None:
        assert plugin._emitter is not None
        held.append(plugin._emitter.inside_sqlite().locked())

    monkeypatch.setattr("agent_client.recording.reconcile", look)
    played()
    assert eventually(lambda: held == [True])


# ---------------------------------------------------------------------------------- start-up


@pytest.mark.parametrize(
    "value", [True, False, None, "off", " No ", "false", "0", 0, 1, "on", "", "x", [], {}, 0.0]
)
def test_recording_is_on_exactly_when_the_configuration_says_so(value: object) -> None:
    assert plugin._is_on(value) == (usable_value("telemetry.local", value) is True)


def test_registering_loads_no_recorder_and_the_first_hook_does(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "import agent_client.plugin as plugin\n"
        "class Context:\n"
        "    hooks = {}\n"
        "    def register_hook(self, name, callback): self.hooks[name] = callback\n"
        "    def register_cli_command(self, *a): pass\n"
        "context = Context()\n"
        "plugin.register(context)\n"
        "heavy = {f'agent_client.{n}' for n in ('emitter', 'journal', 'runs', 'store')}\n"
        "assert heavy.isdisjoint(sys.modules)\n"
        "context.hooks['on_session_start'](session_id='s', platform='cli')\n"
        "assert 'agent_client.recording' in sys.modules\n"
        "plugin._emitter.flush(); plugin._emitter.close()\n"
    )
    environ = {**os.environ, "HERMES_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environ, check=True, timeout=60)
    assert query(tmp_path, "SELECT count(*) FROM tel_runs") == [(1,)]


def test_hooks_that_come_first_from_many_threads_start_one_recorder(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[object] = []
    start_recording = recording.start_recording

    def count(*args: object, **kw: object) -> object:
        started.append(args)
        return start_recording(*args, **kw)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(recording, "start_recording", count)
    context = Context()
    plugin.register(context)
    together = threading.Barrier(8)

    def first_hook() -> None:
        together.wait(10)
        context.fire("on_session_start", session_id=SESSION, platform="cli")

    threads = [threading.Thread(target=first_hook) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(started) == 1
