"""The written form of secrets: prefix, public id, random part, checksum.

``hfe_<key id>_<secret><checksum>`` enrolls, ``hfa_…`` is an install's own
credential. The checksum lets both sides refuse a mistyped token before any
query; it is no protection. The enrollment string an operator copies adds
``.<root fingerprint>``, so that the policy root is pinned out of band.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from typing import Final

PREFIX_ENROLL: Final = "hfe"
PREFIX_INSTALL: Final = "hfa"
KEY_ID_HEX: Final = 12
SECRET_HEX: Final = 64
CHECKSUM_HEX: Final = 8
FINGERPRINT_HEX: Final = 64

_TOKEN = re.compile(r"(hf[ea])_([0-9a-f]{12})_([0-9a-f]{64})([0-9a-f]{8})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Token:
    """A token taken apart; ``secret`` is 256 bits in hex and never logged."""

    prefix: str
    key_id: str
    secret: str

    def __repr__(self) -> str:
        return f"Token({self.prefix}_{self.key_id}_…)"

    def text(self) -> str:
        """The full written form, 89 characters."""
        head = f"{self.prefix}_{self.key_id}_{self.secret}"
        return head + checksum(head)


def checksum(head: str) -> str:
    """CRC-32 of everything before it, 8 hex digits (RFC 1952)."""
    return f"{zlib.crc32(head.encode('ascii')):08x}"


def parse_token(text: str) -> Token | None:
    """The token of a string; None when its form or checksum is wrong. Never raises."""
    match = _TOKEN.fullmatch(text)
    if match is None:
        return None
    token = Token(match[1], match[2], match[3])
    return token if token.text() == text else None


def parse_enrollment(text: str) -> tuple[Token, str] | None:
    """Token and root fingerprint of the string an operator copies; None when malformed."""
    written, dot, fingerprint = text.strip().partition(".")
    token = parse_token(written)
    if token is None or token.prefix != PREFIX_ENROLL or not dot:
        return None
    if re.fullmatch(r"[0-9a-f]{64}", fingerprint, re.ASCII) is None:
        return None
    return token, fingerprint
