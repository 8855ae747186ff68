"""A state machine against dictionaries: whatever comes in, in whatever order, the books are exact.

FAULTS_EXAMPLES and FAULTS_STEPS make it longer.
"""

from __future__ import annotations

import gzip
import io
import json
import os
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.core.management import call_command
from django.db import transaction
from django.db.models import Sum
from django.test import Client
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from agent_client.contract import wire
from fleet.lib.clock import floor_hour, ns_to_datetime
from fleet.lib.sql import session_lock
from fleet.models import Install, InstallGroup
from telemetry.models import EVENT_MODELS
from telemetry.models.cells import ALL_GROUPS, RunsCell, ToolCallsCell, Unit
from telemetry.rollup.fill import fill_pending, fill_round
from telemetry.rollup.fold import LOCK
from telemetry.rollup.tasks import fill_touched
from telemetry.store.partitions import Partition, ensure_partitions
from tests.faults import raw, served
from tests.faults.books import check_cells, read_books
from tests.faults.model import Expected, Junk, Model, Record
from tests.telemetry import builders as make

INSTALLS = [UUID(int=0x01890000_0000_7000_8000_000000000001 + at) for at in range(2)]
START_NS = make.recent_ns(30 * 3600)
STARTS = [START_NS + at * 3600 * make.S for at in range(3)]
LATE_NS = make.recent_ns(40 * 86_400)


def run_of(number: int, seq: int, end: str | None, cost: float | None) -> Record:
    start_ns = STARTS[number % 3]
    return make.run(
        seq,
        run_id=f"run-{number}",
        start_ns=start_ns,
        end_ns=start_ns + (1 + seq) * make.S if end else None,
        end_reason=end,
        estimated_cost_usd=cost,
        entrypoint=["cli", "cron"][number % 2],
    )


RUNS = st.builds(
    run_of,
    st.integers(0, 5),
    st.integers(1, 6),
    st.sampled_from(["completed", "failed", "timeout", None]),
    st.sampled_from([None, 0.0, 0.25, 3.5]),
)


def call_of(kind: str, number: int, copy: int, at: int) -> Record:
    """A call, an error or a span; ``copy`` makes another row of the same key differ."""
    names = {"run_id": f"run-{number % 6}", "span_id": f"{kind}-{number}"}
    at_ns = LATE_NS if at == 3 else STARTS[at]
    if kind == "tel_tool_calls":
        results = ["ok", "error", "blocked"]
        return make.tool_call(
            copy, **names, start_ns=at_ns, result_class=results[copy % 3], duration_ms=copy * 10.0
        )
    if kind == "tel_model_calls":
        return make.model_call(copy, **names, start_ns=at_ns, model=f"m-{copy % 2}")
    if kind == "tel_error_events":
        return make.error(copy, **names, ts_ns=at_ns)
    return make.record(kind, copy, **names, start_ns=at_ns, ts_ns=at_ns)


CALLS = st.builds(
    call_of,
    st.sampled_from(
        ["tel_tool_calls", "tel_model_calls", "tel_error_events", "tel_spans", "tel_skill_events"]
    ),
    st.integers(0, 7),
    st.integers(1, 4),
    st.sampled_from([0, 0, 0, 1, 2, 3]),
)
GOOD = make.tool_call(99, start_ns=START_NS)
JUNK = st.sampled_from(
    [
        Junk(b"{", "malformed_line"),
        Junk(b"[1]", "malformed_line"),
        Junk(b'\xff{"_kind":"tel_runs"}', "invalid_text"),
        Junk(make.line(GOOD | {"_kind": "tel_secrets"}), "unknown_kind"),
        Junk(make.line(GOOD | {"span_id": None}), "missing_field"),
        Junk(make.line(GOOD | {"duration_ms": -1}), "out_of_range"),
        Junk(make.line(GOOD | {"tool_name": ["x"]}), "wrong_type"),
        Junk(make.line(GOOD | {"start_ns": make.recent_ns(-3 * 86_400)}), "time_in_future"),
        Junk(make.line(GOOD | {"start_ns": 1}), "time_too_old"),
    ]
)
LINES = st.lists(st.one_of(RUNS, CALLS, JUNK), min_size=1, max_size=8)
WHICH = st.sampled_from([0, 1])


def body_of(lines: list[Record | Junk]) -> bytes:
    return make.ndjson(*(line.line if isinstance(line, Junk) else line for line in lines))


