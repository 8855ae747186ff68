"""Enrollment: the one deliberate act after which anything may leave the machine.

Steps, in this order: 1. parse the string; 2. fetch discovery; 3. fetch the policy root and check
that the key whose fingerprint the operator gave out of band signed it; 4. only then send the
token; 5. keep the credential in one rename. A crash before that leaves the install not enrolled,
and the same command works again. The user's ``config.yaml`` is not rewritten (that
would lose its comments): the credential file is the opt-in, and ``config`` lays it below the
user's and the administrator's own ``telemetry.export.console.*``.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent_client import __version__, config
from agent_client.contract.canonical import sha256_hex
from agent_client.contract.dsse import MAX_ENVELOPE_BYTES
from agent_client.contract.tokens import parse_enrollment, parse_token
from agent_client.contract.wire import PATH_DISCOVERY, PATH_ENROLL, PATH_POLICY_ROOT
from agent_client.credential import Credential, credential_path, save_credential
from agent_client.files import telemetry_dir, write_atomic
from agent_client.http import ApiError, Transport, connect_to
from agent_client.policy.state import ROOT_FILE, policy_dir
from agent_client.policy.verify import Refusal, verify_first_root

CAPABILITIES: Final = ("push", "policy", "gzip")
WAIT_S: Final = 900.0
"""How long an approval is waited for; the operator is told, and the command can be run again."""
MAX_POLL_S: Final = 60.0


class EnrollError(Exception):
    """Enrollment did not happen. ``code`` is a wire code or one of ours, ``hint`` what to do.

    Own codes: malformed_token, not_a_console, root_mismatch, fleet_mismatch, pending,
    already_enrolled, bad_answer, cannot_store.
    """

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Enrolled:
    """What enrollment gave; never the secret."""

    console_url: str
    install_id: str
    fleet_id: str
    group: str
    scopes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Waiting:
    """An approval by a person is awaited; they are shown the same code."""

    user_code: str
    poll_seconds: float


def _nobody(waiting: Waiting) -> None:
    del waiting


@dataclass(frozen=True, slots=True)
class EnrollOptions:
    """How to enroll.

    ``wait_s`` 0 asks once; ``new_id`` mints a new install id first; ``force`` replaces an
    enrollment that is there; ``on_wait`` hears of a pending approval.
    """

    new_id: bool = False
    force: bool = False
    wait_s: float = WAIT_S
    allow_plain_http: bool = False
    on_wait: Callable[[Waiting], None] = _nobody
    sleep: Callable[[float], None] = time.sleep
    clock_s: Callable[[], float] = time.monotonic


HINTS: Final[Mapping[str, str]] = {
    "token_unknown": "Copy the whole line again, or ask for a new token.",
    "token_expired": "Ask the operator for a new token.",
    "token_revoked": "Ask the operator for a new token.",
    "token_exhausted": "This token has been used up; ask the operator for a new one.",
    "cidr_denied": "This token may not be used from this network address.",
    "install_exists": "This home was copied from another machine. Run the same with --new-id.",
    "rate_limited": "Wait a minute and run the same command again.",
    "unavailable": "The console is busy; run the same command again in a minute.",
    "client_too_old": "Upgrade hermes-fleet-agent on this machine.",
}


def enroll(
    home: Path | None,
    url: str,
    token_string: str,
    *,
    options: EnrollOptions | None = None,
    transport: Transport | None = None,
) -> Enrolled:
    """Enroll this home with a console and keep the credential.

    Errors: EnrollError; ClientError when the console cannot be reached.
    """
    chosen = options or EnrollOptions()
    parsed = parse_enrollment(token_string)
    if parsed is None:
        raise EnrollError(
            "malformed_token",
            "that is not a whole enrollment string (hfe_….<fingerprint>)",
            "Copy the line from the console again; nothing was sent.",
        )
    token, fingerprint = parsed
    settings = config.load(home)
    if credential_path(settings.home).exists() and not chosen.force:
        raise EnrollError(
            "already_enrolled",
            f"this home is enrolled with {settings.console_url or 'a console'}",
            "Run 'hermes-telemetry unenroll' first, or add --force.",
        )
    client = transport or connect_to(url, allow_plain_http=chosen.allow_plain_http)
    fleet_id, root_envelope = check_console(client, fingerprint)
    install_id = _install_id(settings.home, new_id=chosen.new_id)
    body = json.dumps(enroll_request(install_id, settings)).encode()
    answer = _ask(client, token.text(), body, chosen)
    base_url = url.strip().rstrip("/")
    kept = _credential(
        {
            **answer,
            "console_url": base_url,
            "root_fingerprint": fingerprint,
            "enrolled_ns": time.time_ns(),
            "allow_plain_http": chosen.allow_plain_http,
        },
        fleet_id,
        install_id,
    )
    save_credential(settings.home, kept)
    write_atomic(policy_dir(settings.home) / ROOT_FILE, root_envelope)
    return Enrolled(kept.console_url, kept.install_id, kept.fleet_id, kept.group, kept.scopes)


def check_console(client: Transport, fingerprint: str) -> tuple[str, bytes]:
    """Fleet id and root envelope of the console, once its root is seen to be the pinned one.

    Errors: EnrollError root_mismatch, fleet_mismatch or not_a_console; ClientError.
    """
    try:
        found = client.request("GET", PATH_DISCOVERY).json()
    except ApiError as error:
        raise EnrollError(
            "not_a_console",
            f"no Hermes Fleet console answers there ({error.status})",
            "Check the address; nothing was sent.",
        ) from error
    envelope = client.request("GET", PATH_POLICY_ROOT, max_bytes=MAX_ENVELOPE_BYTES).body
    root = verify_first_root(envelope, fingerprint, now_ns=time.time_ns())
    if isinstance(root, Refusal) or found.get("root_fingerprint", fingerprint) != fingerprint:
        reason = root.code if isinstance(root, Refusal) else "another root is announced"
        raise EnrollError(
            "root_mismatch",
            f"the console does not hold the policy root of this enrollment string ({reason})",
            "Do not go on: this may be another console. The token was not sent.",
        )
    if found.get("fleet_id") != root.fleet_id:
        raise EnrollError("fleet_mismatch", "the console announces another fleet than its root")
    return root.fleet_id, envelope


def enroll_request(install_id: str, settings: config.ClientConfig) -> dict[str, object]:
    """The body of ``POST /api/v1/enroll``: ids, versions and the host's kind; nothing personal."""
    system = {"Linux": "linux", "Darwin": "macos", "Windows": "windows"}
    return {
        "install_id": install_id,
        "machine_id": machine_id(install_id),
        "agent": {
            "client_version": __version__,
            "host_version": host_version(),
            "python_version": platform.python_version(),
        },
        "host": {
            "os_family": system.get(platform.system(), "other"),
            "os_version": platform.release()[:100],
            "arch": platform.machine()[:50],
            "hostname": socket.gethostname()[:200],
        },
        "capabilities": list(CAPABILITIES),
        "consent_state": str(settings.get("telemetry.consent_state", "unknown")),
    }


