"""Canaries: words that stand for content, and the disguises in which they are looked for."""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

PIECE_CHARS = 12
"""Half of a canary: long enough that no other data holds it by chance."""


@dataclass(frozen=True, slots=True)
class Canary:
    """One unique word for one free-text field; ``text`` is what goes into the field."""

    field: str
    token: str

    @property
    def text(self) -> str:
        """A sentence with the word in it, and with characters that encodings change."""
        return f'please {self.token} ünd {{}} & "{self.token}"'

    def traces_in(self, data: bytes) -> list[str]:
        """The disguises in which the word, or half of it, occurs."""
        return [name for name, shape in self._shapes() if shape in data]

    def _shapes(self) -> Iterator[tuple[str, bytes]]:
        raw = self.token.encode()
        yield "raw", raw
        yield "reversed", raw[::-1]
        yield "split", raw[:PIECE_CHARS]
        yield "split", raw[PIECE_CHARS:]
        yield "upper", raw.upper()
        yield "hex", raw.hex().encode()
        yield "url", quote(self.token, safe="").encode()
        yield "utf-16", self.token.encode("utf-16-le")
        yield "json", json.dumps(self.token)[1:-1].encode()
        for shift in range(3):
            # What base64 makes of the word wherever it begins within three bytes.
            encoded = base64.b64encode(b"\0" * shift + raw)
            yield "base64", encoded[4 if shift else 0 : -4]


def canary_of(field: str, number: int = 0) -> Canary:
    """The canary of a field: letters and digits that spell nothing and match no rule."""
    mixed = zlib.crc32(f"{field}/{number}".encode()), zlib.crc32(f"{number}/{field}!".encode())
    letters = "".join(chr(ord("g") + int(digit, 16)) for digit in f"{mixed[0]:08x}{mixed[1]:08x}")
    return Canary(field, f"qz{letters}xk{letters[::-1][:4]}")


def unpacked(data: bytes) -> bytes:
    """The bytes, and behind them what they hold compressed."""
    if data[:2] == b"\x1f\x8b":
        return data + gzip.decompress(data)
    return data


def bytes_below(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, temporary ones included."""
    return {
        str(path.relative_to(folder)): unpacked(path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
