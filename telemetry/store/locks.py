"""The lock that makes one install's batches follow each other."""

from __future__ import annotations

from contextlib import AbstractContextManager
from uuid import UUID

from fleet.lib.sql import transaction_lock


def install_transaction(install_id: UUID) -> AbstractContextManager[None]:
    """A transaction in which nobody else writes rows of this install, to its commit.

    So a repeated batch waits for the first and then finds its receipt, and overlapping batches
    cannot deadlock on each other's rows. Other installs do not wait.
    """
    return transaction_lock(f"telemetry-install-{install_id}")
