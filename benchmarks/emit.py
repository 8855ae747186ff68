"""emit() against what others do in its place, alternated: `python -m benchmarks.emit`.

References: the reference telemetry design's ``queue.Queue`` of a copied dictionary (loses its tail
at exit), and ``logging.QueueHandler``. Each mode is timed a call at a time, round about, several
rounds; the figures are the medians of the rounds with their range, in microseconds. Absolute times
depend on the machine; the ratios do not nearly as much. Results go to benchmarks/results/emit.json.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import platform
import queue
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from agent_client.contract.events import ModelCallEvent
from agent_client.emitter import Emitter

ROUNDS = 5
FLOODED = 4000
PACED = 400
PACE_S = 0.001
THREADS = 8
RESULTS = Path(__file__).parent / "results" / "emit.json"

Emit = Callable[[ModelCallEvent], object]


def make_event(number: int) -> ModelCallEvent:
    """A model call as a real session emits it."""
    return ModelCallEvent(
        span_id=f"{number:032x}",
        run_id="7d0f6c1e8a4b4f6f9a3c2b1d0e9f8a7b",
        provider="openrouter",
        model="anthropic/claude-sonnet-5",
        base_url="openrouter.ai",
        input_tokens=1200 + number,
        output_tokens=340,
        cache_read_tokens=800,
        latency_ms=1432.5,
        trace_id="0af7651916cd43dd8448eb211c80319c",
        start_ns=1_790_000_000_000_000_000,
        end_ns=1_790_000_001_432_500_000,
        finish_reason="stop",
        api_request_id="20261122_094211_c57e6c:task:abcd1234:api:1",
    )


def time_calls(emit: Emit, events: list[ModelCallEvent], pace_s: float) -> list[float]:
    """Microseconds of each call."""
    took = []
    for event in events:
        if pace_s:
            time.sleep(pace_s)
        start = time.perf_counter_ns()
        emit(event)
        took.append((time.perf_counter_ns() - start) / 1000)
    return took


def time_threads(emit: Emit, events: list[ModelCallEvent]) -> list[float]:
    """Microseconds of each call, from several threads at once."""
    took: list[float] = []
    share = len(events) // THREADS

    def work(part: list[ModelCallEvent]) -> None:
        took.extend(time_calls(emit, part, 0))

    threads = [
        threading.Thread(target=work, args=(events[n * share : (n + 1) * share],))
        for n in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return took


class SeedQueue:
    """The reference design: a bounded queue of copied dictionaries and a daemon that drains it."""

    def __init__(self) -> None:
        self._queue: queue.Queue[dict[str, object]] = queue.Queue(10_000)
        threading.Thread(target=self._drain, daemon=True).start()

    def _drain(self) -> None:
        while True:
            json.dumps(self._queue.get())

    def emit(self, event: ModelCallEvent) -> None:
        """Copy and enqueue."""
        try:
            self._queue.put_nowait(dict(event.to_dict()))
        except queue.Full:
            self._queue.get_nowait()


def logging_emit(folder: Path) -> Emit:
    """A logger whose QueueHandler feeds a listener that writes a file."""
    records: queue.Queue[logging.LogRecord] = queue.Queue()
    handler = logging.FileHandler(folder / "log")
    logging.handlers.QueueListener(records, handler).start()
    logger = logging.getLogger("bench")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    logger.addHandler(logging.handlers.QueueHandler(records))
    return lambda event: logger.info(json.dumps(event.to_dict()))


def quantiles(took: list[float]) -> tuple[float, float]:
    """p50 and p99."""
    took.sort()
    return took[len(took) // 2], took[len(took) * 99 // 100]


def main() -> None:
    """Run, print the table, write the results."""
    folder = Path(tempfile.mkdtemp())
    emitter = Emitter(folder / "home")
    stalled = Emitter(folder / "stalled")
    stalled.emit(make_event(0))
    stalled.flush()
    stalled._parked = False  # noqa: SLF001  # nobody wakes the writer: it stands still
    ways: dict[str, Emit] = {
        "spool": emitter.emit,
        "seed queue": SeedQueue().emit,
        "QueueHandler": logging_emit(folder),
    }
    modes: dict[str, Callable[[Emit], list[float]]] = {
        "flooded": lambda emit: time_calls(emit, [make_event(n) for n in range(FLOODED)], 0),
        "paced": lambda emit: time_calls(emit, [make_event(n) for n in range(PACED)], PACE_S),
        "8 threads": lambda emit: time_threads(emit, [make_event(n) for n in range(FLOODED)]),
    }
    figures: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for _ in range(ROUNDS):
        for mode, run in modes.items():
            for way, emit in ways.items():
                figures.setdefault(mode, {}).setdefault(way, []).append(quantiles(run(emit)))
                emitter.flush(30)
        took = quantiles(modes["flooded"](stalled.emit))
        figures.setdefault("stalled writer", {}).setdefault("spool", []).append(took)
    report(figures)
    emitter.close()
    os._exit(0)  # the references' daemons have no shutdown


def report(figures: dict[str, dict[str, list[tuple[float, float]]]]) -> None:
    """Print medians and ranges; write them with the facts of the machine."""
    rows = []
    for mode, ways in figures.items():
        for way, took in ways.items():
            p50, p99 = ([pair[n] for pair in took] for n in (0, 1))
            rows.append(
                {
                    "mode": mode,
                    "way": way,
                    "p50_us": round(statistics.median(p50), 2),
                    "p50_range_us": [round(min(p50), 2), round(max(p50), 2)],
                    "p99_us": round(statistics.median(p99), 2),
                    "p99_range_us": [round(min(p99), 2), round(max(p99), 2)],
                }
            )
            sys.stdout.write(
                f"{mode:<15}{way:<14}p50 {rows[-1]['p50_us']:>8} µs  p99 {rows[-1]['p99_us']:>8} µs"
                f"   ({min(p50):.1f}-{max(p50):.1f} / {min(p99):.1f}-{max(p99):.1f})\n"
            )
    facts = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "load": os.getloadavg(),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"machine": facts, "rows": rows}, indent=2) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
