"""What is really in force, key by key, and the check-in that says so.

A pin counts as in force only when the agent's own merge of its files gives the pinned value;
that it was written proves nothing. Every key that differs is drift, with a named cause.
"""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from agent_client import __version__
from agent_client.config import Layers
from agent_client.contract.canonical import canonical_json, digest_of
from agent_client.contract.policy_doc import Bundle, CheckIn
from agent_client.contract.wire import PATH_CHECKIN
from agent_client.http import ApiError, Transport
from agent_client.policy.leaves import dotted, find, leaves, project, same
from agent_client.policy.state import KeyPath, Ownership, PolicyState

MAX_DRIFT_LISTED: Final = 200
MAX_VALUE_CHARS: Final = 500
"""A drift item shows what is there; a long list shows its beginning."""
HOST_TIMEOUT_S: Final = 20.0
NOTHING: Final = None


@dataclass(frozen=True, slots=True)
class DriftItem:
    """One pin that is not in force; ``got`` is None when the key has no value at all."""

    key: str
    want: object
    got: object
    cause: str
    first_seen_ns: int = 0

    def to_dict(self) -> dict[str, object]:
        """The check-in's form; long values are cut."""
        return {
            "key": self.key,
            "want": _short(self.key, self.want),
            "got": _short(self.key, self.got),
            "cause": self.cause,
            "first_seen_ns": self.first_seen_ns,
        }


@dataclass(frozen=True, slots=True)
class Readback:
    """What the files give: digests over the pinned keys only, and the drift."""

    desired_sha256: str
    written_sha256: str
    effective_sha256: str
    drift: tuple[DriftItem, ...]


def read_back(
    bundle: Bundle,
    layers: Layers,
    ownership: Ownership,
    *,
    managed_target: Path | None,
    environ: Mapping[str, str],
    effective: Mapping[str, object] | None = None,
) -> Readback:
    """Compare a bundle with what the agent would use. Pure.

    ``effective`` overrides our own merge by what the host itself reported.
    """
    in_force = layers.effective() if effective is None else effective
    cause = _file_cause(layers, managed_target)
    drift: list[DriftItem] = []
    for path, want in leaves(bundle.mandatory).items():
        is_there, got = find(in_force, path)
        if is_there and same(want, got):
            continue
        why = cause or _key_cause(path, want, layers, ownership, environ)
        drift.append(DriftItem(dotted(path), want, got if is_there else NOTHING, why))
    return Readback(
        desired_sha256=digest_of(bundle.mandatory),
        written_sha256=_digest(project(bundle.mandatory, layers.managed)),
        effective_sha256=_digest(project(bundle.mandatory, in_force)),
        drift=tuple(drift),
    )


def with_first_seen(
    drift: tuple[DriftItem, ...], seen: Mapping[str, int], now_ns: int
) -> tuple[DriftItem, ...]:
    """The drift with the time each key was first seen to differ."""
    return tuple(replace(item, first_seen_ns=seen.get(item.key, now_ns)) for item in drift)


