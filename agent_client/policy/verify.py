"""Whether a policy update may come into force: one pure verdict, in the documented order.

1. root, signed by the pinned key; 2. the assignment's signature; 3. its audience (fleet and
install); 4. the clock; 5. expiry; 6. version (lower: rollback; equal with other content:
equivocation); 7. the bundle's digest and signature; 8. its schema, every key and value; 9. the
machine's own allow-list. Nothing of a document is parsed before its signature holds, but a
root's, which names its own keys. Source: TUF 1.0.33, section 5 (the client's workflow).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from agent_client.contract.canonical import sha256_hex
from agent_client.contract.dsse import DsseError, open_envelope, peek
from agent_client.contract.policy_doc import (
    MAX_BUNDLE_BYTES,
    SCHEMA,
    TYPE_ASSIGNMENT,
    TYPE_BUNDLE,
    TYPE_ROOT,
    Assignment,
    Bundle,
    Root,
)
from agent_client.contract.policy_keys import key_fault, value_fault
from agent_client.policy.allow import AllowList
from agent_client.policy.leaves import dotted, leaves, pins_of
from agent_client.policy.state import Trust

CLOCK_TOLERANCE_NS: Final = 300 * 10**9
"""Machines drift by minutes; a clock set back by more would let old documents live again."""

REFUSALS: Final[Mapping[str, str]] = {
    "root_malformed": "the policy root cannot be read",
    "root_fingerprint": "the policy root is not the one this install was enrolled with",
    "root_signature": "the policy root is not signed as it must be",
    "root_rollback": "the policy root is older than the one in force",
    "root_expired": "the policy root has expired",
    "bad_signature": "the assignment is not signed by a key the root names",
    "malformed": "the assignment cannot be read",
    "wrong_audience": "the policy is for another install or fleet",
    "clock_behind": "this machine's clock is behind the last accepted policy",
    "expired": "the assignment has expired",
    "rollback": "the assignment is older than the one in force",
    "equivocation": "two different policies carry the same version: tell the operator",
    "bundle_missing": "the bundle that the assignment names is not there",
    "bundle_too_large": "the bundle is larger than 256 KiB",
    "bad_digest": "the bundle is not the one that the assignment names",
    "bundle_signature": "the bundle is not signed by a key the root names",
    "bundle_audience": "the bundle is for another fleet",
    "schema": "the bundle holds a key or value that cannot be pinned",
    "not_yet": "the bundle is not to come into force yet",
    "agent_too_old": "the bundle needs a newer agent client",
    "not_allowed": "this machine's allow-list does not let the fleet pin a key",
    "allow_list_malformed": "this machine's allow-list cannot be read, so nothing is allowed",
}
"""Every refusal and its sentence; the code goes into the check-in and the console's page."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an update does not come into force; what is in force stays. ``detail`` names a key."""

    code: str
    detail: str = ""

    def sentence(self) -> str:
        """For people."""
        return REFUSALS[self.code] + (f" ({self.detail})" if self.detail else "")


@dataclass(frozen=True, slots=True)
class Verified:
    """An update that may be applied, and the trust to keep once it is accepted."""

    root: Root
    assignment: Assignment
    bundle: Bundle
    trust: Trust


@dataclass(frozen=True, slots=True)
class Here:
    """Who and when is judging. ``trusted_root`` is the root in force, None before the first."""

    now_ns: int
    install_id: str
    fleet_id: str
    fingerprint: str
    client_version: str
    allow: AllowList
    trusted_root: Root | None = None


def verify_update(
    trust: Trust,
    root_env: bytes,
    assignment_env: bytes,
    bundle_env: bytes | None,
    here: Here,
) -> Verified | Refusal:
    """The verdict over three envelopes, as they came. Never raises."""
    root = verify_root(trust, root_env, here)
    if isinstance(root, Refusal):
        return root
    if root.fleet_id != here.fleet_id:
        return Refusal("wrong_audience", "root")
    assignment = _assignment(root, assignment_env)
    if isinstance(assignment, Refusal):
        return assignment
    refused = _assignment_refusal(trust, assignment, here)
    if refused is not None:
        return refused
    bundle = _bundle(root, assignment, bundle_env)
    if isinstance(bundle, Refusal):
        return bundle
    refused = _bundle_refusal(bundle, here) or _allow_refusal(bundle, here.allow)
    if refused is not None:
        return refused
    accepted = Trust(
        fleet_id=here.fleet_id,
        install_id=here.install_id,
        root_version=root.version,
        assignment_version=assignment.version,
        bundle_sha256=assignment.bundle_sha256,
        last_issued_ns=max(trust.last_issued_ns, assignment.issued_ns),
    )
    return Verified(root, assignment, bundle, accepted)


