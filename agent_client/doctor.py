"""Checks of one home: each finding has a level, and a way to mend it. Nothing is changed.

``fail`` means that something the user asked for does not work; ``warn`` that it may surprise.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from agent_client import config, health
from agent_client.contract.dsse import MAX_ENVELOPE_BYTES
from agent_client.contract.wire import PATH_DISCOVERY, PATH_POLICY_ASSIGNMENT, PATH_POLICY_ROOT
from agent_client.credential import Credential, credential_path, load_credential
from agent_client.files import telemetry_dir
from agent_client.http import ApiError, ClientError, Transport, connect_to
from agent_client.policy.posture import resolve
from agent_client.policy.state import load_state
from agent_client.policy.verify import Refusal, verify_first_root
from agent_client.policy.view import view_policy

Level = Literal["ok", "warn", "fail"]
MAX_SKEW_S: Final = 300
"""Beyond it policies are refused and rows land in the wrong hour."""
PLUGIN: Final = "telemetry"


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. ``hint`` is "" when there is nothing to do."""

    name: str
    level: Level
    finding: str
    hint: str = ""

    def to_dict(self) -> dict[str, str]:
        """For ``--json``."""
        return {
            "name": self.name,
            "level": self.level,
            "finding": self.finding,
            "hint": self.hint,
        }


@dataclass(frozen=True, slots=True)
class _Subject:
    home: Path
    settings: config.ClientConfig
    credential: Credential | None


def examine(
    home: Path | None = None, *, offline: bool = False, transport: Transport | None = None
) -> list[Check]:
    """All checks of a home, in the order in which one would mend them. Never raises."""
    settings = config.load(home)
    subject = _Subject(settings.home, settings, load_credential(settings.home))
    local: tuple[Callable[[_Subject], Iterator[Check]], ...] = (
        _home,
        _configuration,
        _managed_scope,
        _plugin,
        _permissions,
        _store,
        _policy,
    )
    found = [check for examine_one in local for check in examine_one(subject)]
    found.extend(_enrollment(subject, offline=offline, transport=transport))
    return found


def _home(subject: _Subject) -> Iterator[Check]:
    home = subject.home
    if not home.is_dir():
        hint = "Install and start the agent once, or name its home with --home or HERMES_HOME."
        yield Check("home", "fail", f"{home} is not there", hint)
    elif not os.access(home, os.W_OK):
        yield Check("home", "fail", f"{home} cannot be written by this user", "Check its owner.")
    else:
        yield Check("home", "ok", str(home))


def _configuration(subject: _Subject) -> Iterator[Check]:
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


def _managed_scope(subject: _Subject) -> Iterator[Check]:
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


def _plugin(subject: _Subject) -> Iterator[Check]:
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
        yield Check("host", "warn", "hermes-agent is not in this Python environment")
        return
    names = {point.name for point in entry_points(group="hermes_agent.plugins")}
    if PLUGIN in names:
        yield Check("host", "ok", f"hermes-agent {host}; it finds the plugin")
    else:
        hint = "pip install hermes-fleet-agent into the environment of hermes-agent."
        yield Check("host", "fail", f"hermes-agent {host} does not find the plugin", hint)


def _permissions(subject: _Subject) -> Iterator[Check]:
    folder = telemetry_dir(subject.home)
    if not folder.exists():
        return
    wrong = []
    for path in (folder, credential_path(subject.home), folder / "telemetry.db"):
        try:
            mode = path.stat().st_mode & 0o777
        except OSError:
            continue
        if mode & 0o077:
            wrong.append(f"{path.name} {mode:04o}")
    if wrong:
        hint = f"chmod -R go-rwx {folder}"
        yield Check("permissions", "fail", "open to other users: " + ", ".join(wrong), hint)
    elif not os.access(folder, os.W_OK):
        yield Check("permissions", "fail", f"{folder} cannot be written", "Check its owner.")
    else:
        yield Check("permissions", "ok", "files are private")


