"""The locks: one makes an install's batches follow each other, one keeps writers of cells apart."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Final
from uuid import UUID

from fleet.lib.sql import transaction_lock, try_transaction_lock

ROLLUP_LOCK: Final = "telemetry-rollup"
"""Whoever writes cells holds it: the snapshot that is taken after it sees all that others wrote."""


def install_transaction(install_id: UUID, *, patience_ms: int = 0) -> AbstractContextManager[None]:
    """A transaction in which nobody else writes rows of this install, to its commit.

    So a repeated batch waits for the first and then finds its receipt, and overlapping batches
    cannot deadlock on each other's rows. Other installs do not wait. ``patience_ms``: see
    ``transaction_lock``.
    """
    return transaction_lock(_name(install_id), patience_ms=patience_ms)


def try_install_lock(install_id: UUID) -> bool:
    """The same lock for the rest of the open transaction, unless it is taken.

    For whoever holds a row that the holder of the lock may want: waiting would be a deadlock.
    """
    return try_transaction_lock(_name(install_id))


def _name(install_id: UUID) -> str:
    return f"telemetry-install-{install_id}"
