"""Minting and checking secrets: only a keyed digest is stored, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass

from django.conf import settings

from agent_client.contract.tokens import KEY_ID_HEX, SECRET_HEX, Token


@dataclass(frozen=True, slots=True)
class StoredSecret:
    """What the database keeps of a token: hex HMAC-SHA256 and the id of its pepper."""

    key_id: str
    digest: str
    pepper_id: str


def mint(prefix: str) -> tuple[Token, StoredSecret]:
    """A fresh token of 256 random bits and what to store of it."""
    token = Token(prefix, secrets.token_hex(KEY_ID_HEX // 2), secrets.token_hex(SECRET_HEX // 2))
    pepper_id = settings.FLEET_TOKEN_PEPPER_ID
    return token, StoredSecret(token.key_id, digest(token, pepper_id), pepper_id)


def digest(token: Token, pepper_id: str) -> str:
    """Hex HMAC-SHA256 of the whole token under a pepper.

    Errors: KeyError when the pepper is no longer configured.
    """
    pepper = settings.FLEET_TOKEN_PEPPERS[pepper_id].encode("utf-8")
    return hmac.new(pepper, token.text().encode("ascii"), hashlib.sha256).hexdigest()


def matches(token: Token, stored: StoredSecret) -> bool:
    """Whether a token is the stored one. Never raises: a pepper that is gone matches nothing.

    The comparison takes the same time wherever the digests differ.
    """
    if stored.pepper_id not in settings.FLEET_TOKEN_PEPPERS:
        return False
    return hmac.compare_digest(digest(token, stored.pepper_id), stored.digest)
