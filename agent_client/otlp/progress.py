"""How far a home has been sent to a destination: cursor, metrics and last outcome, in its books.

Each destination (its address, not its headers) has entries of its own; another one starts from the
first row. Everything that an accepted batch changes moves in one SQLite transaction.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from agent_client.store import Store

_CURSOR: Final = "otlp.cursor."
_METER: Final = "otlp.meter."
_METERED: Final = "otlp.metered."
_RUN: Final = "otlp.run."
_LAST: Final = "otlp.last."
_SUCCESS: Final = "otlp.success."


@dataclass(frozen=True, slots=True)
class Progress:
    """The state of sending to one destination; times are 0 before the first."""

    cursor: int = 0
    meter: str | None = None
    metered: str = ""
    not_before_ns: int = 0
    success_ns: int = 0
    last_ns: int = 0
    last_status: str = ""
    last_reason: str = ""
    last_detail: str = ""


def load_progress(store: Store, identity: str) -> Progress:
    """The progress towards a destination; a damaged entry counts as absent."""
    try:
        last = json.loads(store.state_get(_LAST + identity) or "{}")
    except ValueError:
        last = {}
    known: Mapping[str, object] = last if isinstance(last, dict) else {}
    return Progress(
        cursor=_whole(store.state_get(_CURSOR + identity)),
        meter=store.state_get(_METER + identity),
        metered=store.state_get(_METERED + identity) or "",
        not_before_ns=_whole(str(known.get("not_before_ns", ""))),
        success_ns=_whole(store.state_get(_SUCCESS + identity)),
        last_ns=_whole(str(known.get("at_ns", ""))),
        last_status=str(known.get("status", "")),
        last_reason=str(known.get("reason", "")),
        last_detail=str(known.get("detail", "")),
    )


def batch_state(
    identity: str, *, at_ns: int, cursor: int, meter: str, runs_usd: Mapping[str, float]
) -> dict[str, str]:
    """The bookkeeping of a batch that is done; ``runs_usd``: the cost each run is counted with."""
    counted = {f"{_RUN}{identity}.{run_id}": repr(usd) for run_id, usd in runs_usd.items()}
    return {
        _CURSOR + identity: str(cursor),
        _METER + identity: meter,
        _SUCCESS + identity: str(at_ns),
        **counted,
    }


def metered_state(identity: str, digest: str) -> dict[str, str]:
    """The bookkeeping of metrics that were accepted: what need not be sent again."""
    return {_METERED + identity: digest}


def outcome_state(
    identity: str, *, at_ns: int, status: str, reason: str, detail: str, not_before_ns: int
) -> dict[str, str]:
    """The bookkeeping of how a drain ended; ``not_before_ns`` is what Retry-After asked for."""
    shown = {
        "at_ns": at_ns,
        "status": status,
        "reason": reason,
        "detail": detail[:300],
        "not_before_ns": not_before_ns,
    }
    return {_LAST + identity: json.dumps(shown)}


def counted_usd(store: Store, identity: str, run_ids: Iterable[str]) -> dict[str, float]:
    """The costs that runs were counted with before; runs that were not are missing."""
    found = {}
    for run_id in run_ids:
        text = store.state_get(f"{_RUN}{identity}.{run_id}")
        if text is not None:
            found[run_id] = float(text)
    return found


def forget_pruned_runs(connection: sqlite3.Connection) -> None:
    """Drop what is remembered of runs that retention has removed. Errors: sqlite3.Error."""
    connection.execute(
        "DELETE FROM tel_state WHERE key GLOB ? AND substr(key, ?) NOT IN "
        "(SELECT run_id FROM tel_runs)",
        (f"{_RUN}*", len(_RUN) + 16 + 2),
    )


def _whole(text: str | None) -> int:
    return int(text) if text is not None and text.isascii() and text.isdigit() else 0
