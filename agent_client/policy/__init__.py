"""Policy on the agent: fetch → verify → apply → acknowledge, and the posture in force.

``resolve`` and ``ensure_install_id`` are cheap; ``sync`` loads the network and YAML on use.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from agent_client.policy.posture import Posture, ensure_install_id, resolve

if TYPE_CHECKING:
    from agent_client.http import Transport
    from agent_client.policy.cycle import SyncResult

__all__ = ["Posture", "ensure_install_id", "resolve", "sync"]


def sync(
    home: Path | None = None,
    *,
    transport: Transport | None = None,
    clock_ns: Callable[[], int] | None = None,
    verify_host: bool = False,
) -> SyncResult:
    """One whole round: fetch, verify, apply, read back, check in. Never raises; see SyncResult."""
    from agent_client.policy.cycle import run_sync

    return run_sync(home, transport=transport, clock_ns=clock_ns, verify_host=verify_host)
