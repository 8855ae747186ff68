"""``emit()``: into the spool in microseconds; a daemon thread carries it to log and database.

``emit`` never blocks on a disk or the network and never raises. What it has
returned from survives SIGKILL and ``os._exit``: the event lies in mapped pages
(see ``spool``) until the writer, or the next process, has stored it.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent_client.contract.events import Event
from agent_client.files import make_private_dir, telemetry_dir
from agent_client.frames import ENCODERS, encode_plainly
from agent_client.guard import never_raise, note_fault
from agent_client.journal import Intake, Journal, oldest_chunks
from agent_client.recovery import recover
from agent_client.spool import (
    CAPACITY_BYTES,
    MAX_PAYLOAD_BYTES,
    REFUSED_REASONS,
    Ring,
    Spool,
)
from agent_client.subscribers import Batch, Subscriber
from agent_client.upkeep import upkeep

BATCH_EVENTS: Final = 256
"""Rows a transaction; larger ones hold the database's write lock too long for other processes."""
MAX_RINGS: Final = 8
"""Threads with a ring of their own; more share one under a lock (each ring reserves 4 MiB)."""
GATHER_S: Final = 0.05
"""Between two looks the writer lets events arrive: one commit serves a burst."""
IDLE_LOOKS: Final = 20
"""Looks that find nothing before the writer parks. Waking it is the one system call that ``emit``
can make, so a host that emits now and then should not pay for it each time."""
UPKEEP_S: Final = 0.01
"""Between two steps of a prune: the host's threads want the interpreter too."""
RETRY_S: Final = (0.1, 0.5, 2.0, 10.0)
"""Waits after a failed write; the events stay in their rings meanwhile."""
START_AGAIN_S: Final = 1.0
"""After a thread could not be started; in between ``emit`` costs no more than ever."""
SPARE_BYTES: Final = 256 * 1024
"""Rings for signal handlers that emit inside an emit; a handful of events at a time."""
FORK_WAIT_S: Final = 0.2
"""A commit takes milliseconds; a hung disk must not hold up the host's fork for longer."""


@dataclass(frozen=True, slots=True)
class Stats:
    """Counts of events since the emitter began; emitted = written + queued + all of dropped."""

    emitted: int
    queued: int
    written: int
    dropped: dict[str, int]


class _Lease:
    """A thread's hold on a ring; goes back to the emitter when the thread ends."""

    __slots__ = ("_free", "ring")

    def __init__(self, ring: Ring, free: deque[Ring]) -> None:
        self.ring = ring
        self._free = free

    def __del__(self) -> None:
        self._free.append(self.ring)


