"""How OTLP export stands, for ``status``: what is configured and what has been sent."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path

from agent_client.config import ClientConfig
from agent_client.otlp.encode import EXTRA_MISSING, is_installed
from agent_client.otlp.progress import Progress, load_progress
from agent_client.otlp.target import Closed, Header, read_headers, shown, target_of
from agent_client.store import Store, StoreError, database_path


@dataclass(frozen=True, slots=True)
class OtlpState:
    """The export of one home. ``problem`` says what keeps it from sending; "" when nothing does.

    ``cursor``, ``left`` and the times are those of the configured endpoint; ``headers`` hold names
    and whether their variables are set, never a value.
    """

    is_enabled: bool
    endpoint: str
    headers: tuple[Header, ...]
    problem: str = ""
    cursor: int = 0
    left: int = 0
    success_ns: int = 0
    last_ns: int = 0
    last_status: str = ""
    last_reason: str = ""
    last_detail: str = ""


def otlp_state(home: Path, config: ClientConfig) -> OtlpState:
    """The state as it is; makes nothing, sends nothing, never raises for what is in the files."""
    target = target_of(config)
    headers, _ = read_headers(config)
    problem = target.detail if isinstance(target, Closed) else ""
    if not problem and not is_installed():
        problem = EXTRA_MISSING
    progress, left = Progress(), 0
    if not isinstance(target, Closed) and database_path(home).exists():
        try:
            with Store(home) as store:
                progress = load_progress(store, target.identity)
                left = store.pending_count(progress.cursor)
        except (StoreError, sqlite3.Error) as error:
            problem = problem or str(error)
    return OtlpState(
        is_enabled=config.get("telemetry.export.otlp.enabled") is True,
        endpoint=shown(str(config.get("telemetry.export.otlp.endpoint") or "")),
        headers=headers,
        problem=problem,
        cursor=progress.cursor,
        left=left,
        success_ns=progress.success_ns,
        last_ns=progress.last_ns,
        last_status=progress.last_status,
        last_reason=progress.last_reason,
        last_detail=progress.last_detail,
    )
