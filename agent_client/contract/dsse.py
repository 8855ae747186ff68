"""DSSE envelopes with Ed25519: sign, and verify against a threshold of keys.

Source: DSSE protocol v1 (secure-systems-lab/dsse), RFC 8032. An envelope is
``{"payloadType", "payload": base64, "signatures": [{"keyid", "sig": base64}]}``;
what is signed is PAE(payloadType, payload), never the parsed JSON.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from agent_client.contract.canonical import canonical_json, sha256_hex

MAX_ENVELOPE_BYTES: Final = 512 * 1024
"""A 256 KiB bundle in base64 with room for signatures."""


class DsseError(ValueError):
    """An envelope that is malformed or not signed by enough trusted keys.

    ``code`` is one of malformed_envelope, wrong_payload_type, bad_signature.
    """

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True, slots=True)
class SigningKey:
    """An Ed25519 private key, 32 raw bytes; never printed."""

    seed: bytes

    def __repr__(self) -> str:
        return "SigningKey(…)"

    @property
    def public(self) -> bytes:
        """The 32 raw public bytes."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return Ed25519PrivateKey.from_private_bytes(self.seed).public_key().public_bytes_raw()

    @property
    def key_id(self) -> str:
        """Hex SHA-256 of the public bytes; also the fingerprint operators compare."""
        return sha256_hex(self.public)

    def sign(self, message: bytes) -> bytes:
        """64 signature bytes."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return Ed25519PrivateKey.from_private_bytes(self.seed).sign(message)


def pae(payload_type: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def seal(payload_type: str, document: object, keys: Sequence[SigningKey]) -> bytes:
    """The canonical bytes of an envelope over a document, signed by every key given."""
    payload = canonical_json(document)
    message = pae(payload_type, payload)
    return canonical_json(
        {
            "payloadType": payload_type,
            "payload": base64.b64encode(payload).decode("ascii"),
            "signatures": [
                {"keyid": key.key_id, "sig": base64.b64encode(key.sign(message)).decode("ascii")}
                for key in keys
            ],
        }
    )


def open_envelope(
    envelope: bytes, payload_type: str, trusted: Mapping[str, bytes], threshold: int = 1
) -> bytes:
    """The payload bytes, once ``threshold`` different trusted keys are seen to have signed them.

    ``trusted`` maps key id to 32 public bytes. Parse nothing of the envelope before this returns.
    Errors: DsseError.
    """
    kind, payload, signatures = _parse(envelope)
    if kind != payload_type:
        raise DsseError("wrong_payload_type")
    message = pae(kind, payload)
    good = {
        key_id
        for key_id, signature in signatures
        if key_id in trusted and verify(trusted[key_id], message, signature)
    }
    if threshold < 1 or len(good) < threshold:
        raise DsseError("bad_signature")
    return payload


def peek(envelope: bytes) -> bytes:
    """The payload of an envelope, unverified: for display and for a self-signed root only."""
    return _parse(envelope)[1]


def verify(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether an Ed25519 signature holds. Never raises on hostile bytes."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _parse(envelope: bytes) -> tuple[str, bytes, list[tuple[str, bytes]]]:
    if len(envelope) > MAX_ENVELOPE_BYTES:
        raise DsseError("malformed_envelope")
    try:
        data = json.loads(envelope)
        kind, payload = data["payloadType"], base64.b64decode(data["payload"], validate=True)
        signatures = [
            (str(item["keyid"]), base64.b64decode(item["sig"], validate=True))
            for item in data["signatures"]
        ]
    except (ValueError, KeyError, TypeError, RecursionError, binascii.Error) as error:
        raise DsseError("malformed_envelope") from error
    if not isinstance(kind, str):
        raise DsseError("malformed_envelope")
    return kind, payload, signatures
