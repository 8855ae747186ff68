"""One round of policy: fetch → verify → apply → read back → check in.

Whatever fails, the policy in force stays: only a verified document replaces it. A refused
credential (401) holds what is there and loosens nothing. Trust is kept before anything is
written, so that a crash in between cannot be used to play back an older document.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from agent_client import __version__, config
from agent_client.contract.policy_doc import Root
from agent_client.credential import Credential, load_credential
from agent_client.files import exclusive_lock
from agent_client.http import AddressError, ApiError, NetworkError, Transport, connect_to
from agent_client.policy import ack
from agent_client.policy.allow import load_allow_list
from agent_client.policy.apply import ApplyError, apply_bundle
from agent_client.policy.fetch import Documents, fetch_update, keep_documents, kept_documents
from agent_client.policy.state import (
    Applied,
    Ownership,
    PolicyState,
    Trust,
    load_ownership,
    load_state,
    policy_dir,
    save_state,
)
from agent_client.policy.verify import (
    Here,
    Refusal,
    Verified,
    verify_first_root,
    verify_kept_root,
    verify_update,
)
from agent_client.progress import health_of

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_CREDENTIAL: Final = 4
EXIT_NETWORK: Final = 5


@dataclass(frozen=True, slots=True)
class SyncResult:
    """How a round ended.

    ``status`` is a check-in status, or none (nothing is published), offline, not_enrolled, busy.
    ``changed`` lists dotted keys written or removed.
    """

    status: str
    exit_code: int
    reason: str = ""
    detail: str = ""
    assignment_version: int = 0
    bundle_version: int = 0
    changed: tuple[str, ...] = ()
    drift: tuple[ack.DriftItem, ...] = ()
    is_reported: bool = False


@dataclass(frozen=True, slots=True)
class _Round:
    """What every step of one round needs."""

    home: Path
    credential: Credential
    transport: Transport
    clock_ns: Callable[[], int]
    verify_host: bool


def run_sync(
    home: Path | None,
    *,
    transport: Transport | None,
    clock_ns: Callable[[], int] | None,
    verify_host: bool,
) -> SyncResult:
    """One round for a home. Never raises for what network, console or files do."""
    root = config.resolve_home(home)
    credential = load_credential(root)
    if credential is None:
        return SyncResult("not_enrolled", EXIT_CREDENTIAL, "not_enrolled")
    try:
        client = transport or connect_to(
            endpoint_of(root, credential), allow_plain_http=credential.allow_plain_http
        )
        with exclusive_lock(policy_dir(root) / "lock") as is_held:
            if not is_held:
                return SyncResult("busy", EXIT_NETWORK, "busy", "another policy sync is under way")
            return _sync(_Round(root, credential, client, clock_ns or time.time_ns, verify_host))
    except AddressError as error:  # found where it is read, or where a request is made of it
        return SyncResult("failed", EXIT_FAILED, "address_refused", str(error))
    except OSError as error:
        return SyncResult("failed", EXIT_FAILED, "cannot_store", error.strerror or str(error))


def endpoint_of(home: Path, credential: Credential) -> str:
    """The console's address: what the configuration says, which is the enrolled one by default."""
    return str(config.load(home).get("telemetry.export.console.endpoint") or credential.console_url)


