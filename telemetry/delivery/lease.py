"""Who is at it: a lease taken, kept and given back by conditional UPDATEs whose count is looked at.

The row is the truth, not a lock of a session: a worker that was killed loses it when its time is
over. Whoever holds one writes with ``mine`` in the condition, so that a worker that slept past its
lease changes nothing any more.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db import DatabaseError, models
from django.db.models import Q

from fleet.lib.clock import now


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease on one row of a model that has ``lease_owner`` and ``lease_until``."""

    model: type[models.Model]
    pk: int
    owner: str
    for_s: float

    def renew(self) -> bool:
        """Hold it for another ``for_s`` seconds; False: it is somebody else's by now."""
        until = now() + timedelta(seconds=self.for_s)
        return self.update(lease_until=until)

    def update(self, **values: Any) -> bool:  # noqa: ANN401 -- whatever the model's fields hold
        """Write into the row if it is still ours; whether it was."""
        return bool(self.mine().update(**values))

    def mine(self) -> models.QuerySet[models.Model]:
        """The row, if it is still ours."""
        return self.model._default_manager.filter(pk=self.pk, lease_owner=self.owner)  # noqa: SLF001 -- the documented way from a model class

    def release(self) -> None:
        """Let others have it at once."""
        self.update(lease_owner="", lease_until=None)


def owner_name() -> str:
    """A name no other holder has: host, process, and a random part for each holder in it."""
    return f"{socket.gethostname()[:40]}:{os.getpid()}:{secrets.token_hex(4)}"


def take(model: type[models.Model], pk: int, *, for_s: float) -> Lease | None:
    """A lease on a row that nobody holds, or whose holder's time is over; else None."""
    lease = Lease(model, pk, owner_name(), for_s)
    moment = now()
    free = Q(lease_until=None) | Q(lease_until__lt=moment)
    taken = model._default_manager.filter(free, pk=pk).update(  # noqa: SLF001 -- as above
        lease_owner=lease.owner, lease_until=moment + timedelta(seconds=for_s)
    )
    return lease if taken else None


@contextmanager
def held(model: type[models.Model], pk: int, *, for_s: float) -> Iterator[Lease | None]:
    """A block with a lease, or with None when somebody else has it."""
    lease = take(model, pk, for_s=for_s)
    try:
        yield lease
    finally:
        if lease is not None:
            with suppress(DatabaseError):  # it runs out by itself
                lease.release()
