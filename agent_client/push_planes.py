"""The planes that are pushed: each one's gate, its cursor, and how its next batch is made.

Local: every row past the cursor, from the first one on. Aggregate: one summary a run, from the
moment on at which a push first saw the consent: a run that began before it is never summed up for
anybody, and neither is one that began before a withdrawal was followed by a new consent. The
record's id is the run's: a run whose row changes later (its cost arrives) is sent again under it,
with a higher ``seq``, and the console keeps the later one. Trajectories: the host's messages, from
the moment on at which a push first saw both keys of the gate: nothing that was said before leaves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

from agent_client import health
from agent_client.config import ClientConfig
from agent_client.content import content_batch, count_messages, last_message
from agent_client.contract.aggregate import Heartbeat
from agent_client.export import MAX_BATCH_BYTES, Batch, next_batch
from agent_client.outbox import Outbox, encode_outbox, new_batch_id, purge_outbox
from agent_client.policy.posture import Posture
from agent_client.policy.state import load_state
from agent_client.preview import encode, heartbeat_of, pending_count, summaries_after
from agent_client.progress import cursor_key, forget_state, load_progress
from agent_client.store import Store

MAX_BATCH_RUNS: Final = 1_000
"""Two to three hundred bytes each, as a rule; hostile ones are held by MAX_BATCH_BYTES."""
_SINCE: Final = "push.aggregate.since_ns"
_HEARTBEAT: Final = "push.aggregate.heartbeat"
_CONTENT_SINCE: Final = "push.trajectories.since_ns"


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sends, and under which posture: what a batch says about itself."""

    home: Path
    fleet_id: str
    install_id: str
    posture: Posture
    now_ns: int

    def consent(self) -> dict[str, object]:
        """The posture that allows a batch, as its header says it."""
        return {
            "consent_state": self.posture.consent_state,
            "allow_aggregate": self.posture.allow_aggregate,
            "trajectories": self.posture.may_upload_trajectories(),
            "policy_version": load_state(self.home).applied.bundle_version,
        }


class Plane(Protocol):
    """What a push needs to know of a plane."""

    name: str

    def begin(self, store: Store, sender: Sender) -> None:
        """Prepare a push: the gate is open."""

    def is_current(self, store: Store, kept: Outbox) -> bool:
        """Whether a kept batch has yet to be acknowledged."""

    def next_outbox(self, store: Store, sender: Sender, max_rows: int) -> Outbox | None:
        """The next batch; None when there is nothing. Errors: StoreError, sqlite3.Error."""

    def acknowledged(self, store: Store, kept: Outbox) -> dict[str, str]:
        """What else moves with the cursor."""

    def pending_count(self, store: Store, fleet_id: str) -> int:
        """Rows that wait."""


def closed_planes(settings: ClientConfig, posture: Posture) -> dict[str, str]:
    """The planes that may not leave this machine, each with the reason; decided here only."""
    closed = {}
    if not posture.local_enabled:
        closed["local"] = f"telemetry.local is off ({settings.source('telemetry.local')})"
    if not posture.may_upload_aggregate():
        key = "consent_state" if posture.allow_aggregate else "allow_aggregate"
        value = posture.consent_state if posture.allow_aggregate else "off"
        source = settings.source(f"telemetry.{key}")
        closed["aggregate"] = f"telemetry.{key} is {value} ({source})"
    if not posture.may_upload_trajectories():
        key = "export.console.content" if posture.trajectories_enabled else "trajectories.enabled"
        closed["trajectories"] = f"telemetry.{key} is off ({settings.source(f'telemetry.{key}')})"
    return closed


class LocalPlane:
    """Every recorded row, once."""

    name = "local"

    def begin(self, store: Store, sender: Sender) -> None:
        """Nothing: it starts at its first row."""

    def is_current(self, store: Store, kept: Outbox) -> bool:
        """Past the cursor."""
        return kept.last_seq > load_progress(store, kept.fleet_id).cursor

    def next_outbox(self, store: Store, sender: Sender, max_rows: int) -> Outbox | None:
        """The rows past the cursor, and the losses since the last receipt."""
        cursor = load_progress(store, sender.fleet_id).cursor
        batch = next_batch(store, after_seq=cursor, max_rows=max_rows)
        if batch is None:
            return None
        return encode_outbox(
            batch,
            batch_id=new_batch_id(sender.now_ns),
            fleet_id=sender.fleet_id,
            install_id=sender.install_id,
            consent=sender.consent(),
            losses=health.losses(store),
        )

    def acknowledged(self, store: Store, kept: Outbox) -> dict[str, str]:
        """The losses are reported."""
        return health.reported_state(store, kept.losses)

    def pending_count(self, store: Store, fleet_id: str) -> int:
        """Rows past the cursor."""
        return store.pending_count(load_progress(store, fleet_id).cursor)