def _sync(round_: _Round) -> SyncResult:
    credential = round_.credential
    state = load_state(round_.home).for_install(credential.fleet_id, credential.install_id)
    state = replace(state, last_sync_ns=round_.clock_ns())
    try:
        documents = _fetched(round_, state)
    except ApiError as error:
        return _held(round_, state, error)
    except NetworkError as error:
        _keep(round_, state, "offline", str(error))
        return _ended(state, "offline", EXIT_NETWORK, "network", str(error))
    state = replace(state, last_contact_ns=round_.clock_ns())
    if documents.is_none:
        _keep(round_, state, "none", "")
        return _reported(round_, SyncResult("none", EXIT_OK))
    verdict = _judge(round_, state, documents)
    if isinstance(verdict, Refusal) and verdict.code == "expired" and not documents.is_new:
        # The console said "unchanged" about a document that has run out here: ask for all of it.
        state = replace(state, etag="")
        try:
            documents = _fetched(round_, state)
        except (ApiError, NetworkError) as error:
            _keep(round_, state, "offline", str(error))
            return _ended(state, "offline", EXIT_NETWORK, "network", str(error))
        verdict = _judge(round_, state, documents)
    if isinstance(verdict, Refusal):
        return _refused(round_, state, verdict)
    state = replace(
        state,
        trust=verdict.trust,
        etag=documents.etag,
        expires_ns=verdict.assignment.expires_ns,
        poll_seconds=verdict.assignment.poll_seconds,
    )
    keep_documents(round_.home, documents, verdict.trust.bundle_sha256)
    save_state(round_.home, state)
    return _apply(round_, state, verdict)


def _fetched(round_: _Round, state: PolicyState) -> Documents:
    kept = kept_documents(round_.home, state.etag)

    def kept_bundle(sha256: str) -> bytes | None:
        return kept.bundle if state.trust.bundle_sha256 == sha256 else None

    return fetch_update(round_.transport, round_.credential.credential, kept, kept_bundle)


def _judge(round_: _Round, state: PolicyState, documents: Documents) -> Verified | Refusal:
    credential = round_.credential
    if documents.root is None or documents.assignment is None:
        return Refusal("root_malformed" if documents.root is None else "malformed")
    return verify_update(
        state.trust,
        documents.root,
        documents.assignment,
        documents.bundle,
        Here(
            now_ns=round_.clock_ns(),
            install_id=credential.install_id,
            fleet_id=credential.fleet_id,
            fingerprint=credential.root_fingerprint,
            client_version=__version__,
            allow=load_allow_list(round_.home),
            trusted_root=trusted_root(round_.home, credential, state.trust),
        ),
    )


def trusted_root(home: Path, credential: Credential, trust: Trust) -> Root | None:
    """The kept root; None before the first.

    Once a root was accepted the kept one stands on its own signatures, for keys rotate; before
    that it must be the pinned one. Its expiry does not matter: it may still introduce the next.
    """
    envelope = kept_documents(home).root
    if envelope is None:
        return None
    if trust.root_version:
        root = verify_kept_root(envelope)
        if isinstance(root, Root) and root.version >= trust.root_version:
            return root
    root = verify_first_root(envelope, credential.root_fingerprint, now_ns=0)
    return root if isinstance(root, Root) else None


def _apply(round_: _Round, state: PolicyState, verified: Verified) -> SyncResult:
    bundle, assignment = verified.bundle, verified.assignment
    target = config.managed_target()
    if target is None:
        return _failed(round_, state, "no_managed_dir", "this process has no managed scope")
    claim = Ownership(
        fleet_id=round_.credential.fleet_id,
        install_id=round_.credential.install_id,
        home=str(round_.home),
        console_url=round_.credential.console_url,
        assignment_version=assignment.version,
        bundle_version=bundle.version,
        bundle_sha256=assignment.bundle_sha256,
        written_ns=round_.clock_ns(),
        meta=bundle.meta,
    )
    try:
        written = apply_bundle(target, bundle, claim)
    except ApplyError as error:
        status = "rolled_back" if error.rolled_back else "failed"
        return _failed(round_, state, error.code, str(error), status=status)
    applied = Applied(
        assignment_version=assignment.version,
        bundle_version=bundle.version,
        bundle_sha256=assignment.bundle_sha256,
        managed_dir=str(target),
        at_ns=round_.clock_ns() if written.changed else state.applied.at_ns or round_.clock_ns(),
        nonce=assignment.nonce,
    )
    state = replace(state, applied=applied)
    readback = _read_back(round_, state, verified)
    state = replace(state, drift_seen={item.key: item.first_seen_ns for item in readback.drift})
    _keep(round_, state, "applied", "")
    changed = (*written.plan.written, *written.plan.removed)
    aside = f"the former file was malformed; it is {written.set_aside}"
    result = replace(
        _ended(state, "applied", EXIT_OK, detail=aside if written.set_aside else ""),
        changed=tuple(".".join(path) for path in changed),
        drift=readback.drift,
    )
    if readback.drift:
        result = replace(result, exit_code=EXIT_FAILED, reason="drifted")
    return _reported(round_, result, readback)


