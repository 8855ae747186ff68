"""A stream under a passphrase: scrypt for the key, AES-GCM in chunks that know their place.

Shape: MAGIC, log2 of scrypt's cost (1 byte), salt (16), nonce prefix (7); then chunks of at most
64 KiB and a tag each. A chunk's nonce is the prefix, its number (4 bytes) and whether it is the
last (1 byte), so that none can be left out, moved, repeated or cut off. The head is signed with
each. Source: Hoang, Reyhanitabar, Rogaway, Vizár: Online authenticated encryption (STREAM), 2015.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import IO, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fleet.ops.files import OpsError

MAGIC: Final = b"HFBK1\n"
CHUNK: Final = 64 * 1024
TAG: Final = 16
COST_LOG2: Final = 15
"""32 MiB and a tenth of a second: guessing costs that for each guess."""
MAX_COST_LOG2: Final = 20
"""1 GiB: a forged head must not use up the memory."""
HEAD: Final = len(MAGIC) + 1 + 16 + 7
MIN_PASSPHRASE: Final = 12


def _key(passphrase: bytes, salt: bytes, cost_log2: int) -> bytes:
    cost = 1 << cost_log2
    memory = 128 * 8 * cost * 2
    return hashlib.scrypt(passphrase, salt=salt, n=cost, r=8, p=1, maxmem=memory, dklen=32)


def _nonce(prefix: bytes, number: int, *, is_last: bool) -> bytes:
    return prefix + number.to_bytes(4, "big") + (b"\1" if is_last else b"\0")


class SealingWriter:
    """Seals what is written to it into another stream; ``finish`` writes the last chunk."""

    def __init__(self, out: IO[bytes], passphrase: bytes) -> None:
        salt, self._prefix = secrets.token_bytes(16), secrets.token_bytes(7)
        self._head = MAGIC + bytes([COST_LOG2]) + salt + self._prefix
        self._aead = AESGCM(_key(passphrase, salt, COST_LOG2))
        self._out, self._held, self._number = out, bytearray(), 0
        out.write(self._head)

    def write(self, data: bytes) -> int:
        """Take bytes; the newest chunk is held back, because it may be the last."""
        self._held += data
        while len(self._held) > CHUNK:
            self._seal(bytes(self._held[:CHUNK]), is_last=False)
            del self._held[:CHUNK]
        return len(data)

    def flush(self) -> None:
        """Pass on what is sealed."""
        self._out.flush()

    def finish(self) -> None:
        """Seal the rest as the last chunk."""
        self._seal(bytes(self._held), is_last=True)
        self._held.clear()

    def _seal(self, data: bytes, *, is_last: bool) -> None:
        nonce = _nonce(self._prefix, self._number, is_last=is_last)
        self._out.write(self._aead.encrypt(nonce, data, self._head))
        self._number += 1


def is_sealed(head: bytes) -> bool:
    """Whether a file that begins so is sealed."""
    return head.startswith(MAGIC)


def unseal(source: IO[bytes], out: IO[bytes], passphrase: bytes) -> None:
    """The plain bytes of a sealed stream.

    Errors: OpsError for a wrong passphrase and for any change; what was written until then is
    not to be used.
    """
    head = source.read(HEAD)
    if len(head) != HEAD or not is_sealed(head) or head[len(MAGIC)] > MAX_COST_LOG2:
        raise OpsError("This is no sealed backup.")
    cost, salt, prefix = head[len(MAGIC)], head[len(MAGIC) + 1 : -7], head[-7:]
    aead = AESGCM(_key(passphrase, salt, cost))
    chunk, number = source.read(CHUNK + TAG), 0
    while True:
        following = source.read(CHUNK + TAG)
        nonce = _nonce(prefix, number, is_last=not following)
        try:
            out.write(aead.decrypt(nonce, chunk, head))
        except InvalidTag:
            raise OpsError(
                "The passphrase is not the one it was sealed with."
                if number == 0
                else "The backup was damaged or cut off after it was written."
            ) from None
        if not following:
            return
        chunk, number = following, number + 1


def read_passphrase(path: str) -> bytes:
    """The passphrase in a file, without the line's end. Errors: OpsError."""
    try:
        with open(path, "rb") as stream:  # noqa: PTH123 -- /dev/stdin and /dev/fd are paths too
            passphrase = stream.read(4096).strip()
    except OSError as error:
        raise OpsError(f"--passphrase-file {path}: {error.strerror}") from error
    if len(passphrase) < MIN_PASSPHRASE:
        raise OpsError(f"--passphrase-file {path}: use {MIN_PASSPHRASE} characters or more.")
    return passphrase