class AggregatePlane:
    """One summary a run, and a heartbeat a day; both only of what happened under consent."""

    name = "aggregate"

    def begin(self, store: Store, sender: Sender) -> None:
        """Where no consent was seen before, begin now: after what is recorded already."""
        if not _since_ns(store, sender.fleet_id):
            since_ns, cursor = self._place(store, sender)
            store.state_set(
                {
                    _key(_SINCE, sender.fleet_id): str(since_ns),
                    cursor_key(sender.fleet_id, self.name): str(cursor),
                }
            )

    def _place(self, store: Store, sender: Sender) -> tuple[int, int]:
        """The consent's begin and the cursor; now and the end where none was seen before."""
        since_ns = _since_ns(store, sender.fleet_id)
        if not since_ns:
            return sender.now_ns, store.last_seq()
        return since_ns, load_progress(store, sender.fleet_id, self.name).cursor

    def is_current(self, store: Store, kept: Outbox) -> bool:
        """Made under the consent that still holds, and without a receipt."""
        receipt = load_progress(store, kept.fleet_id, self.name).receipt
        is_acknowledged = receipt is not None and receipt.batch_id == kept.batch_id
        return kept.since_ns == _since_ns(store, kept.fleet_id) and not is_acknowledged

    def next_outbox(self, store: Store, sender: Sender, max_rows: int) -> Outbox | None:
        """A heartbeat when one is due, then the runs past the cursor."""
        since_ns, cursor = self._place(store, sender)
        beat = heartbeat_of(sender.home, sender.now_ns)
        is_due = store.state_get(_key(_HEARTBEAT, sender.fleet_id)) != beat.record_id
        batch = _batch(store, cursor, since_ns, beat if is_due else None, max_rows)
        if batch is None:
            return None
        encoded = encode_outbox(
            batch,
            batch_id=new_batch_id(sender.now_ns),
            fleet_id=sender.fleet_id,
            install_id=sender.install_id,
            consent=sender.consent(),
            losses={},  # the local plane tells them, once
            plane=self.name,
        )
        heartbeat_id = beat.record_id if is_due else ""
        return replace(encoded, heartbeat_id=heartbeat_id, since_ns=since_ns)

    def acknowledged(self, store: Store, kept: Outbox) -> dict[str, str]:
        """The heartbeat of the day is out."""
        return {_key(_HEARTBEAT, kept.fleet_id): kept.heartbeat_id} if kept.heartbeat_id else {}

    def pending_count(self, store: Store, fleet_id: str) -> int:
        """Runs that have ended and were not sent as they are now."""
        since_ns = _since_ns(store, fleet_id)
        if not since_ns:
            return 0
        cursor = load_progress(store, fleet_id, self.name).cursor
        return pending_count(store.connection, cursor, since_ns=since_ns)