class Emitter:
    """The recording end of one HERMES_HOME.

    A disabled emitter accepts and drops everything, makes no file and starts no thread.
    """

    def __init__(
        self,
        home: Path | str,
        enabled: bool = True,  # noqa: FBT001, FBT002  # a public name called by position
        *,
        capacity_bytes: int = CAPACITY_BYTES,
    ) -> None:
        self.home = Path(home)
        self.enabled = enabled
        self._capacity_bytes = capacity_bytes
        self._guard = threading.RLock()
        self._subscribers: dict[Callable[[Batch], object], Subscriber] = {}
        self._begin()
        if enabled:
            _after_fork(self)

    def _begin(self) -> None:
        """Fresh state: at construction, and in a forked child."""
        self._local = threading.local()
        self._free: deque[Ring] = deque()
        self._spares: deque[Ring] = deque()
        self._spool: Spool | None = None
        self._shared: Ring | None = None
        # Re-entrant: a signal handler may emit while its own thread is in here.
        self._shared_lock = threading.RLock()
        self._journal = Journal(self.home)
        self._thread: threading.Thread | None = None
        self._start_after_s = 0.0
        # Its put may be called by a signal handler inside itself; an Event's lock would hang there.
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._parked = True
        self._stopping = False
        self._written = 0
        self._reported_refusals = 0
        self._final: Stats | None = None
        self._upkeep: Iterator[bool] | None = None
        self._has_upkeep = False
        # Held while the writer is inside SQLite; a fork waits for it (see before_fork).
        self._io = threading.Lock()
        self._forking: set[int] = set()

    # -- the hot path -----------------------------------------------------------------------

    def emit(self, event: Event | Mapping[str, object]) -> None:
        """Accept one event: microseconds, never blocks, never raises."""
        if not self.enabled:
            return
        try:
            encoder = ENCODERS.get(type(event))  # type: ignore[arg-type]  # a mapping misses, on purpose
            if encoder is None:
                self._emit_slowly(event)
            else:
                payload = marshal.dumps((encoder[0], encoder[1](event)), 2)
                try:
                    ring = self._local.lease.ring
                except AttributeError:
                    ring = self._lease_ring()
                if ring is None or len(payload) > MAX_PAYLOAD_BYTES or not ring.append(payload):
                    self._append_rarely(payload)
        except Exception as error:  # noqa: BLE001  # the promise of this function; see guard
            self._refuse(error, event)
        if self._parked:
            self._unpark()

    def _append_rarely(self, payload: bytes) -> None:
        """What is too large, from a thread without a ring, or from a signal handler in ``emit``."""
        with self._shared_lock:
            ring = self._shared_ring()
            if len(payload) > MAX_PAYLOAD_BYTES:
                ring.refuse("too_large")
                return
            if ring.append(payload):
                return
        # A signal handler inside an append of the shared ring: one that nobody is using, then.
        try:
            spare = self._spares.pop()
        except IndexError:
            spare = self._open_spool().new_ring(SPARE_BYTES)
        try:
            spare.append(payload)
        finally:
            self._spares.append(spare)

    def _shared_ring(self) -> Ring:
        # The guard: two threads that open the spool at once would each get one of their own.
        with self._guard:
            if self._shared is None:
                self._shared = self._open_spool().new_ring()
            return self._shared

    def _emit_slowly(self, event: object) -> None:
        """Events that are dictionaries, and typed ones that hold values marshal does not take.

        Errors: whatever the event raises; ``emit`` counts it.
        """
        self._append_rarely(encode_plainly(event))

    @never_raise("emit.refuse")
    def _refuse(self, error: Exception, event: object) -> None:
        if isinstance(error, ValueError) and type(event) in ENCODERS:
            try:
                self._emit_slowly(event)  # a str subclass, say: marshal takes exact types only
            except Exception as again:  # noqa: BLE001  # counted below like any other
                error = again
            else:
                return
        note_fault("emit", error)
        self._shared_ring().refuse("encode")

    def _lease_ring(self) -> Ring | None:
        with self._guard:
            spool = self._open_spool()
            try:
                ring = self._free.popleft()
            except IndexError:
                if len(spool.rings) >= MAX_RINGS:
                    return None
                ring = spool.new_ring()
            self._local.lease = _Lease(ring, self._free)
            return ring

    def _open_spool(self) -> Spool:
        spool = self._spool
        if spool is None:
            folder = telemetry_dir(self.home)
            with contextlib.suppress(OSError):
                make_private_dir(folder)  # 0700 before anything is put into it
            made = Spool(folder / "spool", capacity=self._capacity_bytes)
            spool = self._spool
            if spool is None:
                self._spool = spool = made
            else:
                made.remove()  # a signal handler emitted meanwhile
        return spool

    def _unpark(self) -> None:
        self._parked = False
        if self._wake.empty():
            self._wake.put(None)
        if self._thread is None and time.monotonic() >= self._start_after_s:
            self._start()

    @never_raise("emitter.start")
    def _start(self) -> None:
        with self._guard:
            if self._thread is not None or self._stopping:
                return
            thread = threading.Thread(target=self._run, name="hermes-telemetry-writer", daemon=True)
            self._thread = thread  # before it runs: a signal handler may emit, and start another
            try:
                thread.start()
            finally:
                if thread.ident is None:
                    # Out of threads, or the interpreter shuts down: the spool keeps the events.
                    self._thread = None
                    self._start_after_s = time.monotonic() + START_AGAIN_S
                    self._parked = True

    # -- the writer -------------------------------------------------------------------------

    @never_raise("writer")
    def _run(self) -> None:
        self._recover_others()
        self._keep_up()
        failures = idle = 0
        while not self._stopping:
            if failures:
                self._wait(RETRY_S[failures - 1])
            elif idle < IDLE_LOOKS:
                self._wait(UPKEEP_S if self._has_upkeep else GATHER_S)
            else:
                # Park first, look again after: an emit in between sees the flag or is seen.
                self._parked = True
                if not self._is_behind():
                    self._wait(None)
                self._parked = False
                idle = 0
                continue
            try:
                idle = 0 if self._drain() else idle + 1
                failures = 0
            except Exception as error:  # noqa: BLE001  # a disk fails in any way; the rings keep all
                note_fault("writer", error)
                failures = min(failures + 1, len(RETRY_S))
                continue
            self._keep_up()
            if self._has_upkeep:
                idle = 0

    def _wait(self, seconds: float | None) -> None:
        """Sleep, until somebody who is in a hurry (a flush, a close) says so."""
        if self._stopping:
            return
        with contextlib.suppress(queue.Empty):
            self._wake.get(timeout=seconds)

    @never_raise("upkeep")
    def _keep_up(self) -> None:
        """Retention, a step at a time: a prune takes longer than the rings hold what comes in."""
        if self._upkeep is None:
            self._upkeep = upkeep(self._journal)
        with self._io:
            self._has_upkeep = next(self._upkeep, False)

    @never_raise("recover")
    def _recover_others(self) -> None:
        spool = self._spool
        with self._io:
            recover(self.home, own_process_id=spool.process_id if spool else "")

    def _rings(self) -> list[Ring]:
        spool = self._spool
        return list(spool.rings) if spool else []

    def _drain(self) -> bool:
        """Carry all that is queued now; False: there was nothing. Raises what the disk raises."""
        has_drained = False
        while True:
            rings = {ring.ring_id: ring for ring in self._rings()}
            chunks = oldest_chunks(list(rings.values()), BATCH_EVENTS)
            refused = {ring_id: dict(ring.refused) for ring_id, ring in rings.items()}
            refusals = sum(sum(counts.values()) for counts in refused.values())
            if refusals == self._reported_refusals and not any(chunk.frames for chunk in chunks):
                return has_drained
            has_drained = True
            intakes = [
                Intake(chunk, refused[chunk.ring_id], rings[chunk.ring_id].stored_k)
                for chunk in chunks
            ]
            with self._io:
                events = self._journal.write(intakes)
            # Counted before it is released: stats() in between must not show a loss.
            self._written += sum(len(chunk.frames) for chunk in chunks)
            for chunk in chunks:
                rings[chunk.ring_id].release(chunk)
            self._reported_refusals = refusals
            self._publish(events)

    def _is_behind(self) -> bool:
        """Whether there is anything the home's books do not have yet."""
        rings = self._rings()
        refusals = sum(sum(ring.refused.values()) for ring in rings)
        return refusals != self._reported_refusals or any(ring.queued for ring in rings)

    def _has_stopped(self) -> bool:
        thread = self._thread
        return self._stopping and (thread is None or not thread.is_alive())

    def _publish(self, events: Batch) -> None:
        if events:
            for subscriber in list(self._subscribers.values()):
                subscriber.offer(events)

    # -- everything else --------------------------------------------------------------------

    def subscribe(self, callback: Callable[[Batch], object]) -> None:
        """Hand each durable batch to a callback, on a thread of its own: it cannot stall us."""
        with self._guard:
            if callback not in self._subscribers:
                self._subscribers[callback] = Subscriber(callback)

    def unsubscribe(self, callback: Callable[[Batch], object]) -> None:
        """Stop handing batches to a callback."""
        with self._guard:
            subscriber = self._subscribers.pop(callback, None)
        if subscriber is not None:
            subscriber.stop()

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Wait until all that was emitted before is stored; False when the deadline came first."""
        deadline = time.monotonic() + timeout_s
        while self._is_behind():
            self._unpark()
            if time.monotonic() >= deadline or self._has_stopped():
                return False
            time.sleep(0.002)
        return True

    def stats(self) -> Stats:
        """Counts since the emitter began; of its end, once closed."""
        if self._final is not None:
            return self._final
        rings = self._rings()
        emitted = sum(ring.k for ring in rings)
        queued = sum(ring.queued for ring in rings)
        refused = {why: sum(ring.refused[why] for ring in rings) for why in REFUSED_REASONS}
        overflow = max(0, emitted - queued - self._written)
        dropped = {**refused, "overflow": overflow}
        return Stats(emitted + sum(refused.values()), queued, self._written, dropped)

    def close(self, timeout_s: float = 2.0) -> None:
        """Store what is queued, stop the writer, remove the spool. Never raises.

        What cannot be stored before the deadline stays in the spool for the next process.
        """
        self.enabled = False
        self.flush(timeout_s)
        self._stopping = True
        self._wake.put(None)
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout_s)
        for callback in list(self._subscribers):
            self.unsubscribe(callback)
        self._let_go()

    def _let_go(self) -> None:
        """Give up the spool: removed when all of it is stored, else left for the next process."""
        spool = self._spool
        if spool is None or not self._has_stopped():
            # A writer that hangs may yet store what it holds. Were the lock let go, another process
            # would store the same, and forget the cursors that keep it from being stored twice.
            return
        self._final = self.stats()
        if self._is_behind():
            spool.abandon()
        else:
            spool.remove()
        self._spool = None
        self._journal.close()

    def inside_sqlite(self) -> threading.Lock:
        """Held by a thread of ours while it is inside SQLite: a fork waits for it."""
        return self._io

    @never_raise("emitter.fork")
    def before_fork(self) -> None:
        """Let the writer leave SQLite: its process-wide mutexes, copied locked, hang the child.

        Waits FORK_WAIT_S at most; a child that hangs all the same has its events in its spool.
        """
        if self._io.acquire(timeout=FORK_WAIT_S):
            self._forking.add(threading.get_ident())

    @never_raise("emitter.fork")
    def after_fork_in_parent(self) -> None:
        """Let the writer go on."""
        if threading.get_ident() in self._forking:
            self._forking.discard(threading.get_ident())
            self._io.release()

    def reset_in_child(self) -> None:
        """A forked child shares its parent's pages and handles; it lets go of both."""
        has_waited = threading.get_ident() in self._forking
        self._guard = threading.RLock()
        if self._spool is not None:
            self._spool.abandon()
        self._journal.forget()
        self._subscribers = {callback: Subscriber(callback) for callback in self._subscribers}
        self._begin()
        if not has_waited:
            # The parent's writer may have been in an import: its lock would hang ours. No pruning.
            self._upkeep = iter(())


