"""The fleet's keys and the sealing of its documents.

The root key signs who may sign; the policy key, which must be online, signs bundles and
assignments. Each comes from the environment or from a file of mode 0600 that is made on
first use. A web host needs no root key when ``keys/root.json`` was signed elsewhere.
"""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from django.conf import settings

from agent_client.contract import dsse
from agent_client.contract.canonical import sha256_hex
from agent_client.contract.policy_doc import TYPE_ASSIGNMENT, TYPE_BUNDLE, TYPE_ROOT, Root
from fleet.env import made_once, make_private_dir
from fleet.lib.clock import datetime_to_ns, now_ns
from fleet.models import Fleet

ROOT_LIFE_NS: Final = 10 * 365 * 86_400 * 1_000_000_000
"""Ten years: an agent whose root has expired can only be enrolled anew, by hand."""
SEED_BYTES: Final = 32


class SigningError(Exception):
    """Keys that cannot be read, or a root document that does not fit them."""


@dataclass(frozen=True, slots=True)
class SignedRoot:
    """The root document in force: its envelope, its digest and its key's fingerprint."""

    envelope: bytes
    etag: str
    fingerprint: str
    version: int


def policy_key() -> dsse.SigningKey:
    """The online key. Errors: SigningError."""
    return _key(settings.FLEET_POLICY_KEY, settings.FLEET_KEYS_DIR / "policy.key")


def root_key() -> dsse.SigningKey | None:
    """The root key; None on a host that has only a root document signed elsewhere."""
    path = settings.FLEET_KEYS_DIR / "root.key"
    if not settings.FLEET_ROOT_KEY and not path.exists() and _root_path().exists():
        return None
    return _key(settings.FLEET_ROOT_KEY, path)


def _key(given: str, path: Path) -> dsse.SigningKey:
    return _parsed_key(given or made_once(path, random_bytes=SEED_BYTES), path.name)


@lru_cache(maxsize=8)
def _parsed_key(text: str, name: str) -> dsse.SigningKey:
    try:
        seed = bytes.fromhex(text)
    except ValueError as error:
        raise SigningError(f"{name}: not hex") from error
    if len(seed) != SEED_BYTES:
        raise SigningError(f"{name}: an Ed25519 seed is 64 hex digits")
    return dsse.SigningKey(seed)


def fleet_id() -> str:
    """The fleet's id as it is signed into every document."""
    return _fleet_facts()[0]


def _fleet_facts() -> tuple[str, int]:
    fleet = Fleet.current()
    return str(fleet.fleet_id), datetime_to_ns(fleet.created_at)


def current_root() -> SignedRoot:
    """The root document in force, made or renewed when this host holds the root key.

    Version 1 is dated by the fleet's birth, so that several hosts with the same keys make
    the same bytes. Errors: SigningError when the stored one does not name our policy key.
    """
    online, root = policy_key(), root_key()
    stored = _stored_root()
    if stored is not None and _names_key(stored[1], online.key_id):
        return _signed(stored[0], stored[1])
    if root is None:
        raise SigningError("keys/root.json does not name the policy key; sign a new one")
    fleet, born_ns = _fleet_facts()
    version = stored[1].version + 1 if stored else 1
    issued_ns = now_ns() if stored else born_ns
    document = root_document(
        fleet=fleet, version=version, issued_ns=issued_ns, root=root, online=online
    )
    envelope = dsse.seal(TYPE_ROOT, document.to_dict(), [root])
    _write_root(envelope)
    return _signed(envelope, document)


def root_document(
    *, fleet: str, version: int, issued_ns: int, root: dsse.SigningKey, online: dsse.SigningKey
) -> Root:
    """The document that binds both keys to their roles, one signature each."""
    keys = {key.key_id: {"scheme": "ed25519", "public": key.public.hex()} for key in (root, online)}
    role: dict[str, object] = {"key_ids": [online.key_id], "threshold": 1}
    return Root(
        fleet_id=fleet,
        version=version,
        issued_ns=issued_ns,
        expires_ns=issued_ns + ROOT_LIFE_NS,
        keys=keys,
        roles={
            "root": {"key_ids": [root.key_id], "threshold": 1},
            "bundle": role,
            "assignment": role,
        },
    )


def _root_path() -> Path:
    return Path(settings.FLEET_KEYS_DIR) / "root.json"


def _stored_root() -> tuple[bytes, Root] | None:
    """The stored document if it is this fleet's; one copied from another fleet is not used."""
    try:
        envelope = _root_path().read_bytes()
        document = Root.from_dict(json.loads(dsse.peek(envelope)))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise SigningError(f"keys/root.json: {type(error).__name__}") from error
    return (envelope, document) if document.fleet_id == fleet_id() else None


def _names_key(document: Root, key_id: str) -> bool:
    named = [document.roles.get(role, {}).get("key_ids", []) for role in ("bundle", "assignment")]
    return all(isinstance(ids, list) and key_id in ids for ids in named)


def _signed(envelope: bytes, document: Root) -> SignedRoot:
    ids = document.roles["root"]["key_ids"]
    if not isinstance(ids, list) or not ids:
        raise SigningError("keys/root.json names no root key")
    return SignedRoot(envelope, sha256_hex(envelope), str(ids[0]), document.version)


def _write_root(envelope: bytes) -> None:
    path = _root_path()
    make_private_dir(path.parent)  # with both keys from the environment nothing has made it yet
    part = path.with_name(f".root.{os.getpid()}.{secrets.token_hex(4)}")
    part.write_bytes(envelope)
    part.replace(path)


def root_fingerprint() -> str:
    """What operators compare and enrollment strings carry: 64 hex digits."""
    return current_root().fingerprint


def seal_bundle(payload: str) -> bytes:
    """The envelope of a stored bundle's payload under the key of today."""
    return dsse.seal(TYPE_BUNDLE, json.loads(payload), [policy_key()])


def seal_assignment(document: dict[str, object]) -> bytes:
    """The envelope of an assignment."""
    return dsse.seal(TYPE_ASSIGNMENT, document, [policy_key()])