def verify_first_root(root_env: bytes, fingerprint: str, *, now_ns: int) -> Root | Refusal:
    """A root, held against the fingerprint that the operator gave out of band. Never raises."""
    root = _parsed_root(root_env)
    if isinstance(root, Refusal):
        return root
    keys = _role_keys(root, "root")
    if fingerprint not in keys or sha256_hex(keys[fingerprint]) != fingerprint:
        return Refusal("root_fingerprint")
    if not _is_signed(root_env, TYPE_ROOT, {fingerprint: keys[fingerprint]}, 1):
        return Refusal("root_signature")
    if not _is_signed(root_env, TYPE_ROOT, keys, _threshold(root, "root")):
        return Refusal("root_signature")
    return Refusal("root_expired") if root.expires_ns <= now_ns else root


def verify_kept_root(root_env: bytes) -> Root | Refusal:
    """A root that was accepted before: whole, and signed by its own keys. Never raises."""
    root = _parsed_root(root_env)
    if isinstance(root, Refusal):
        return root
    is_whole = _is_signed(root_env, TYPE_ROOT, _role_keys(root, "root"), _threshold(root, "root"))
    return root if is_whole else Refusal("root_signature")


def verify_root(trust: Trust, root_env: bytes, here: Here) -> Root | Refusal:
    """A root by the one in force: signed by that one's root keys and its own. Never raises."""
    if here.trusted_root is None:
        root = verify_first_root(root_env, here.fingerprint, now_ns=here.now_ns)
    else:
        root = _next_root(here.trusted_root, root_env, here.now_ns)
    if isinstance(root, Root) and root.version < trust.root_version:
        return Refusal("root_rollback")
    return root


def _next_root(trusted: Root, root_env: bytes, now_ns: int) -> Root | Refusal:
    root = _parsed_root(root_env)
    if isinstance(root, Refusal):
        return root
    for judge in (trusted, root):
        keys, threshold = _role_keys(judge, "root"), _threshold(judge, "root")
        if not _is_signed(root_env, TYPE_ROOT, keys, threshold):
            return Refusal("root_signature")
    if root.version < trusted.version:
        return Refusal("root_rollback")
    return Refusal("root_expired") if root.expires_ns <= now_ns else root


def _parsed_root(root_env: bytes) -> Root | Refusal:
    try:
        root = Root.from_dict(_object(peek(root_env)))
    except ValueError:  # DsseError is one
        return Refusal("root_malformed")
    return root if root.schema == SCHEMA else Refusal("root_malformed")


def _assignment(root: Root, envelope: bytes) -> Assignment | Refusal:
    keys, threshold = _role_keys(root, "assignment"), _threshold(root, "assignment")
    try:
        payload = open_envelope(envelope, TYPE_ASSIGNMENT, keys, threshold)
    except DsseError:
        return Refusal("bad_signature")
    try:
        assignment = Assignment.from_dict(_object(payload))
    except ValueError:
        return Refusal("malformed")
    is_known = assignment.schema == SCHEMA and _is_digest(assignment.bundle_sha256)
    return assignment if is_known else Refusal("malformed")


def _assignment_refusal(trust: Trust, assignment: Assignment, here: Here) -> Refusal | None:
    if (assignment.fleet_id, assignment.install_id) != (here.fleet_id, here.install_id):
        return Refusal("wrong_audience")
    if here.now_ns + CLOCK_TOLERANCE_NS < max(trust.last_issued_ns, assignment.issued_ns):
        return Refusal("clock_behind")
    if assignment.expires_ns <= here.now_ns:
        return Refusal("expired")
    if assignment.version < trust.assignment_version:
        return Refusal("rollback")
    if assignment.version == trust.assignment_version:
        if trust.bundle_sha256 and assignment.bundle_sha256 != trust.bundle_sha256:
            return Refusal("equivocation")
        if assignment.issued_ns < trust.last_issued_ns:
            return Refusal("rollback", "an older copy of the same version")
    return None


