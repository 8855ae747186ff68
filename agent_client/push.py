"""Push to the operator's console: each plane that may leave, one after the other, under one lock.

Before anything else, what a consent that ended left waiting is deleted. A plane
that the console does not take stops no other; a console that cannot be spoken to stops all.
"""

from __future__ import annotations

import gzip
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from agent_client import config
from agent_client.files import exclusive_lock
from agent_client.http import Transport
from agent_client.outbox import push_dir, read_outbox
from agent_client.policy.posture import resolve
from agent_client.progress import load_progress, outcome_state
from agent_client.push_planes import CONSENTED, PLANES, Sender, withdraw, withdrawn
from agent_client.push_send import (
    CHANCE,
    EXIT_CLOSED,
    EXIT_CREDENTIAL,
    EXIT_FAILED,
    EXIT_LATER,
    EXIT_OK,
    EXIT_PARTIAL,
    MAX_ROWS,
    Gate,
    PlanePush,
    PushResult,
    Timing,
    open_gate,
)
from agent_client.recovery import recover
from agent_client.store import Store, StoreError

__all__ = [
    "CHANCE",
    "EXIT_CLOSED",
    "EXIT_CREDENTIAL",
    "EXIT_FAILED",
    "EXIT_LATER",
    "EXIT_OK",
    "EXIT_PARTIAL",
    "Preview",
    "PushResult",
    "Timing",
    "preview_push",
    "push_once",
]

MAX_HOLD_S: Final = 3600.0
"""However long a console asks us to stay away, we ask again after an hour."""
_WORST_FIRST: Final = (
    *("not_enrolled", "rejected", "failed", "blocked", "later"),
    *("closed", "partial", "pushed", "nothing"),
)
"""Of several planes the first of these is the push's own end."""
_OF_ONE_PLANE: Final = frozenset({"partial", "pushed", "nothing", "closed", "blocked"})
"""Ends that say nothing about the way to the console: the next plane has its turn."""


def push_once(
    home: Path | None = None,
    *,
    transport: Transport | None = None,
    timing: Timing | None = None,
    max_batches: int = 0,
    force: bool = False,
    on_batch: Callable[[PushResult], None] | None = None,
) -> PushResult:
    """Push everything that is pending; at most one push at a time for a home.

    ``max_batches`` of each plane, 0 is all; ``force`` ignores a wait that an earlier answer asked
    for; ``on_batch`` hears of each acknowledged batch, with its plane's sums. Never raises for
    what network, console or files do.
    """
    root = config.resolve_home(home)
    try:
        gate = open_gate(root)
        if isinstance(gate, Gate) and all(name in gate.closed for name in PLANES):
            gate = _all_closed(gate)
        if isinstance(gate, PushResult):
            _withdraw(root)
            return gate
        recover(root)
        with exclusive_lock(push_dir(root) / "lock") as is_held:
            if not is_held:
                return PushResult("busy", EXIT_LATER, "busy", "another push is under way")
            with Store(root) as store:
                run = _Run(root, store, gate, transport, timing or Timing(), on_batch)
                return run.push(max_batches=max_batches, force=force)
    except (StoreError, sqlite3.Error) as error:
        return PushResult("failed", EXIT_FAILED, "store", str(error))
    except OSError as error:
        return PushResult("failed", EXIT_FAILED, "cannot_store", error.strerror or str(error))


def _all_closed(gate: Gate) -> PushResult:
    ended = {
        name: PushResult("closed", EXIT_CLOSED, "plane_closed", why)
        for name, why in gate.closed.items()
    }
    return replace(ended[next(iter(PLANES))], planes=ended)


def _withdraw(home: Path) -> None:
    """No push begins: delete what waits all the same, of the planes whose gate is shut."""
    planes = withdrawn(resolve(config.load(home)))
    if not planes or not push_dir(home).exists():
        return
    with exclusive_lock(push_dir(home) / "lock") as is_held:
        if is_held:
            with Store(home) as store:
                for plane in planes:
                    withdraw(home, store, plane)


