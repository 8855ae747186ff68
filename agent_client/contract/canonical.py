"""Canonical JSON: the single definition of "the same bytes".

Source: RFC 8785 in spirit (sorted keys, no white space, UTF-8); numbers are
limited to what both sides agree on without its float grammar: integers within
64 bits and finite floats in Python's shortest form.
"""

from __future__ import annotations

import hashlib
import json


def canonical_json(value: object) -> bytes:
    """The canonical bytes of a JSON value.

    Errors: ValueError for NaN, infinity or lone surrogates; TypeError for what is no JSON.
    """
    text = json.dumps(
        value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True
    )
    return text.encode("utf-8")


def sha256_hex(data: bytes) -> str:
    """Lower-case hex SHA-256, 64 characters."""
    return hashlib.sha256(data).hexdigest()


def digest_of(value: object) -> str:
    """Hex SHA-256 of a value's canonical JSON; the name a document is addressed by."""
    return sha256_hex(canonical_json(value))