class Console(RuleBasedStateMachine):
    """Two installs that push, and the console's jobs in between."""

    def __init__(self) -> None:
        super().__init__()
        self.atomic = transaction.atomic()
        self.atomic.__enter__()
        self.model = Model()
        self.batches: list[tuple[UUID, str, bytes, bytes]] = []
        """Install, batch id, body and the receipt's bytes of each acknowledged batch."""
        self.tokens = {install_id: raw.credential_of(install_id) for install_id in INSTALLS}
        self.hours = {floor_hour(ns_to_datetime(at_ns)) for at_ns in (*STARTS, LATE_NS)}

    @initialize()
    def groups(self) -> None:
        self.made = [InstallGroup.objects.create(name=f"faults {at}") for at in range(2)]

    def post(self, install_id: UUID, batch_id: str, body: bytes, **more: str) -> Any:  # noqa: ANN401 -- the test client's own type
        headers = raw.push_headers(self.tokens[install_id], batch_id, **more)
        media = headers.pop("Content-Type")
        return Client().post(wire.PATH_TELEMETRY, body, content_type=media, headers=headers)

    def push(self, install_id: UUID, lines: list[Record | Junk]) -> None:
        batch_id, body = str(uuid4()), body_of(lines)
        answer = self.post(install_id, batch_id, body)
        assert answer.status_code == 200
        receipt = wire.Receipt.from_dict(json.loads(answer.content))
        assert (receipt.batch_id, len(receipt.rejected)) == (
            batch_id,
            sum(isinstance(line, Junk) for line in lines),
        )
        said = Expected(
            receipt.received, receipt.accepted, receipt.duplicates, receipt.rejected_counts
        )
        assert said == self.model.take(install_id, lines)
        self.batches.append((install_id, batch_id, body, answer.content))

    @rule(which=WHICH, lines=LINES)
    def a_batch_comes(self, which: int, lines: list[Record | Junk]) -> None:
        self.push(INSTALLS[which], lines)

    @precondition(lambda self: self.batches)
    @rule(data=st.data(), lines=LINES)
    def a_batch_comes_that_overlaps_earlier_ones(
        self, data: st.DataObject, lines: list[Record | Junk]
    ) -> None:
        install_id = data.draw(st.sampled_from(INSTALLS))
        known = list(self.model.rows[install_id].values())
        again = data.draw(st.lists(st.sampled_from(known), max_size=5)) if known else []
        self.push(install_id, data.draw(st.permutations([*lines, *again])))

    @rule(which=WHICH, number=st.integers(0, 5), seqs=st.permutations([1, 3, 5, 6]))
    def copies_of_a_run_come_in_any_order(self, which: int, number: int, seqs: list[int]) -> None:
        for seq in seqs:
            self.push(
                INSTALLS[which], [run_of(number, seq, "completed" if seq > 3 else None, None)]
            )

    @precondition(lambda self: self.batches)
    @rule(data=st.data(), encoding=st.sampled_from(["identity", "gzip"]))
    def a_batch_comes_again(self, data: st.DataObject, encoding: str) -> None:
        install_id, batch_id, body, receipt = data.draw(st.sampled_from(self.batches))
        sent = gzip.compress(body) if encoding == "gzip" else body
        answer = self.post(install_id, batch_id, sent, Content_Encoding=encoding)
        assert (answer.status_code, answer.content) == (200, receipt)

    @precondition(lambda self: self.batches)
    @rule(data=st.data())
    def an_id_comes_again_with_other_content(self, data: st.DataObject) -> None:
        install_id, batch_id, body, _ = data.draw(st.sampled_from(self.batches))
        answer = self.post(install_id, batch_id, body + make.ndjson(GOOD))
        assert (answer.status_code, answer.json()["code"]) == (409, "batch_mismatch")

    @rule(which=WHICH, to=st.sampled_from([None, 0, 1]))
    def an_install_changes_its_group(self, which: int, to: int | None) -> None:
        group = None if to is None else self.made[to]
        Install.objects.filter(pk=INSTALLS[which]).update(group=group)

    @rule()
    def the_rollup_worker_comes_by(self) -> None:
        fill_touched()

    @rule(limit=st.integers(1, 2))
    def the_rollup_worker_does_a_part(self, limit: int) -> None:
        with session_lock(LOCK):
            fill_round(folds=limit)

    @invariant()
    def the_ledger_balances(self) -> None:
        books = read_books()
        for name in ("received", "inserted", "merged", "duplicate", "rejected"):
            assert getattr(books, name) == self.model.sums[name], name
        assert books.row_count == books.intake == books.inserted

    def check_rows(self) -> None:
        for model in EVENT_MODELS:
            names = (*model.CONTRACT.column_names(), "seq")
            for install_id in INSTALLS:
                rows = model.objects.filter(install_id=install_id).values_list(*names)
                assert set(rows) == self.model.stored(install_id, model.CONTRACT.name)

    def check_cells(self) -> None:
        fill_pending()
        check_cells(min(self.hours), max(self.hours))
        call_command("telemetry_rollup", "--verify", stdout=io.StringIO())
        # Verifying shares its queries with filling; these numbers come from the model alone.
        for unit in Unit.values:
            cells = RunsCell.objects.filter(unit=unit, group_id=ALL_GROUPS)
            sums = cells.aggregate(
                all=Sum("run_count", default=0), open=Sum("open_count", default=0)
            )
            runs = self.model.every("tel_runs")
            still_open = sum(run["end_reason"] is None for run in runs)
            assert (sums["all"], sums["open"]) == (len(runs), still_open)
            calls = ToolCallsCell.objects.filter(unit=unit, group_id=ALL_GROUPS)
            counted = calls.aggregate(all=Sum("call_count", default=0))["all"]
            assert counted == len(self.model.every("tel_tool_calls"))

    def teardown(self) -> None:
        try:
            self.check_rows()
            self.check_cells()
        finally:
            transaction.set_rollback(True)
            self.atomic.__exit__(None, None, None)


@pytest.mark.both_engines
@pytest.mark.django_db
@pytest.mark.timeout(served.PATIENCE_S)
def test_whatever_comes_in_whatever_order_the_books_are_exact() -> None:
    days = {ns_to_datetime(at_ns).date() for at_ns in (*STARTS, LATE_NS)}
    ensure_partitions(
        {Partition(day, model.table_name()) for day in days for model in EVENT_MODELS}
    )
    run_state_machine_as_test(
        Console,
        settings=settings(
            deadline=None,
            max_examples=int(os.environ.get("FAULTS_EXAMPLES", "8")),
            stateful_step_count=int(os.environ.get("FAULTS_STEPS", "12")),
            suppress_health_check=list(HealthCheck),
        ),
    )