def _read_back(round_: _Round, state: PolicyState, verified: Verified) -> ack.Readback:
    layers = config.read_layers(round_.home)
    target = config.managed_target()
    readback = ack.read_back(
        verified.bundle,
        layers,
        load_ownership(target) if target is not None else Ownership(),
        managed_target=target,
        environ=os.environ,
        effective=ack.host_effective(round_.home) if round_.verify_host else None,
    )
    drift = ack.with_first_seen(readback.drift, state.drift_seen, round_.clock_ns())
    return replace(readback, drift=drift)


def _held(round_: _Round, state: PolicyState, error: ApiError) -> SyncResult:
    """The console refused us: keep everything, say why. 401 never loosens."""
    if error.status == 401:
        _keep(round_, state, "held", error.code)
        return _ended(state, "held", EXIT_CREDENTIAL, error.code, error.detail)
    is_passing = error.status in {429, 503} or error.status >= 500
    _keep(round_, state, "offline" if is_passing else "failed", error.code)
    if is_passing:
        return _ended(state, "offline", EXIT_NETWORK, error.code, error.detail)
    code = EXIT_CREDENTIAL if error.code == "scope" else EXIT_FAILED
    return _ended(state, "failed", code, error.code, error.detail)


def _refused(round_: _Round, state: PolicyState, refusal: Refusal) -> SyncResult:
    status = "pending" if refusal.code == "not_yet" else "failed"
    return _failed(round_, state, refusal.code, refusal.sentence(), status=status)


def _failed(
    round_: _Round, state: PolicyState, code: str, detail: str, *, status: str = "failed"
) -> SyncResult:
    _keep(round_, state, status, code)
    exit_code = EXIT_OK if status == "pending" else EXIT_FAILED
    result = _ended(state, status, exit_code, code, detail)
    return _reported(round_, result)


def _reported(
    round_: _Round, result: SyncResult, readback: ack.Readback | None = None
) -> SyncResult:
    """Tell the console; what could not be told is told in the next round."""
    state = ack.next_seq(
        load_state(round_.home).for_install(
            round_.credential.fleet_id, round_.credential.install_id
        )
    )
    save_state(round_.home, state)  # before it is sent: a counter is never used twice
    report = ack.check_in_of(
        state,
        readback,
        status="pending" if result.status == "none" else result.status,
        reason=result.reason,
        health=health_of(round_.home),
    )
    try:
        ack.send_check_in(round_.transport, round_.credential.credential, report)
    except ApiError as error:
        code = EXIT_CREDENTIAL if error.status == 401 else EXIT_NETWORK
        text = f"the check-in was refused: {error.code}"
        return replace(result, exit_code=result.exit_code or code, detail=result.detail or text)
    except NetworkError as error:
        text = f"the check-in did not arrive: {error}"
        code = result.exit_code or EXIT_NETWORK
        return replace(result, exit_code=code, detail=result.detail or text)
    return replace(result, is_reported=True)


def _keep(round_: _Round, state: PolicyState, status: str, reason: str) -> None:
    save_state(round_.home, replace(state, last_status=status, last_reason=reason[:300]))


def _ended(
    state: PolicyState, status: str, exit_code: int, reason: str = "", detail: str = ""
) -> SyncResult:
    """A result that says which policy is in force all the same."""
    return SyncResult(
        status,
        exit_code,
        reason,
        detail,
        assignment_version=state.applied.assignment_version,
        bundle_version=state.applied.bundle_version,
    )
