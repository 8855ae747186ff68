"""The host: its configuration, its managed scope, and whether it loads the plugin."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from agent_client.doctor.check import Check, Level, Subject
from agent_client.policy.posture import resolve

PLUGIN: Final = "telemetry"


def check_configuration(subject: Subject) -> Iterator[Check]:
    """The configuration is read, and recording is on."""
    for problem in subject.settings.problems:
        if problem.code.startswith("managed"):
            continue
        level: Level = "warn" if problem.code == "bad_value" else "fail"
        hint = "Mend the file, or set the key again with 'hermes config set'."
        if problem.code == "credential_unreadable":
            hint = "Check who owns the file; else enroll again with --force."
        yield Check("configuration", level, f"{problem.subject}: {problem.detail}", hint)
    if not any(not p.code.startswith("managed") for p in subject.settings.problems):
        yield Check("configuration", "ok", "config.yaml is read without a problem")
    if not resolve(subject.settings).local_enabled:
        source = subject.settings.source("telemetry.local")
        hint = "" if source == "managed" else "hermes config set telemetry.local true"
        yield Check("recording", "warn", f"telemetry.local is off ({source})", hint)


def check_managed_scope(subject: Subject) -> Iterator[Check]:
    """Pins can be read by everybody's agent and written by their owner alone."""
    name = "managed scope"
    for problem in subject.settings.problems:
        if problem.code == "managed_dir_missing":
            hint = "Unset HERMES_MANAGED_DIR, or make the directory: no policy is in force."
            yield Check(name, "fail", f"{problem.subject}: {problem.detail}", hint)
        elif problem.code.startswith("managed"):
            hint = "As root: hermes-telemetry policy sync (sets a malformed file aside), or chmod."
            yield Check(name, "fail", f"{problem.subject}: {problem.detail}", hint)
    folder = subject.settings.managed_dir
    if folder is None:
        if not subject.settings.environ.get("HERMES_MANAGED_DIR", "").strip():
            yield Check(name, "ok", "none on this machine")
        return
    try:
        mode = folder.stat().st_mode
    except OSError as error:
        yield Check(name, "fail", f"{folder}: {error.strerror}", "Check the directory.")
        return
    if mode & 0o022:
        hint = f"chmod go-w {folder}"
        yield Check(name, "fail", f"{folder} can be written by others: pins can be replaced", hint)
    elif mode & 0o005 != 0o005:
        finding = f"{folder} is closed to other users: their agents see no pins, without a word"
        yield Check(name, "fail", finding, f"chmod 0755 {folder}")
    else:
        yield Check(name, "ok", str(folder))


def check_plugin(subject: Subject) -> Iterator[Check]:
    """The host will load the plugin, and finds it."""
    enabled = subject.settings.get("plugins.enabled")
    disabled = subject.settings.get("plugins.disabled")
    if isinstance(disabled, list) and PLUGIN in disabled:
        hint = f"hermes plugins enable {PLUGIN}"
        yield Check("plugin", "fail", "it is in plugins.disabled, which always wins", hint)
    elif not isinstance(enabled, list) or PLUGIN not in enabled:
        hint = f"hermes plugins enable {PLUGIN}   (takes effect in the next session)"
        yield Check("plugin", "fail", "it is not in plugins.enabled: nothing is recorded", hint)
    else:
        yield Check("plugin", "ok", "enabled in plugins.enabled")
    if subject.settings.environ.get("HERMES_SAFE_MODE", "").strip():
        yield Check("plugin", "warn", "HERMES_SAFE_MODE is set: the host loads no plugins")
    from importlib.metadata import PackageNotFoundError, entry_points, version

    try:
        host = version("hermes-agent")
    except PackageNotFoundError:
        hint = "Install this plugin where hermes-agent is; without it nothing is recorded."
        yield Check("host", "warn", "hermes-agent is not in this Python environment", hint)
        return
    names = {point.name for point in entry_points(group="hermes_agent.plugins")}
    if PLUGIN in names:
        yield Check("host", "ok", f"hermes-agent {host}; it finds the plugin")
    else:
        hint = "pip install hermes-fleet-agent into the environment of hermes-agent."
        yield Check("host", "fail", f"hermes-agent {host} does not find the plugin", hint)
