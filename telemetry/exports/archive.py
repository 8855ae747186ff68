"""Files as one .zip, made while it is sent: nothing is held, nothing is written to a disk."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

FLUSH_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of it."""

    name: str
    written_at: datetime
    size_bytes: int
    pieces: Iterator[bytes]


def zip_stream(entries: Iterable[Entry]) -> Iterator[bytes]:
    """The archive's bytes. Stored, not packed: what is large is packed already, or asked to be.

    Errors: what a file's pieces raise; the archive then ends without its directory, which every
    reader takes for the damage that it is.
    """
    out = _Pipe()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for entry in entries:
            moment = entry.written_at.astimezone(UTC)
            info = zipfile.ZipInfo(entry.name, moment.timetuple()[:6])
            info.external_attr = 0o600 << 16
            info.file_size = entry.size_bytes
            with archive.open(info, "w", force_zip64=True) as member:
                for piece in entry.pieces:
                    member.write(piece)
                    if out.size_bytes >= FLUSH_BYTES:
                        yield out.taken()
    yield out.taken()


class _Pipe(io.RawIOBase):
    """What zipfile writes to and what is taken from it. It cannot seek, so zipfile does not."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[bytes] = []
        self.size_bytes = 0

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def write(self, data: bytes | bytearray | memoryview) -> int:  # type: ignore[override]  # bytes, as zipfile gives them
        piece = bytes(data)
        self._parts.append(piece)
        self.size_bytes += len(piece)
        return len(piece)

    def taken(self) -> bytes:
        data = b"".join(self._parts)
        self._parts, self.size_bytes = [], 0
        return data