def _store(subject: _Subject) -> Iterator[Check]:
    from agent_client.store import Store, StoreError, database_path

    sizes = health.snapshot(subject.home)
    if sizes.dead_spools:
        hint = "Run 'hermes-telemetry status': it takes in what ended processes left."
        yield Check("spool", "warn", f"{sizes.dead_spools} left by ended processes", hint)
    if not database_path(subject.home).exists():
        yield Check("database", "ok", "nothing recorded yet")
        return
    try:
        with Store(subject.home) as store:
            answer = str(store.connection.execute("PRAGMA quick_check(1)").fetchone()[0])
            losses = health.losses(store)
    except (StoreError, sqlite3.Error) as error:
        hint = "hermes-telemetry rebuild makes it again from the event log."
        yield Check("database", "fail", str(error), hint)
        return
    if answer != "ok":
        hint = "hermes-telemetry rebuild makes it again from the event log."
        yield Check("database", "fail", "it is damaged", hint)
    else:
        yield Check("database", "ok", "whole")
    if losses:
        text = ", ".join(f"{reason} {count}" for reason, count in losses.items())
        yield Check("losses", "warn", f"events lost and not yet reported: {text}")


def _policy(subject: _Subject) -> Iterator[Check]:
    view = view_policy(subject.home)
    if view.state == "none":
        return
    if view.state in {"in_sync", "offline", "pending"}:
        yield Check("policy", "ok", f"revision {view.bundle_version}, {view.state}")
        return
    level: Level = "warn" if view.state == "stale" else "fail"
    reason = f" ({view.reason})" if view.reason else ""
    hint = "Run 'hermes-telemetry policy sync' as the user that owns managed scope (root)."
    yield Check("policy", level, f"revision {view.bundle_version}, {view.state}{reason}", hint)


def _enrollment(
    subject: _Subject, *, offline: bool, transport: Transport | None
) -> Iterator[Check]:
    credential = subject.credential
    if credential is None:
        yield Check("console", "ok", "not enrolled: nothing leaves this machine")
        return
    posture = resolve(subject.settings)
    if posture.install_id != credential.install_id:
        hint = "hermes-telemetry enroll --force URL -"
        yield Check("console", "fail", "the install id has changed since enrollment", hint)
    if not posture.console_enabled:
        source = subject.settings.source("telemetry.export.console.enabled")
        yield Check("console", "warn", f"pushing is switched off ({source})")
    if offline:
        yield Check("console", "ok", f"{credential.console_url} (not asked: --offline)")
        return
    try:
        client = transport or connect_to(
            posture.console_endpoint or credential.console_url,
            allow_plain_http=credential.allow_plain_http,
        )
        found = client.request("GET", PATH_DISCOVERY).json()
    except ClientError as error:
        hint = "Check the network, the proxy and the address; recording goes on meanwhile."
        yield Check("console", "fail", f"{credential.console_url}: {error}", hint)
        return
    yield Check("console", "ok", f"{credential.console_url} answers")
    yield from _clock(subject, found.get("server_time_ns"))
    yield from _trust(client, credential)


def _clock(subject: _Subject, server_time_ns: object) -> Iterator[Check]:
    if not isinstance(server_time_ns, int):
        return
    skew_s = (time.time_ns() - server_time_ns) / 1e9
    behind = load_state(subject.home).trust.last_issued_ns - time.time_ns()
    if abs(skew_s) > MAX_SKEW_S or behind > MAX_SKEW_S * 10**9:
        word = "ahead of" if skew_s > 0 else "behind"
        hint = "Set the clock (timedatectl set-ntp true); policies are refused meanwhile."
        yield Check("clock", "fail", f"{abs(skew_s):.0f} s {word} the console's", hint)
    else:
        yield Check("clock", "ok", f"within {abs(skew_s):.0f} s of the console's")


def _trust(client: Transport, credential: Credential) -> Iterator[Check]:
    try:
        envelope = client.request("GET", PATH_POLICY_ROOT, max_bytes=MAX_ENVELOPE_BYTES).body
        root = verify_first_root(envelope, credential.root_fingerprint, now_ns=time.time_ns())
        if isinstance(root, Refusal):
            hint = "Ask the operator before anything else: this may be another console."
            yield Check("policy root", "fail", root.sentence(), hint)
        else:
            yield Check("policy root", "ok", "the one this install was enrolled with")
        client.request(
            "GET",
            PATH_POLICY_ASSIGNMENT,
            token=credential.credential,
            max_bytes=MAX_ENVELOPE_BYTES,
        )
    except ApiError as error:
        hint = "hermes-telemetry enroll --force URL -" if error.status == 401 else ""
        yield Check("credential", "fail", f"the console refuses it: {error.code}", hint)
    except ClientError as error:
        yield Check("credential", "warn", f"could not be tried: {error}")
    else:
        yield Check("credential", "ok", "the console accepts it")
