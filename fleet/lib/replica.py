"""A read replica for the questions that pages ask: chosen for a block, left when it is away.

Only blocks that say so read from it: what is read to be changed, and everything about sessions and
permissions, stays with the primary. A replica lags; whatever is read in one block comes from one
of the two, and a page says how old its sums are, so that a lag is seen and not guessed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

import structlog
from django.db import DEFAULT_DB_ALIAS, DatabaseError, InterfaceError, connections
from django.db.models import Model

ALIAS: Final = "replica"
REST_S: Final = 30.0
"""A replica that was away is not asked again for so long: each page would wait for it."""
logger = structlog.get_logger(__name__)
_alias: ContextVar[str] = ContextVar("alias", default=DEFAULT_DB_ALIAS)
_away_until_s = 0.0


def reading_alias() -> str:
    """The database that the running block reads from."""
    return _alias.get()


@contextmanager
def from_replica() -> Iterator[str]:
    """Read from the replica in this block when there is one that answers; the alias.

    Inside a transaction on the primary it stays there: what was just written has to be seen.
    """
    token = _alias.set(_choose())
    try:
        yield _alias.get()
    finally:
        _alias.reset(token)


def _choose() -> str:
    global _away_until_s  # noqa: PLW0603  # one for the process; a race costs one more try
    if _alias.get() == ALIAS:
        return ALIAS
    if ALIAS not in connections.settings or connections[DEFAULT_DB_ALIAS].in_atomic_block:
        return DEFAULT_DB_ALIAS
    if time.monotonic() < _away_until_s:
        return DEFAULT_DB_ALIAS
    try:
        with connections[ALIAS].cursor() as cursor:
            cursor.execute("SELECT 1")
    except (DatabaseError, InterfaceError) as error:
        connections[ALIAS].close()
        _away_until_s = time.monotonic() + REST_S
        logger.warning("replica_away", kind=type(error).__name__, rest_s=REST_S)
        return DEFAULT_DB_ALIAS
    return ALIAS


class ReplicaRouter:
    """Django's router: reads of a block go where the block reads, all else to the primary."""

    def db_for_read(self, model: type[Model], **_hints: object) -> str:
        """The block's database."""
        return _alias.get()

    def db_for_write(self, model: type[Model], **_hints: object) -> str:
        """The primary."""
        return DEFAULT_DB_ALIAS

    def allow_relation(self, _one: Model, _other: Model, **_hints: object) -> bool:
        """Both hold the same rows."""
        return True

    def allow_migrate(self, db: str, _app_label: str, **_hints: object) -> bool:
        """Migrations reach the replica by replication."""
        return db == DEFAULT_DB_ALIAS