class ContentPlane:
    """The host's messages with their content; only what was said under the consent."""

    name = "trajectories"

    def begin(self, store: Store, sender: Sender) -> None:
        """Where no consent was seen before, begin now: after the newest message there is.

        When the newest cannot be read, a later push begins, or goes on.
        """
        newest = last_message(sender.home)
        if newest is None:
            return
        is_new = not _since_ns(store, sender.fleet_id, _CONTENT_SINCE)
        if is_new or newest < load_progress(store, sender.fleet_id, self.name).cursor:
            # The second: the host's database was made anew, and counts from one again.
            store.state_set(
                {
                    _key(_CONTENT_SINCE, sender.fleet_id): str(sender.now_ns),
                    cursor_key(sender.fleet_id, self.name): str(newest),
                }
            )

    def is_current(self, store: Store, kept: Outbox) -> bool:
        """Made under the consent that still holds, and without a receipt."""
        receipt = load_progress(store, kept.fleet_id, self.name).receipt
        is_acknowledged = receipt is not None and receipt.batch_id == kept.batch_id
        since_ns = _since_ns(store, kept.fleet_id, _CONTENT_SINCE)
        return kept.since_ns == since_ns and not is_acknowledged

    def next_outbox(self, store: Store, sender: Sender, max_rows: int) -> Outbox | None:
        """The messages past the cursor, scrubbed."""
        since_ns = _since_ns(store, sender.fleet_id, _CONTENT_SINCE)
        if not since_ns:
            return None  # a preview before the first push: what it would begin with is yet to come
        batch = content_batch(
            sender.home,
            load_progress(store, sender.fleet_id, self.name).cursor,
            max_messages=max(1, max_rows // 2),  # a session's line for each, at worst
            pii=sender.posture.content_redaction == "pii",
        )
        if batch is None:
            return None
        encoded = encode_outbox(
            batch,
            batch_id=new_batch_id(sender.now_ns),
            fleet_id=sender.fleet_id,
            install_id=sender.install_id,
            consent=sender.consent(),
            losses={},  # the local plane tells them, once
            plane=self.name,
        )
        return replace(encoded, since_ns=since_ns)

    def acknowledged(self, store: Store, kept: Outbox) -> dict[str, str]:
        """Nothing but the cursor."""
        return {}

    def pending_count(self, store: Store, fleet_id: str) -> int:
        """Messages past the cursor."""
        if not _since_ns(store, fleet_id, _CONTENT_SINCE):
            return 0
        return count_messages(store.home, load_progress(store, fleet_id, self.name).cursor)


PLANES: Final[Mapping[str, Plane]] = {
    "local": LocalPlane(),
    "aggregate": AggregatePlane(),
    "trajectories": ContentPlane(),
}
CONSENTED: Final[Mapping[str, tuple[str, ...]]] = {
    AggregatePlane.name: (_SINCE, _HEARTBEAT),
    ContentPlane.name: (_CONTENT_SINCE,),
}
"""Planes that an owner opens and may shut again, with what is remembered of the consent."""


def withdrawn(posture: Posture) -> list[str]:
    """The planes whose consent does not stand."""
    stands = {
        AggregatePlane.name: posture.may_upload_aggregate(),
        ContentPlane.name: posture.may_upload_trajectories(),
    }
    return [name for name in CONSENTED if not stands[name]]


def withdraw(home: Path, store: Store | None, plane: str) -> int:
    """What a closed gate does first: forget the cursor, delete what waits; files deleted.

    In this order: without a cursor the next consent begins anew, so that a batch whose file
    outlives a crash between the two belongs to a consent that is over. Errors: OSError.
    """
    try:
        if store is not None:
            forget_state(store, plane, *CONSENTED[plane])
    finally:
        deleted = purge_outbox(home, plane)
    return deleted


def _batch(
    store: Store, cursor: int, since_ns: int, beat: Heartbeat | None, max_rows: int
) -> Batch | None:
    lines = [encode(beat)] if beat is not None else []
    counts = {Heartbeat.KIND: 1} if beat is not None else {}
    first_seq = last_seq = cursor
    size = sum(map(len, lines))
    runs = summaries_after(
        store.connection, cursor, since_ns=since_ns, max_runs=max_rows - len(lines)
    )
    for run in runs:
        line = encode(run)
        if lines and size + len(line) + 1 > MAX_BATCH_BYTES:
            break
        lines.append(line)
        size += len(line) + 1
        first_seq = run.seq if first_seq == cursor else first_seq
        last_seq = run.seq
        counts[run.KIND] = counts.get(run.KIND, 0) + 1
    if not lines:
        return None
    return Batch(b"\n".join(lines) + b"\n", first_seq, last_seq, len(lines), counts)


def _key(name: str, fleet_id: str) -> str:
    return f"{name}.{fleet_id}"


def _since_ns(store: Store, fleet_id: str, name: str = _SINCE) -> int:
    text = store.state_get(_key(name, fleet_id)) or ""
    return int(text) if text.isascii() and text.isdigit() else 0
