"""Dead letters: bodies that were refused for good, kept as they were sent, within a bound.

All of them together hold at most FLEET_DEAD_LETTER_MAX_BYTES; beyond it the oldest go. Those of an
erased install go whole: a body is not taken apart, what others had in it was counted as dead.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from datetime import timedelta
from typing import Final
from uuid import UUID

import structlog
from django.conf import settings
from django.db.models import Sum

from fleet.lib.clock import now
from fleet.models import Erasure
from telemetry.models import DeadLetter, RelayDestination

logger = structlog.get_logger(__name__)
MAX_ERROR_CHARS: Final = 300
_CHUNK: Final = 50
MAX_BODY_BYTES: Final = 64 * 1024**2
"""Bodies are made smaller than this; what claims to be more is not unpacked."""


def keep_letter(
    destination: RelayDestination,
    signal: str,
    data: bytes,
    *,
    record_count: int,
    status: int | None,
    error: str,
) -> DeadLetter | None:
    """Keep a compressed body; None when it is larger than all of them may be together.

    In the transaction of the cursor that goes on behind it.
    """
    if len(data) > settings.FLEET_DEAD_LETTER_MAX_BYTES:
        return None
    letter = DeadLetter.objects.create(
        destination=destination,
        signal=signal,
        record_count=record_count,
        body=data,
        body_bytes=len(data),
        status=status,
        error=error[:MAX_ERROR_CHARS],
        at=now(),
    )
    bound_letters()
    return letter


def bound_letters() -> int:
    """Drop the oldest letters beyond the bound; how many."""
    most_bytes = settings.FLEET_DEAD_LETTER_MAX_BYTES
    over_bytes = (DeadLetter.objects.aggregate(all=Sum("body_bytes"))["all"] or 0) - most_bytes
    dropped = 0
    while over_bytes > 0:
        oldest = list(DeadLetter.objects.order_by("pk").values_list("pk", "body_bytes")[:_CHUNK])
        if not oldest:
            break
        chosen = []
        for pk, size in oldest:
            if over_bytes <= 0:
                break
            chosen.append(pk)
            over_bytes -= size
        dropped += DeadLetter.objects.filter(pk__in=chosen).delete()[0]
    if dropped:
        logger.warning("dead_letters_dropped", count=dropped, reason="FLEET_DEAD_LETTER_MAX_BYTES")
    return dropped


def forget_letters() -> int:
    """Drop letters as old as rows may get, and what is beyond the bound; how many."""
    oldest = now() - timedelta(days=settings.FLEET_RETENTION_DAYS)
    old = DeadLetter.objects.filter(at__lt=oldest).delete()[0]
    return old + bound_letters()


def purge_install(install_id: UUID) -> int:
    """Drop every collector's letter that holds a record of an install; how many.

    A letter that cannot be unpacked is dropped as well. Streams' letters hold no telemetry.
    """
    mark = str(install_id).encode()
    keys = DeadLetter.objects.filter(destination__isnull=False).values_list("pk", flat=True)
    found = []
    for pk in list(keys):
        body = DeadLetter.objects.filter(pk=pk).values_list("body", flat=True).first()
        if body is not None and _holds(bytes(body), mark):
            found.append(pk)
    return DeadLetter.objects.filter(pk__in=found).delete()[0] if found else 0


def erased_among(install_ids: Iterable[UUID]) -> set[UUID]:
    """Which of some installs have been erased, or are about to be."""
    return set(Erasure.objects.filter(pk__in=set(install_ids)).values_list("pk", flat=True))


def _holds(data: bytes, mark: bytes) -> bool:
    try:
        unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        plain = unpacker.decompress(data, MAX_BODY_BYTES)
    except zlib.error:
        return True
    return mark in plain or not unpacker.eof