def _after_fork(emitter: Emitter) -> None:
    reference = weakref.ref(emitter)

    def call(method: Callable[[Emitter], None]) -> Callable[[], None]:
        def hook() -> None:
            living = reference()
            if living is not None:
                method(living)

        return hook

    os.register_at_fork(
        before=call(Emitter.before_fork),
        after_in_parent=call(Emitter.after_fork_in_parent),
        after_in_child=call(Emitter.reset_in_child),
    )


_singleton: Emitter | None = None
_singleton_lock = threading.Lock()


def get_emitter() -> Emitter:
    """The process-wide emitter, for HERMES_HOME and honouring ``telemetry.local``."""
    global _singleton  # noqa: PLW0603  # one a process, by specification
    if _singleton is None:
        from agent_client import config, policy

        loaded = config.load()
        posture = policy.resolve(loaded)
        with _singleton_lock:
            if _singleton is None:
                _singleton = Emitter(loaded.home, posture.local_enabled)
    return _singleton


def set_emitter(emitter: Emitter | None) -> None:
    """Put an emitter in the singleton's place; the host adapter does, with the host's own home."""
    global _singleton  # noqa: PLW0603  # as above
    _singleton = emitter


@never_raise("emit")
def emit(event: Event | Mapping[str, object]) -> None:
    """Record one event in this process's local plane. Never blocks, never raises."""
    get_emitter().emit(event)


def flush(timeout_s: float = 5.0) -> bool:
    """Wait until what was emitted is stored; False when the deadline came first."""
    return get_emitter().flush(timeout_s)


def status() -> Stats:
    """The process-wide emitter's counts."""
    return get_emitter().stats()
