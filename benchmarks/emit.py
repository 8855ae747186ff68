"""emit() against what others do in its place, alternated: `python -m benchmarks.emit`.

References: the reference telemetry design's ``queue.Queue`` of a copied dictionary (loses its tail
at exit), ``logging.QueueHandler``, and a span of OpenTelemetry through a ``BatchSpanProcessor`` to
an exporter that does nothing. Modes: paced (an event a millisecond), flooded, with a writer that
stands still (until the queues are full, and then), with 8 threads. Each call is timed, round about,
several rounds; a figure is the median of the rounds, in microseconds, with the range of their
middle half, and a ratio the median of the ratios within a round. Absolute times depend on the
machine; the ratios do not nearly as much. Results go to benchmarks/results/emit.json.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import queue
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from agent_client.contract.events import ModelCallEvent
from agent_client.emitter import Emitter
from benchmarks.facts import machine

ROUNDS = 9
FLOODED = 4000
PACED = 500
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

    def __init__(self, *, is_drained: bool = True) -> None:
        self._queue: queue.Queue[dict[str, object]] = queue.Queue(10_000)
        if is_drained:
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


def logging_emit(folder: Path, *, is_drained: bool = True) -> Emit:
    """A logger whose QueueHandler feeds a listener that writes a file."""
    records: queue.Queue[logging.LogRecord] = queue.Queue()
    if is_drained:
        handler = logging.FileHandler(folder / "log")
        logging.handlers.QueueListener(records, handler).start()
    logger = logging.getLogger(f"bench.{folder}")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    logger.addHandler(logging.handlers.QueueHandler(records))
    return lambda event: logger.info(json.dumps(event.to_dict()))


class Nowhere(SpanExporter):
    """Exports nothing; stalled, it does not come back either."""

    def __init__(self, *, is_drained: bool) -> None:
        self._go_on = threading.Event()
        if is_drained:
            self._go_on.set()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Succeed, at once or never."""
        self._go_on.wait()
        return SpanExportResult.SUCCESS


def otel_emit(*, is_drained: bool = True) -> Emit:
    """A span started and ended with what a model call has to say."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(Nowhere(is_drained=is_drained)))
    tracer = provider.get_tracer("bench")

    def emit(event: ModelCallEvent) -> None:
        span = tracer.start_span("chat", start_time=event.start_ns)
        for name, value in event.to_dict().items():
            if value is not None:
                span.set_attribute(name, value)  # type: ignore[arg-type]  # text and numbers
        span.end(event.end_ns)

    return emit


def quantiles(took: list[float]) -> tuple[float, float]:
    """p50 and p99."""
    took.sort()
    return took[len(took) // 2], took[len(took) * 99 // 100]


def stalled_ways(folder: Path) -> dict[str, Emit]:
    """Each way anew, with a consumer that stands still."""
    stalled = Emitter(folder)
    stalled.emit(make_event(0))
    stalled.flush()
    stalled._io.acquire()  # noqa: SLF001  # so its writer stands still before the disk
    return {
        "spool": stalled.emit,
        "seed queue": SeedQueue(is_drained=False).emit,
        "QueueHandler": logging_emit(folder, is_drained=False),
        "OpenTelemetry": otel_emit(is_drained=False),
    }


def main() -> None:
    """Run, print the table, write the results."""
    folder = Path(tempfile.mkdtemp())
    emitter = Emitter(folder / "home")
    ways: dict[str, Emit] = {
        "spool": emitter.emit,
        "seed queue": SeedQueue().emit,
        "QueueHandler": logging_emit(folder),
        "OpenTelemetry": otel_emit(),
    }
    flood = [make_event(n) for n in range(FLOODED)]
    modes: dict[str, Callable[[Emit], list[float]]] = {
        "flooded": lambda emit: time_calls(emit, flood, 0),
        "paced": lambda emit: time_calls(emit, flood[:PACED], PACE_S),
        "8 threads": lambda emit: time_threads(emit, flood),
        "stalled writer": lambda emit: time_calls(emit, flood, 0),
        "stalled and full": lambda emit: time_calls(emit, flood, 0),
    }
    figures: dict[str, dict[str, list[tuple[float, float]]]] = {}
    # It warns of each span that its queue drops.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    for number in range(ROUNDS):
        stalled = stalled_ways(folder / str(number))
        for mode, run in modes.items():
            of_mode = stalled if mode.startswith("stalled") else ways
            for way in random.Random(number).sample(sorted(of_mode), len(of_mode)):
                if mode == "stalled and full":
                    time_calls(of_mode[way], flood * 2, 0)
                figures.setdefault(mode, {}).setdefault(way, []).append(
                    quantiles(run(of_mode[way]))
                )
                emitter.flush(30)
    report(figures)
    os._exit(0)  # the references' daemons have no shutdown, and one writer stands still


def report(figures: dict[str, dict[str, list[tuple[float, float]]]]) -> None:
    """Print medians, ranges and the spool's ratios; write them with the facts of the machine."""
    rows = []
    for mode, ways in figures.items():
        for way in sorted(ways, key=lambda way: way != "spool"):
            row: dict[str, object] = {"mode": mode, "way": way}
            shown = f"{mode:<18}{way:<15}"
            for place, name in enumerate(("p50", "p99")):
                took = [pair[place] for pair in ways[way]]
                row[f"{name}_us"] = _spread(took)
                shown += f"{name} {_text(_spread(took)):<26}"
                if way != "spool":
                    ours = [pair[place] for pair in ways["spool"]]
                    ratios = [mine / other for mine, other in zip(ours, took, strict=True)]
                    row[f"spool_to_it_{name}"] = _spread(ratios)
                    shown += f"ratio {_text(_spread(ratios)):<20}"
            rows.append(row)
            sys.stdout.write(shown.rstrip() + "\n")
    facts = {
        **machine(),
        "rounds": ROUNDS,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"machine": facts, "rows": rows}, indent=2) + "\n")
    sys.stdout.flush()


def _spread(values: list[float]) -> dict[str, float]:
    """The median, and the range in which the middle half of the rounds lies."""
    low, median, high = statistics.quantiles(values, n=4)
    return {"median": round(median, 2), "low": round(low, 2), "high": round(high, 2)}


def _text(spread: dict[str, float]) -> str:
    return f"{spread['median']:.2f} ({spread['low']:.2f}-{spread['high']:.2f})"


if __name__ == "__main__":
    main()
