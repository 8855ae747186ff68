"""Send to an OpenTelemetry collector what a durable cursor has not passed.

Steps for each batch: 1. the gate is asked again; 2. the rows are redacted, mapped and encoded; 3.
spans, then logs, are sent until the collector has taken them; 4. the cursor and the metrics move
in one SQLite transaction. Metrics go out at the end. A death between any two repeats the step with
the ids it had: a collector that knows records by their ids is not told anything twice.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from agent_client import __version__, health
from agent_client import config as configuration
from agent_client.config import ClientConfig
from agent_client.contract.tables import RUNS, TIME_MAX_NS, Table
from agent_client.files import exclusive_lock, telemetry_dir
from agent_client.otlp.delivery import Delivery, EndedError, TooLargeError
from agent_client.otlp.encode import (
    EXTRA_MISSING,
    LOGS,
    METRICS,
    TRACES,
    Sender,
    can_encode,
    encode_logs,
    encode_metrics,
    encode_spans,
)
from agent_client.otlp.facts import closed_runs, look_up
from agent_client.otlp.mapping import Mapper
from agent_client.otlp.metrics import Meter
from agent_client.otlp.progress import (
    batch_state,
    counted_usd,
    forget_pruned_runs,
    held_runs,
    load_progress,
    metered_state,
    outcome_state,
    success_state,
)
from agent_client.otlp.resource import resource_of
from agent_client.otlp.scrub import Scrubber
from agent_client.otlp.signals import Log, Span
from agent_client.otlp.target import Closed, Target, target_of
from agent_client.push import (
    EXIT_CLOSED,
    EXIT_FAILED,
    EXIT_LATER,
    EXIT_OK,
    EXIT_PARTIAL,
    MAX_HOLD_S,
    Timing,
)
from agent_client.recovery import recover
from agent_client.store import Row, Store, StoreError

MAX_BATCH_ROWS: Final = 512
"""A row is one span or log; 512 is what collectors are tuned for."""
FOR_EVER_NS: Final = TIME_MAX_NS
_RUN_ID, _END_NS = (RUNS.column_names().index(name) for name in ("run_id", "end_ns"))


@dataclass(frozen=True, slots=True)
class DrainReport:
    """How a drain ended.

    ``status``: sent, nothing, partial, closed, rejected (the headers), failed, later or busy.
    ``sent`` and ``rejected`` count spans, logs and metrics (points); ``left`` are rows the cursor
    has not passed, ``held`` runs that may yet go on; ``missing`` are NAMES of environment variables
    whose headers were not sent.
    """

    status: str
    exit_code: int
    reason: str = ""
    detail: str = ""
    endpoint: str = ""
    sent: dict[str, int] = field(default_factory=dict)
    rejected: dict[str, int] = field(default_factory=dict)
    left: int = 0
    held: int = 0
    missing: tuple[str, ...] = ()
    retry_after_s: float = 0.0


def drain(
    home: Path | None = None,
    *,
    config: ClientConfig | None = None,
    timing: Timing | None = None,
    on_batch: Callable[[DrainReport], None] | None = None,
    force: bool = False,
    settle_s: float = 0.0,
) -> DrainReport:
    """Send everything that is pending; at most one drain at a time for a home.

    ``config`` stands in for the files, which are otherwise read before each batch; ``on_batch``
    hears of each accepted batch; ``force`` ignores a wait that an earlier answer asked for. A run
    that ended less than ``settle_s`` ago is held back: each turn of a session ends it, and not
    every collector takes a span twice. Never raises for what network, collector or files do.
    """
    root = configuration.resolve_home(config.home if config is not None and home is None else home)
    target = target_of(config or configuration.load(root))
    if isinstance(target, Closed):
        return _closed(target)
    if not can_encode():
        return DrainReport("failed", EXIT_FAILED, "extra_missing", EXTRA_MISSING, target.endpoint)
    try:
        recover(root)
        install_id = configuration.keep_install_id(root)
        with exclusive_lock(telemetry_dir(root) / "otlp" / "lock") as is_held:
            if not is_held:
                detail = "another export is under way"
                return DrainReport("busy", EXIT_LATER, "busy", detail, target.endpoint)
            with Store(root) as store:
                run = _Run(root, store, target, install_id, config, timing or Timing(), on_batch)
                return run.drain(force=force, settle_ns=int(settle_s * 1e9))
    except (StoreError, sqlite3.Error) as error:
        return DrainReport("failed", EXIT_FAILED, "store", str(error), target.endpoint)
    except OSError as error:
        detail = error.strerror or type(error).__name__
        return DrainReport("failed", EXIT_FAILED, "cannot_store", detail, target.endpoint)


def _closed(found: Closed) -> DrainReport:
    if found.is_refusal:
        return DrainReport("closed", EXIT_CLOSED, found.reason, found.detail)
    return DrainReport("failed", EXIT_FAILED, found.reason, found.detail)


@dataclass(slots=True)
class _Batch:
    """Rows on their way: what they became, and what counts when they have arrived."""

    cursor: int
    row_count: int
    entries: list[tuple[Table, str, Span | Log]] = field(default_factory=list)
    held_ns: dict[str, int | None] = field(default_factory=dict)

    def spans(self) -> list[Span]:
        return [entry for _, _, entry in self.entries if isinstance(entry, Span)]

    def logs(self) -> list[Log]:
        return [entry for _, _, entry in self.entries if isinstance(entry, Log)]


class _Run:
    """One drain under its lock: the state that its steps share."""

    def __init__(
        self,
        home: Path,
        store: Store,
        target: Target,
        install_id: str,
        config: ClientConfig | None,
        timing: Timing,
        on_batch: Callable[[DrainReport], None] | None,
    ) -> None:
        self.home, self.store, self.target = home, store, target
        self.config, self.timing, self.on_batch = config, timing, on_batch
        self.progress = load_progress(store, target.identity)
        self.cursor = self.progress.cursor
        self.meter = Meter.from_json(self.progress.meter, timing.clock_ns())
        self.mapper = Mapper(install_id, target.profile, errors_as_events=target.errors_as_events)
        resource = resource_of(install_id, configuration.keep_pseudonym_key(home))
        self.sender = Sender(__version__, target.profile, resource)
        self.scrubber = Scrubber()
        self.delivery = Delivery(target, replace(timing, sleep=self._pause))
        self.max_rows = MAX_BATCH_ROWS
        self.left = store.pending_count(self.cursor)
        self.held = 0
        self.settle_ns = 0

    def drain(self, *, force: bool, settle_ns: int) -> DrainReport:
        """Batches until none is left or something ends it; the outcome is written last."""
        self.settle_ns = settle_ns
        wait_s = (self.progress.not_before_ns - self.timing.clock_ns()) / 1e9
        if 0 < wait_s <= MAX_HOLD_S and not force:  # a clock set back must not hold us
            detail = f"the collector asked to wait; {wait_s:.0f} s are left"
            ended = EndedError("later", EXIT_LATER, "asked_to_wait", detail, wait_s)
            return self._report(ended)
        ended_by = None
        try:
            while self._send_batch():
                if self.on_batch is not None:
                    self.on_batch(self._report(None))
            self._send_metrics()
            forget_pruned_runs(self.store.connection)
        except EndedError as ended:
            ended_by = ended
        finally:
            self.delivery.close()
        self.left = self.store.pending_count(self.cursor)
        self.held = len(held_runs(self.store.connection, self.target.identity, FOR_EVER_NS, -1))
        report = self._report(ended_by)
        now_ns = self.timing.clock_ns()
        hold_ns = int(min(report.retry_after_s, MAX_HOLD_S) * 1e9)
        self.store.state_set(
            outcome_state(
                self.target.identity,
                at_ns=now_ns,
                status=report.status,
                reason=report.reason,
                detail=report.detail,
                not_before_ns=now_ns + hold_ns if hold_ns else 0,
            )
        )
        return report

    def _report(self, ended: EndedError | None) -> DrainReport:
        is_partial = any(self.delivery.rejected.values())
        is_sent = any(self.delivery.sent.values())
        report = DrainReport(
            status="partial" if is_partial else "sent" if is_sent else "nothing",
            exit_code=EXIT_PARTIAL if is_partial else EXIT_OK,
            reason="rejected" if is_partial else "",
            detail=self.delivery.said,
            endpoint=self.target.endpoint,
            sent=dict(self.delivery.sent),
            rejected=dict(self.delivery.rejected),
            left=self.left,
            held=self.held,
            missing=self.target.missing,
        )
        if ended is None:
            return report
        return replace(
            report,
            status=ended.status,
            exit_code=ended.exit_code,
            reason=ended.reason,
            detail=ended.detail or report.detail,
            retry_after_s=ended.retry_after_s,
        )

    # ------------------------------------------------------------------------------- one batch

    def _send_batch(self) -> bool:
        """Send the next rows and move the cursor past them; False when there are none."""
        self._ask_gate()
        batch = self._next_batch() or self._held_batch()
        if batch is None:
            return False
        spans, logs = batch.spans(), batch.logs() if self.target.sends_logs else []
        try:
            if spans:
                self.delivery.send(TRACES, encode_spans(spans, self.sender), len(spans))
            if logs:
                self.delivery.send(LOGS, encode_logs(logs, self.sender), len(logs))
        except TooLargeError:
            if len(batch.entries) > 1:
                self.max_rows = max(1, min(self.max_rows, len(batch.entries)) // 2)
                return True  # nothing has moved: the same rows come again, fewer at a time
            self.delivery.reject(TRACES if spans else LOGS, 1, "one record is larger than it takes")
        self._keep(batch)
        return True

    def _ask_gate(self) -> None:
        """A pin or a withdrawal may have come meanwhile; so may another endpoint."""
        found = target_of(self.config or configuration.load(self.home))
        if isinstance(found, Closed):
            report = _closed(found)
            raise EndedError(report.status, report.exit_code, report.reason, report.detail)
        if found != self.target:
            raise EndedError("later", EXIT_LATER, "configuration_changed", "try again")

    def _pause(self, seconds: float) -> None:
        """Wait before a batch is sent again, and ask then whether it still may be."""
        self.timing.sleep(seconds)
        self._ask_gate()

    def _next_batch(self) -> _Batch | None:
        """What the cursor has not passed; of runs that may yet go on only that they are held."""
        rows = self.store.rows_after(self.cursor, self.max_rows)
        if not rows:
            return None
        now_ns = self.timing.clock_ns()
        batch = _Batch(rows[-1].seq, len(rows))
        ready = []
        for row in rows:
            if row.table is RUNS:
                run_id, end_ns = str(row.values[_RUN_ID]), row.values[_END_NS]
                is_fresh = isinstance(end_ns, int) and end_ns > now_ns - self.settle_ns
                is_held = is_fresh and self.settle_ns > 0
                batch.held_ns[run_id] = now_ns + self.settle_ns if is_held else None
                if is_held:
                    continue
            ready.append(row)
        return self._mapped(batch, ready)

    def _held_batch(self) -> _Batch | None:
        """Runs that have been held for long enough."""
        now_ns = self.timing.clock_ns() if self.settle_ns else FOR_EVER_NS
        connection = self.store.connection
        run_ids = held_runs(connection, self.target.identity, now_ns, self.max_rows)
        if not run_ids:
            return None
        batch = _Batch(self.cursor, 0, held_ns=dict.fromkeys(run_ids))
        return self._mapped(batch, closed_runs(connection, run_ids))

    def _mapped(self, batch: _Batch, rows: list[Row]) -> _Batch:
        pairs = [(row, self.scrubber.pair_of(row)) for row in rows]
        self.mapper.facts = look_up(
            self.store.connection,
            pairs,
            self.scrubber,
            with_errors=self.target.errors_as_events,
        )
        for row, (raw, record) in pairs:
            made = self.mapper.map(row.table, raw, record)
            if made is not None:
                if row.table is RUNS:  # of two copies of a run the later one stands, by this
                    made.attributes["hermes.seq"] = row.seq
                batch.entries.append((row.table, str(raw["run_id"]), made))
        return batch

    def _keep(self, batch: _Batch) -> None:
        """Count what has arrived and move on, in one transaction."""
        run_ids = {run_id for table, run_id, _ in batch.entries if table is RUNS}
        runs_usd = counted_usd(self.store, self.target.identity, run_ids)
        for table, run_id, entry in batch.entries:
            if isinstance(entry, Log):
                self.meter.add_log(table, entry)
            elif table is RUNS:
                runs_usd[run_id] = self.meter.add_run(
                    entry, self.target.profile, runs_usd.get(run_id)
                )
            else:
                self.meter.add_span(table, entry, self.target.profile)
        self.cursor = batch.cursor
        self.left = max(0, self.left - batch.row_count)  # counted anew at the end
        changes = batch_state(
            self.target.identity,
            cursor=batch.cursor,
            meter=self.meter.to_json(),
            runs_usd=runs_usd,
            held_ns=batch.held_ns,
        )
        if batch.entries:
            changes |= success_state(self.target.identity, self.timing.clock_ns())
        self.store.state_set(changes)

    def _send_metrics(self) -> None:
        """The series as they stand, unless the collector has them so already."""
        if not self.target.sends_metrics:
            return
        self.meter.set_dropped(health.totals(self.store.connection))
        digest = hashlib.sha256(self.meter.to_json().encode()).hexdigest()
        series = self.meter.series
        if not series or digest == self.progress.metered:
            return
        body = encode_metrics(
            series,
            self.sender,
            start_ns=self.meter.start_ns,
            now_ns=max(self.timing.clock_ns(), self.meter.start_ns),
        )
        try:
            self.delivery.send(METRICS, body, len(series))
        except TooLargeError:
            self.delivery.reject(METRICS, len(series), "the metrics are larger than it takes")
        self.store.state_set(metered_state(self.target.identity, digest))