def machine_id(install_id: str) -> str:
    """64 hex digits that only tell two machines apart: a hash salted with the install id."""
    facts = b""
    for name in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        with suppress(OSError):
            facts = facts or Path(name).read_bytes().strip()
    if not facts:
        facts = f"{socket.gethostname()}/{uuid.getnode():012x}".encode()
    return sha256_hex(b"hermes-fleet-machine\0" + install_id.encode() + b"\0" + facts)


def host_version() -> str:
    """The version of hermes-agent in this environment; "" when it is not installed here."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("hermes-agent")
    except PackageNotFoundError:
        return ""


def unenroll(home: Path | None) -> bool:
    """Forget the credential; whether there was one. Recorded data and the install id stay.

    Pins that a fleet wrote stay in force too: they belong to whoever owns managed scope.
    Errors: OSError.
    """
    path = credential_path(config.resolve_home(home))
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True


def read_token(argument: str | None, token_file: str | None, environ: Mapping[str, str]) -> str:
    """The enrollment string from the argument, ``-`` (stdin), a file, or the environment's file.

    Errors: EnrollError malformed_token when there is none or the file cannot be read.
    """
    if argument and argument != "-":
        return argument.strip()
    if argument == "-":
        return sys.stdin.readline(1000).strip()
    named = token_file or environ.get("HERMES_TELEMETRY_TOKEN_FILE", "")
    if not named:
        raise EnrollError(
            "malformed_token",
            "no enrollment string was given",
            "Pipe it in with '-', or name a file with --token-file.",
        )
    try:
        return Path(named).read_text(encoding="ascii", errors="replace")[:1000].strip()
    except OSError as error:
        raise EnrollError("malformed_token", f"{named}: {error.strerror or error}") from error


def _install_id(home: Path, *, new_id: bool) -> str:
    try:
        return config.rotate_install_id(home) if new_id else config.keep_install_id(home)
    except OSError as error:
        raise EnrollError(
            "cannot_store",
            f"{telemetry_dir(home)} cannot be written: {os.strerror(error.errno or 0)}",
        ) from error


def _ask(client: Transport, token: str, body: bytes, options: EnrollOptions) -> dict[str, object]:
    """The console's 201; the same request is repeated while a person has yet to approve."""
    ends_at = options.clock_s() + options.wait_s
    headers = {"Content-Type": "application/json"}
    while True:
        try:
            answer = client.request("POST", PATH_ENROLL, body=body, headers=headers, token=token)
        except ApiError as error:
            message = error.detail or f"the console refused: {error.code}"
            raise EnrollError(error.code, message, HINTS.get(error.code, "")) from error
        found = answer.json()
        if answer.status != 202:
            return found
        poll = found.get("poll_seconds")
        poll_s = min(max(float(poll), 0.0), MAX_POLL_S) if isinstance(poll, int | float) else 5.0
        waiting = Waiting(str(found.get("user_code", ""))[:20], poll_s)
        options.on_wait(waiting)
        if options.clock_s() + poll_s > ends_at:
            raise EnrollError(
                "pending",
                f"approval is pending, code {waiting.user_code}",
                "Ask the operator to approve it, then run the same command again.",
            )
        options.sleep(poll_s)


def _credential(found: Mapping[str, object], fleet_id: str, install_id: str) -> Credential:
    if parse_token(str(found.get("credential", ""))) is None:
        raise EnrollError("bad_answer", "the console's answer holds no credential")
    if found.get("install_id") != install_id:
        raise EnrollError("bad_answer", "the console answered for another install")
    if found.get("fleet_id") != fleet_id:
        raise EnrollError("fleet_mismatch", "the console enrolled this install in another fleet")
    kept = Credential.from_dict(found)
    if kept is None:
        raise EnrollError("bad_answer", "the console's answer is not complete")
    return kept
