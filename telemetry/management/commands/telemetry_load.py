"""Load a bulk export of an air-gapped install, on the same way in as a push."""

from __future__ import annotations

import hashlib
import re
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from uuid import UUID, uuid5

from django.core.management.base import BaseCommand, CommandError

from agent_client.contract import wire
from fleet.enroll.erasure import is_erased
from fleet.models import Install
from telemetry.ingest.decode import Body, IngestError
from telemetry.ingest.receive import BatchHeader, receive_batch
from telemetry.models import IngestBatch
from telemetry.models.rollups import NO_GROUP

BATCH_BYTES: Final = 6_000_000
"""The size of a push's batch: the same limits and the same memory."""
_SESSION: Final = re.compile(rb'(?:\{"records":)?[\[,\s]*\{\s*"_kind"\s*:\s*"session"')


class Command(BaseCommand):
    help = "Load an NDJSON file written by `hermes-telemetry export` for an enrolled install."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path)
        parser.add_argument("--install", type=UUID, required=True, help="the install's id")

    def handle(self, *args: object, file: Path, install: UUID, **options: object) -> None:
        known = Install.objects.filter(pk=install).values_list("group_id", flat=True)
        if not known:
            why = "This install was erased; nothing of it is loaded." if is_erased(install) else ""
            raise CommandError(why or "No such install.")
        totals = dict.fromkeys(("received", "accepted", "duplicates", "rejected"), 0)
        try:
            for chunk in _chunks(file):
                for name, count in _load(chunk, install, known[0] or NO_GROUP).items():
                    totals[name] += count
        except (IngestError, OSError) as error:
            raise CommandError(str(error)) from None
        self.stdout.write(", ".join(f"{name} {count}" for name, count in totals.items()))


def _chunks(file: Path) -> Iterator[bytes]:
    """The file in whole lines, at most BATCH_BYTES and the contract's lines a piece.

    Without its sessions: they may hold content, which no console takes, and what is refused would
    stay in quarantine.
    """
    lines: list[bytes] = []
    size = 0
    is_session = False
    with file.open("rb") as source:
        # A line without an end must not fill the memory: what is over the limit is cut in two
        # lines, and both are refused.
        while line := source.readline(wire.MAX_LINE_BYTES + 2):
            is_session = is_session or _SESSION.match(line) is not None
            if is_session:
                is_session = not line.endswith(b"\n")  # a long one comes in pieces
                continue
            if lines and (size + len(line) > BATCH_BYTES or len(lines) >= wire.MAX_LINES - 1):
                yield b"".join(lines)
                lines, size = [], 0
            lines.append(line)
            size += len(line)
    if lines:
        yield b"".join(lines)


def _load(chunk: bytes, install_id: UUID, group_id: int) -> dict[str, int]:
    digest = hashlib.sha256(chunk)
    # The id comes from the content: a file that is loaded twice is the same batches again.
    batch_id = uuid5(install_id, digest.hexdigest())
    body = Body(chunk, "identity", len(chunk), digest.digest(), digest.hexdigest())
    header = BatchHeader(
        install_id=install_id,
        batch_id=batch_id,
        source=IngestBatch.Source.FILE,
        client="telemetry_load",
        group_id=group_id,
    )
    receipt = wire.Receipt.from_dict(receive_batch(header, body).receipt)
    return {
        "received": receipt.received,
        "accepted": sum(receipt.accepted.values()),
        "duplicates": receipt.duplicates,
        "rejected": sum(receipt.rejected_counts.values()),
    }