def _bundle(root: Root, assignment: Assignment, envelope: bytes | None) -> Bundle | Refusal:
    if envelope is None:
        return Refusal("bundle_missing")
    try:
        payload = peek(envelope)
    except DsseError:
        return Refusal("bad_digest")
    if len(payload) > MAX_BUNDLE_BYTES:
        return Refusal("bundle_too_large")
    if sha256_hex(payload) != assignment.bundle_sha256:
        return Refusal("bad_digest")
    if not _is_signed(
        envelope, TYPE_BUNDLE, _role_keys(root, "bundle"), _threshold(root, "bundle")
    ):
        return Refusal("bundle_signature")
    try:
        return Bundle.from_dict(_object(payload))
    except ValueError as error:
        return Refusal("schema", str(error)[:100])


def _bundle_refusal(bundle: Bundle, here: Here) -> Refusal | None:
    if bundle.fleet_id != here.fleet_id:
        return Refusal("bundle_audience")
    if bundle.schema != SCHEMA:
        return Refusal("schema", "schema")
    for key, value in pins_of(bundle.mandatory, bundle.meta).items():
        if key_fault(key) or value_fault(key, value):
            return Refusal("schema", key[:200])
    deleted: tuple[object, ...] = bundle.delete  # JSON: the annotation is a wish
    if not all(isinstance(key, str) and key for key in deleted):
        return Refusal("schema", "delete")
    if bundle.not_before_ns > here.now_ns:
        return Refusal("not_yet")
    if _version(bundle.min_agent) > _version(here.client_version):
        return Refusal("agent_too_old", bundle.min_agent[:20])
    return None


def _allow_refusal(bundle: Bundle, allow: AllowList) -> Refusal | None:
    if allow.is_malformed:
        return Refusal("allow_list_malformed")
    for key, value in pins_of(bundle.mandatory, bundle.meta).items():
        # A map for a value is judged leaf by leaf too: a pin of a parent must not smuggle a child.
        below = leaves(value) if isinstance(value, dict) else {}
        named = {key: value} | {f"{key}.{dotted(path)}": leaf for path, leaf in below.items()}
        for name, leaf in named.items():
            if not allow.permits(name, leaf):
                return Refusal("not_allowed", name)
    return None


def _object(payload: bytes) -> object:
    """Parsed JSON. Errors: ValueError, also for nesting that would exhaust the stack."""
    try:
        parsed: object = json.loads(payload)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return parsed


def _role_keys(root: Root, role: str) -> dict[str, bytes]:
    """The public keys a role may sign with; a key whose id is not its digest does not count."""
    ids = _role(root, role).get("key_ids")
    keys: dict[str, bytes] = {}
    for key_id in ids if isinstance(ids, list) else []:
        entry = root.keys.get(key_id) if isinstance(key_id, str) else None
        public = entry.get("public") if isinstance(entry, dict) else None
        if not _is_digest(public) or entry is None or entry.get("scheme") != "ed25519":
            continue
        raw = bytes.fromhex(str(public))
        if sha256_hex(raw) == key_id:
            keys[key_id] = raw
    return keys


def _threshold(root: Root, role: str) -> int:
    """How many signatures a role needs; 0, which never verifies, when the root does not say."""
    value = _role(root, role).get("threshold")
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _role(root: Root, role: str) -> Mapping[str, object]:
    found = root.roles.get(role)
    return found if isinstance(found, dict) else {}


def _is_signed(envelope: bytes, kind: str, keys: Mapping[str, bytes], threshold: int) -> bool:
    try:
        open_envelope(envelope, kind, keys, threshold)
    except DsseError:
        return False
    return True


def _is_digest(value: object) -> bool:
    """Whether a value is 64 lower-case hex digits: a public key's or a digest's written form."""
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value, re.ASCII) is not None


def _version(text: str) -> tuple[int, ...]:
    """A dotted version as numbers; a suffix ends it ("1.2.0rc1" is 1.2)."""
    parts: list[int] = []
    for part in text.split("."):
        if not (part.isascii() and part.isdigit()):
            break
        parts.append(int(part[:9]))
    return tuple(parts)
