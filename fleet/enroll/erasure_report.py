"""Erasure reports: sealed with the fleet's policy key, verified with nothing but the file.

Shape: ``{"report": DSSE envelope, "root": DSSE envelope}``. The root document names the key that
signed the report; whoever knows the root's fingerprint (it is in every enrollment string) needs
neither this console nor its database.
"""

from __future__ import annotations

import json
from typing import Final

from agent_client.contract import dsse
from agent_client.contract.canonical import canonical_json, sha256_hex
from agent_client.contract.policy_doc import TYPE_ROOT, Root
from fleet.policy.signing import current_root, policy_key

TYPE_REPORT: Final = "application/vnd.hermes-fleet.erasure-report+json"
REPORT_SCHEMA: Final = 1
MAX_REPORT_BYTES: Final = 2 * dsse.MAX_ENVELOPE_BYTES


class ReportError(ValueError):
    """A file that is no report of this fleet, or not as it was signed."""


def seal_report(document: dict[str, object]) -> bytes:
    """The report as a file: ASCII JSON, the same bytes for the same document and keys."""
    envelope = dsse.seal(TYPE_REPORT, document, [policy_key()])
    return canonical_json(
        {"report": json.loads(envelope), "root": json.loads(current_root().envelope)}
    )


def open_report(data: bytes, *, fingerprint: str) -> dict[str, object]:
    """The report of a file, once it is seen to be signed under the root of this fingerprint.

    Needs no database. Errors: ReportError.
    """
    if len(data) > MAX_REPORT_BYTES:
        raise ReportError("the file is too large for a report")
    try:
        parts = json.loads(data)
        root = _root(canonical_json(parts["root"]), fingerprint)
        envelope = canonical_json(parts["report"])
        payload = dsse.open_envelope(envelope, TYPE_REPORT, _signers(root))
        document = json.loads(payload)
    except dsse.DsseError as error:
        raise ReportError(f"the signature does not hold ({error.code})") from error
    except ReportError:
        raise
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ReportError("the file is no erasure report") from error
    if document.get("fleet_id") != root.fleet_id:
        raise ReportError("the report is of another fleet than its root")
    assert isinstance(document, dict)  # noqa: S101 -- it has a fleet_id
    return document


def _root(envelope: bytes, fingerprint: str) -> Root:
    """The root document, signed by the key of this fingerprint."""
    root = Root.from_dict(json.loads(dsse.peek(envelope)))
    public = bytes.fromhex(str(root.keys.get(fingerprint, {}).get("public", "")))
    trusted = {fingerprint: public} if sha256_hex(public) == fingerprint else {}
    if not trusted:
        raise ReportError("the report belongs to a fleet with another root key")
    dsse.open_envelope(envelope, TYPE_ROOT, trusted)
    return root


def _signers(root: Root) -> dict[str, bytes]:
    """The keys that the root lets sign bundles: they sign reports as well."""
    named = root.roles.get("bundle", {}).get("key_ids", [])
    ids = [str(one) for one in named] if isinstance(named, list) else []
    return {one: bytes.fromhex(str(root.keys[one]["public"])) for one in ids if one in root.keys}
