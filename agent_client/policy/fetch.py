"""Policy documents from the console: conditional, bounded, and the last good ones kept.

Nothing fetched is trusted or kept here: ``cycle`` keeps what ``verify`` accepted.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from agent_client.contract.dsse import MAX_ENVELOPE_BYTES, DsseError, peek
from agent_client.contract.wire import (
    PATH_POLICY_ASSIGNMENT,
    PATH_POLICY_BUNDLE,
    PATH_POLICY_ROOT,
)
from agent_client.files import read_bytes, write_atomic
from agent_client.http import Answer, ApiError, Transport
from agent_client.policy.state import ASSIGNMENT_FILE, ROOT_FILE, bundle_path, policy_dir

KEPT_BUNDLES: Final = 3
"""The one in force, the one before and one to spare; a bundle may be 256 KiB."""


@dataclass(frozen=True, slots=True)
class Documents:
    """The envelopes to judge; None for what is not there. ``is_none``: nothing is published.

    ``etag`` belongs to the assignment. ``is_new`` is False when the console answered 304.
    """

    root: bytes | None = None
    assignment: bytes | None = None
    bundle: bytes | None = None
    etag: str = ""
    is_new: bool = False
    is_none: bool = False


def kept_documents(home: Path, etag: str = "") -> Documents:
    """The last good documents of a home. Never raises; what cannot be read counts as absent."""
    assignment = _kept(policy_dir(home) / ASSIGNMENT_FILE)
    sha256 = bundle_named_by(assignment)
    bundle = _kept(bundle_path(home, sha256)) if sha256 else None
    return Documents(_kept(policy_dir(home) / ROOT_FILE), assignment, bundle, etag)


def fetch_update(
    transport: Transport,
    credential: str,
    kept: Documents,
    kept_bundle: Callable[[str], bytes | None],
) -> Documents:
    """The newest documents, from the console where they changed. Errors: ApiError, NetworkError.

    ``kept_bundle`` gives the kept envelope of a digest: bundles are immutable and fetched once.
    """
    root = transport.request("GET", PATH_POLICY_ROOT, max_bytes=MAX_ENVELOPE_BYTES).body
    # Without the documents an ETag would win a 304 for something we no longer have.
    etag = kept.etag if kept.assignment is not None and kept.bundle is not None else ""
    answer = _assignment(transport, credential, etag)
    if answer.status == 304:
        return replace(kept, root=root)
    if answer.status == 204 or not answer.body:
        return Documents(root=root, etag=answer.headers.get("etag", ""), is_none=True)
    sha256 = bundle_named_by(answer.body)
    bundle = kept_bundle(sha256) if sha256 else None
    if bundle is None and sha256:
        bundle = _bundle(transport, credential, sha256)
    return Documents(root, answer.body, bundle, answer.headers.get("etag", ""), is_new=True)


def keep_documents(home: Path, documents: Documents, sha256: str) -> None:
    """Keep verified documents as the last good ones; older bundles go. Errors: OSError.

    The bundle before the assignment that names it: a crash between leaves a usable pair.
    """
    if documents.bundle is not None:
        write_atomic(bundle_path(home, sha256), documents.bundle)
    if documents.assignment is not None:
        write_atomic(policy_dir(home) / ASSIGNMENT_FILE, documents.assignment)
    if documents.root is not None:
        write_atomic(policy_dir(home) / ROOT_FILE, documents.root)
    bundles = sorted(policy_dir(home).glob("bundle-*.json"), key=lambda path: path.stat().st_mtime)
    for path in bundles[:-KEPT_BUNDLES]:
        if path != bundle_path(home, sha256):
            path.unlink(missing_ok=True)


def bundle_named_by(envelope: bytes | None) -> str:
    """The bundle digest an assignment names, unverified: it only says what to fetch. "" if none."""
    if envelope is None:
        return ""
    try:
        found = json.loads(peek(envelope)).get("bundle_sha256", "")
    except (DsseError, ValueError, AttributeError, RecursionError):
        return ""
    is_digest = isinstance(found, str) and len(found) == 64 and found.isalnum() and found.isascii()
    return found if is_digest else ""


def _assignment(transport: Transport, credential: str, etag: str) -> Answer:
    headers = {"If-None-Match": etag} if etag else {}
    return transport.request(
        "GET",
        PATH_POLICY_ASSIGNMENT,
        headers=headers,
        token=credential,
        max_bytes=MAX_ENVELOPE_BYTES,
    )


def _bundle(transport: Transport, credential: str, sha256: str) -> bytes | None:
    try:
        return transport.request(
            "GET", PATH_POLICY_BUNDLE + sha256, token=credential, max_bytes=MAX_ENVELOPE_BYTES
        ).body
    except ApiError as error:
        if error.status == 404:
            return None
        raise


def _kept(path: Path) -> bytes | None:
    try:
        return read_bytes(path, MAX_ENVELOPE_BYTES)
    except OSError:
        return None
