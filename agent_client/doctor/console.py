"""The console: its policy, its address, its clock, its root of trust, our credential."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from agent_client.contract.dsse import MAX_ENVELOPE_BYTES
from agent_client.contract.wire import PATH_DISCOVERY, PATH_POLICY_ASSIGNMENT, PATH_POLICY_ROOT
from agent_client.credential import Credential
from agent_client.doctor.check import Check, Level, Subject
from agent_client.http import ApiError, ClientError, Transport, connect_to
from agent_client.policy.posture import resolve
from agent_client.policy.state import load_state
from agent_client.policy.verify import Refusal, verify_first_root
from agent_client.policy.view import view_policy

MAX_SKEW_S: Final = 300
"""Beyond it policies are refused and rows land in the wrong hour."""
MAX_SILENCE_S: Final = 86_400
"""The timer asks every few minutes; a day without a round means that nothing asks."""


def check_policy(subject: Subject) -> Iterator[Check]:
    """The fleet's policy is in force and fresh."""
    view = view_policy(subject.home)
    if view.state == "none":
        return
    if load_state(subject.home).applied.assignment_version and not view.assignment_version:
        finding = "it was applied once, but the managed scope of this environment does not hold it"
        hint = "Check HERMES_MANAGED_DIR, here and where the agent runs; then: policy sync"
        yield Check("policy", "warn", finding, hint)
        return
    if view.state in {"in_sync", "offline", "pending"}:
        silent_s = (time.time_ns() - view.last_sync_ns) / 1e9 if view.last_sync_ns else 0.0
        if subject.credential is not None and silent_s > MAX_SILENCE_S:
            hint = "systemctl enable --now hermes-telemetry-policy.timer   (or: policy sync)"
            finding = f"revision {view.bundle_version}, not asked for {silent_s / 86_400:.0f} days"
            yield Check("policy", "warn", finding, hint)
        else:
            yield Check("policy", "ok", f"revision {view.bundle_version}, {view.state}")
        return
    level: Level = "warn" if view.state == "stale" else "fail"
    reason = f" ({view.reason})" if view.reason else ""
    hint = "Run 'hermes-telemetry policy sync' as the user that owns managed scope (root)."
    yield Check("policy", level, f"revision {view.bundle_version}, {view.state}{reason}", hint)


def check_console(subject: Subject, transport: Transport | None = None) -> Iterator[Check]:
    """The console answers as the one that was enrolled with, and takes our credential."""
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
    if subject.offline:
        yield Check("console", "info", f"{credential.console_url} (not asked: --offline)")
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
    is_tls = credential.console_url.startswith("https://")
    how = "over verified TLS" if is_tls else "over plain http"
    yield Check("console", "ok", f"{credential.console_url} answers {how}")
    if not is_tls and credential.allow_plain_http:
        hint = "Enroll with the https address: hermes-telemetry enroll --force https://… -"
        yield Check("tls", "warn", "the credential travels unencrypted", hint)
    yield from _clock(subject, found.get("server_time_ns"))
    yield from _trust(client, credential)


def _clock(subject: Subject, server_time_ns: object) -> Iterator[Check]:
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
