"""Keyed pseudonyms: the same person stays the same, and nobody without the key learns who.

Form: `pn_` and 32 hexadecimal digits, the first half of HMAC-SHA-256 (RFC 2104) under the key of
the install, over `PSEUDONYM_CONTEXT` and the value in UTF-8. It passes the scrubber unchanged in
every mode.
"""

from __future__ import annotations

import hashlib
import hmac

PSEUDONYM_CONTEXT = b"hermes-fleet pseudonym v1\0"
# Shorter keys could be tried out; ids of users are guessable, so the key is all that protects them.
MIN_KEY_BYTES = 16


def pseudonym(value: str, key: bytes) -> str:
    """What stands for the value wherever rows must still join.

    Equal values under one key give equal pseudonyms, other keys other ones. Raises ValueError for
    a key under `MIN_KEY_BYTES`.
    """
    if len(key) < MIN_KEY_BYTES:
        raise ValueError(f"a pseudonym needs a key of {MIN_KEY_BYTES} bytes or more")
    text = PSEUDONYM_CONTEXT + value.encode("utf-8", "surrogatepass")
    return "pn_" + hmac.new(key, text, hashlib.sha256).hexdigest()[:32]