def host_effective(home: Path, timeout_s: float = HOST_TIMEOUT_S) -> dict[str, object] | None:
    """The configuration as the host in this environment loads it; None when it cannot be asked.

    In a process of its own: the host's import has side effects, and its environment files only
    take effect in a fresh one.
    """
    from importlib.util import find_spec

    if find_spec("hermes_cli") is None:
        return None
    program = (
        "import json,sys;from hermes_cli.env_loader import load_hermes_dotenv;"
        "load_hermes_dotenv();from hermes_cli.config import load_config;"
        "sys.stdout.write('\\x1e'+json.dumps(load_config(),default=str))"
    )
    environ = {**os.environ, "HERMES_HOME": str(home)}
    try:
        done = subprocess.run(  # noqa: S603  # our own interpreter, a constant program
            [sys.executable, "-c", program],
            env=environ,
            capture_output=True,
            timeout=timeout_s,
            check=True,
        )
        value = json.loads(done.stdout.split(b"\x1e")[-1])
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def check_in_of(
    state: PolicyState,
    readback: Readback | None,
    *,
    status: str,
    reason: str,
    health: Mapping[str, object],
) -> CheckIn:
    """The report of one round, under the state's counter."""
    from agent_client.enroll import host_version

    versions = {
        "client": __version__,
        "host": host_version(),
        "python": platform.python_version(),
    }
    drift = () if readback is None else readback.drift
    return CheckIn(
        seq=state.checkin_seq,
        status=status,
        reporter="service",
        reason=reason[:300],
        assignment_version=state.applied.assignment_version,
        bundle_sha256=state.applied.bundle_sha256,
        desired_sha256="" if readback is None else readback.desired_sha256,
        written_sha256="" if readback is None else readback.written_sha256,
        effective_sha256="" if readback is None else readback.effective_sha256,
        nonce_seen=state.applied.nonce,
        drift=tuple(item.to_dict() for item in drift[:MAX_DRIFT_LISTED]),
        health=dict(health),
        versions={name: text for name, text in versions.items() if text},
    )


def next_seq(state: PolicyState) -> PolicyState:
    """The state with a counter above every one used before.

    Milliseconds, not a count from one: a home restored from a backup must not fork the sequence.
    """
    return replace(state, checkin_seq=max(state.checkin_seq + 1, time.time_ns() // 1_000_000))


def send_check_in(transport: Transport, credential: str, report: CheckIn) -> dict[str, object]:
    """Send a report; the console's answer. Errors: ApiError, NetworkError."""
    body = canonical_json(_plain(report.to_dict()))
    headers = {"Content-Type": "application/json"}
    try:
        answer = transport.request(
            "POST", PATH_CHECKIN, body=body, headers=headers, token=credential
        )
    except ApiError as error:
        if error.code == "sequence_fork":  # a report that is ahead of ours is already there
            return {}
        raise
    return answer.json()


def _file_cause(layers: Layers, target: Path | None) -> str:
    """The cause that explains every key at once; "" when the managed file is read as a map."""
    codes = {problem.code for problem in layers.problems}
    if "managed_dir_missing" in codes:
        return "user_environment"
    if "managed_unreadable" in codes:
        return "unreadable_file"
    if "managed_malformed" in codes:
        return "malformed_yaml"
    if target is not None and layers.managed_dir is not None and layers.managed_dir != target:
        return "user_environment"
    if layers.managed_dir is None or not (layers.managed_dir / "config.yaml").exists():
        return "missing_file"
    return ""


def _key_cause(
    path: KeyPath,
    want: object,
    layers: Layers,
    ownership: Ownership,
    environ: Mapping[str, str],
) -> str:
    is_there, found = find(layers.managed, path)
    if is_there and same(want, found):
        # Written, and yet not what the host uses.
        if path[0] == "plugins" and environ.get("HERMES_SAFE_MODE", "").strip():
            return "safe_mode"
        return "older_process"
    if path not in ownership.paths or is_there:
        return "foreign_key"
    return "unknown"


def _digest(value: object) -> str:
    """A digest of what files hold; YAML knows values that JSON does not (dates, NaN)."""
    return digest_of(_plain(value))


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, str | int | float):
        return value
    return str(value)


def _short(key: str, value: object) -> object:
    """A value as it travels in a drift item: redacted under its key's name, and bounded.

    What stands in a pin's place may be somebody's secret.
    """
    from agent_client.contract.redact import redact_value

    name = key.rpartition(".")[2]
    walked = redact_value({name: _plain(value)})
    plain = walked.get(name) if isinstance(walked, dict) else None
    if isinstance(plain, bool | int | float) or plain is None:
        return plain
    text = plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)
    return plain if len(text) <= MAX_VALUE_CHARS else text[:MAX_VALUE_CHARS] + "…"