@dataclass(slots=True)
class _Run:
    """One push under its lock."""

    home: Path
    store: Store
    gate: Gate
    transport: Transport | None
    timing: Timing
    on_batch: Callable[[PushResult], None] | None

    def push(self, *, max_batches: int, force: bool) -> PushResult:
        for plane in CONSENTED:
            if plane in self.gate.closed:
                withdraw(self.home, self.store, plane)
        now_ns = self.timing.clock_ns()
        progress = load_progress(self.store, self.gate.credential.fleet_id)
        wait_ns = progress.not_before_ns - now_ns
        if 0 < wait_ns <= MAX_HOLD_S * 1e9 and not force:  # a clock set back must not hold us
            return self._asked_to_wait(wait_ns / 1e9)
        result = self._push_planes(max_batches=max_batches, force=force)
        # The outcome is written last; the receipts were kept with their cursors already.
        until_ns = self.timing.clock_ns() + int(min(result.retry_after_s, MAX_HOLD_S) * 1e9)
        self.store.state_set(
            outcome_state(
                at_ns=self.timing.clock_ns(),
                status=result.status,
                reason=result.reason,
                not_before_ns=until_ns if result.retry_after_s else 0,
            )
        )
        return result

    def _push_planes(self, *, max_batches: int, force: bool) -> PushResult:
        ended: dict[str, PushResult] = {}
        for name in PLANES:
            plane = PlanePush(
                name,
                self.home,
                self.store,
                self.gate,
                transport=self.transport,
                timing=self.timing,
                on_batch=self.on_batch,
            )
            ended[name] = plane.push(max_batches=max_batches, force=force)
            if ended[name].status == "closed" and name in CONSENTED:
                self._withdrawn_meanwhile()
            if ended[name].status not in _OF_ONE_PLANE and ended[name].reason != "bad_receipt":
                break
        return result_of(ended, self.gate.closed)

    def _withdrawn_meanwhile(self) -> None:
        """The gate was open when the push began: what was encoded since goes as well."""
        for plane in withdrawn(resolve(config.load(self.home))):
            withdraw(self.home, self.store, plane)

    def _asked_to_wait(self, left_s: float) -> PushResult:
        pending = sum(
            plane.pending_count(self.store, self.gate.credential.fleet_id)
            for name, plane in PLANES.items()
            if name not in self.gate.closed
        )
        detail = f"the console asked to wait; {left_s:.0f} s are left"
        return PushResult(
            "later", EXIT_LATER, "asked_to_wait", detail, pending=pending, retry_after_s=left_s
        )


def result_of(ended: Mapping[str, PushResult], closed: Mapping[str, str]) -> PushResult:
    """The push of several planes as one result: their sums, and the end that matters most.

    A closed plane does not matter beside an open one, but for the local plane when the console,
    not this machine, closes it.
    """
    counted = [
        result
        for name, result in ended.items()
        if result.status != "closed" or (name == "local" and name not in closed)
    ]
    worst = min(counted or ended.values(), key=lambda result: _WORST_FIRST.index(result.status))
    rejected: dict[str, int] = {}
    for result in ended.values():
        for code, count in result.rejected_counts.items():
            rejected[code] = rejected.get(code, 0) + count
    kept_shut = {
        name: PushResult("closed", EXIT_CLOSED, "plane_closed", why)
        for name, why in closed.items()
        if name not in ended
    }
    return replace(
        worst,
        batches=sum(result.batches for result in ended.values()),
        rows=sum(result.rows for result in ended.values()),
        accepted=sum(result.accepted for result in ended.values()),
        duplicates=sum(result.duplicates for result in ended.values()),
        rejected_counts=rejected,
        pending=sum(result.pending for result in ended.values()),
        planes={**ended, **kept_shut},
    )


@dataclass(frozen=True, slots=True)
class Preview:
    """What the next push would send of one plane: the first batch in full, the rest counted."""

    plane: str
    endpoint: str
    pending: int
    rows: int
    counts: dict[str, int]
    first_seq: int
    last_seq: int
    wire_bytes: int
    body: bytes
    headers: dict[str, str]
    is_resend: bool


def preview_push(
    home: Path | None = None, *, timing: Timing | None = None
) -> list[Preview] | PushResult:
    """What would leave, one preview a plane, without sending or keeping anything.

    Errors: StoreError, sqlite3.Error.
    """
    root = config.resolve_home(home)
    gate = open_gate(root)
    if isinstance(gate, PushResult):
        return gate
    if all(name in gate.closed for name in PLANES):
        return _all_closed(gate)
    recover(root)
    now_ns = (timing or Timing()).clock_ns()
    credential = gate.credential
    sender = Sender(root, credential.fleet_id, credential.install_id, gate.posture, now_ns)
    with Store(root) as store:
        found = [
            preview
            for name in PLANES
            if name not in gate.closed and (preview := _preview(name, store, gate, sender))
        ]
    return found or PushResult("nothing", EXIT_OK)


def _preview(name: str, store: Store, gate: Gate, sender: Sender) -> Preview | None:
    plane = PLANES[name]
    kept = read_outbox(sender.home, name)
    is_resend = kept is not None and plane.is_current(store, kept)
    if kept is None or not is_resend:
        kept = plane.next_outbox(store, sender, MAX_ROWS[name])
    if kept is None:
        return None
    return Preview(
        plane=name,
        endpoint=gate.endpoint,
        pending=plane.pending_count(store, sender.fleet_id),
        rows=kept.row_count,
        counts=kept.counts,
        first_seq=kept.first_seq,
        last_seq=kept.last_seq,
        wire_bytes=len(kept.body),
        body=gzip.decompress(kept.body),
        headers=kept.headers,
        is_resend=is_resend,
    )
