"""How far this home has been pushed: the cursor and what the console last said.

Kept in the store's bookkeeping, so that cursor, receipt and reported losses move in one SQLite
transaction. Each plane has a cursor of its own, and it is per fleet: to another console the local
plane starts from its first row.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from agent_client.store import Store

_CURSOR: Final = "push.cursor"
_RECEIPT: Final = "push.receipt"
_BLOCKED: Final = "push.blocked"
_NOT_BEFORE: Final = "push.not_before_ns"
_LAST: Final = "push.last"


@dataclass(frozen=True, slots=True)
class LastReceipt:
    """The console's last receipt, as ``status`` shows it."""

    at_ns: int = 0
    batch_id: str = ""
    received: int = 0
    accepted: int = 0
    duplicates: int = 0
    rejected: int = 0
    rejected_counts: dict[str, int] = field(default_factory=dict)
    policy_etag: str = ""


@dataclass(frozen=True, slots=True)
class Blocked:
    """A batch the console refuses for good; it is kept and tried again at ``retry_ns``."""

    batch_id: str
    code: str
    detail: str
    at_ns: int
    retry_ns: int
    client_version: str


@dataclass(frozen=True, slots=True)
class Progress:
    """The state of pushing to one fleet."""

    cursor: int = 0
    receipt: LastReceipt | None = None
    blocked: Blocked | None = None
    not_before_ns: int = 0
    last_at_ns: int = 0
    last_status: str = ""
    last_reason: str = ""


def load_progress(store: Store, fleet_id: str, plane: str = "local") -> Progress:
    """The progress of a plane towards a fleet; a damaged entry counts as absent."""
    last = _object(store.state_get(_LAST))
    receipt = _object(store.state_get(_of(_RECEIPT, plane)))
    blocked = _object(store.state_get(_of(_BLOCKED, plane)))
    return Progress(
        cursor=_whole(store.state_get(cursor_key(fleet_id, plane))),
        receipt=_receipt(receipt) if receipt.get("fleet_id") == fleet_id else None,
        blocked=_blocked(blocked) if blocked.get("fleet_id") == fleet_id else None,
        not_before_ns=_whole(store.state_get(_NOT_BEFORE)),
        last_at_ns=_whole(str(last.get("at_ns", ""))),
        last_status=str(last.get("status", "")),
        last_reason=str(last.get("reason", "")),
    )


def cursor_key(fleet_id: str, plane: str = "local") -> str:
    """The name of a cursor in the store's bookkeeping."""
    return f"{_of(_CURSOR, plane)}.{fleet_id}"


def _of(name: str, plane: str) -> str:
    """The name of a plane's own entry; the local plane's are the oldest and have none."""
    return name if plane == "local" else f"{name}.{plane}"


def forget_state(store: Store, plane: str, *names: str) -> None:
    """Forget how far a plane got, towards every fleet, and what else stands under ``names``.

    Writes nothing when there is nothing. Errors: StoreError.
    """
    entries = (*names, *(_of(name, plane) for name in (_CURSOR, _RECEIPT, _BLOCKED)))
    held = [key for name in entries for key in store.state_keys(name)]
    if held:
        store.state_set(dict.fromkeys(held))


def receipt_state(
    fleet_id: str, cursor: int, receipt: LastReceipt, plane: str = "local"
) -> dict[str, str | None]:
    """The bookkeeping of an acknowledged batch; set it in one transaction with the losses."""
    shown = {
        "fleet_id": fleet_id,
        "at_ns": receipt.at_ns,
        "batch_id": receipt.batch_id,
        "received": receipt.received,
        "accepted": receipt.accepted,
        "duplicates": receipt.duplicates,
        "rejected": receipt.rejected,
        "rejected_counts": receipt.rejected_counts,
        "policy_etag": receipt.policy_etag,
    }
    return {
        cursor_key(fleet_id, plane): str(cursor),
        _of(_RECEIPT, plane): json.dumps(shown),
        _of(_BLOCKED, plane): None,
        _NOT_BEFORE: None,
    }


def blocked_state(
    fleet_id: str, blocked: Blocked | None, plane: str = "local"
) -> dict[str, str | None]:
    """The bookkeeping of a batch refused for good; None lifts it."""
    if blocked is None:
        return {_of(_BLOCKED, plane): None}
    shown = {
        "fleet_id": fleet_id,
        "batch_id": blocked.batch_id,
        "code": blocked.code,
        "detail": blocked.detail,
        "at_ns": blocked.at_ns,
        "retry_ns": blocked.retry_ns,
        "client_version": blocked.client_version,
    }
    return {_of(_BLOCKED, plane): json.dumps(shown)}


def outcome_state(
    *, at_ns: int, status: str, reason: str, not_before_ns: int = 0
) -> dict[str, str | None]:
    """The bookkeeping of how a push ended; ``not_before_ns`` is what Retry-After asked for."""
    return {
        _LAST: json.dumps({"at_ns": at_ns, "status": status, "reason": reason[:300]}),
        _NOT_BEFORE: str(not_before_ns) if not_before_ns else None,
    }


def health_of(home: Path) -> dict[str, object]:
    """What a check-in tells of this home's health; counts and sizes only. Never raises."""
    from agent_client import health
    from agent_client.credential import load_credential
    from agent_client.store import Store, StoreError, database_path

    found: dict[str, object] = {}
    try:
        sizes = health.snapshot(home)
        found = {"spool_bytes": sizes.spool_bytes, "database_bytes": sizes.database_bytes}
        if not database_path(home).exists():
            return found
        credential = load_credential(home)
        with Store(home) as store:
            progress = load_progress(store, credential.fleet_id if credential else "")
            found["pending_rows"] = store.pending_count(progress.cursor)
            found["losses"] = health.losses(store)
            found["last_push_ns"] = progress.receipt.at_ns if progress.receipt else 0
            found["last_push_status"] = progress.last_status
    except (OSError, StoreError, ValueError):
        found["store"] = "unreadable"
    return found


def _object(text: str | None) -> Mapping[str, object]:
    try:
        value = json.loads(text) if text else {}
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _whole(text: str | None) -> int:
    return int(text) if text is not None and text.isascii() and text.isdigit() else 0


def _receipt(data: Mapping[str, object]) -> LastReceipt:
    counts = data.get("rejected_counts")
    return LastReceipt(
        at_ns=_int(data, "at_ns"),
        batch_id=str(data.get("batch_id", "")),
        received=_int(data, "received"),
        accepted=_int(data, "accepted"),
        duplicates=_int(data, "duplicates"),
        rejected=_int(data, "rejected"),
        rejected_counts={str(k): int(v) for k, v in counts.items()}
        if isinstance(counts, dict)
        else {},
        policy_etag=str(data.get("policy_etag", "")),
    )


def _blocked(data: Mapping[str, object]) -> Blocked:
    return Blocked(
        batch_id=str(data.get("batch_id", "")),
        code=str(data.get("code", "")),
        detail=str(data.get("detail", "")),
        at_ns=_int(data, "at_ns"),
        retry_ns=_int(data, "retry_ns"),
        client_version=str(data.get("client_version", "")),
    )


def _int(data: Mapping[str, object], name: str) -> int:
    value = data.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
