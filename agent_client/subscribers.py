"""Who hears of durable batches: each on a thread and a bounded queue of its own."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Final

from agent_client.guard import never_raise

SUBSCRIBER_BATCHES: Final = 64
"""Batches a slow subscriber may lag behind before the oldest are dropped for it alone."""

Batch = list[dict[str, object]]


class Subscriber:
    """A callback's own thread and bounded queue."""

    def __init__(self, callback: Callable[[Batch], object]) -> None:
        self._callback = callback
        self._queue: queue.Queue[Batch | None] = queue.Queue(SUBSCRIBER_BATCHES)
        self._thread: threading.Thread | None = None
        self.dropped_batches = 0

    @never_raise("subscriber.offer")
    def offer(self, events: Batch) -> None:
        """Queue a batch, dropping the oldest for this subscriber when it lags."""
        while True:
            try:
                self._queue.put_nowait(events)
                break
            except queue.Full:
                self._queue.get_nowait()
                self.dropped_batches += 1
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._run, name="hermes-telemetry-subscriber", daemon=True
            )
            self._thread.start()

    def _run(self) -> None:
        while (events := self._queue.get()) is not None:
            self._call(events)

    @never_raise("subscriber")
    def _call(self, events: Batch) -> None:
        self._callback(events)

    def stop(self) -> None:
        """End the thread after the batch it is in."""
        while True:
            with contextlib.suppress(queue.Full):
                self._queue.put_nowait(None)
                return
            self._queue.get_nowait()
