"""The aggregate plane comes in: closed types, each record once, each with its consent."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from importlib.resources import files
from typing import Any
from uuid import uuid4

import pytest
import time_machine
from django.db import connection
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent_client.contract.wire import Receipt
from fleet.lib.clock import now
from telemetry.ingest.receive import Outcome
from telemetry.ingest.summaries import judge_summaries
from telemetry.ingest.validate import TimeBounds
from telemetry.models import AggregateRecord, IngestBatch, InstallIntake, QuarantinedLine, Run
from telemetry.store.retention import maintain
from tests.telemetry import builders as make

pytestmark = [pytest.mark.django_db, pytest.mark.both_engines]
TEXT = files("agent_client.contract").joinpath("vectors/aggregate.json").read_text(encoding="utf-8")
VECTORS: dict[str, list[dict[str, Any]]] = json.loads(TEXT)
ANY_TIME = TimeBounds(0, 2**63 - 1)
CONSENT = {"consent_state": "aggregate", "allow_aggregate": True}


def summary(record_id: str = "run-1", seq: int = 1, **values: object) -> dict[str, object]:
    return {
        **VECTORS["valid"][0]["record"],
        "record_id": record_id,
        "seq": seq,
        "occurred_ns": make.recent_ns(),
        **values,
    }


def beat(**values: object) -> dict[str, object]:
    whole = {**VECTORS["valid"][-1]["record"], "occurred_ns": make.recent_ns()}
    return {**whole, "install_id": str(make.INSTALL), **values}


def push(*records: dict[str, object] | bytes, **values: object) -> Outcome:
    return make.push(*records, **({"plane": "aggregate", "consent": CONSENT} | values))


def receipt(outcome: Outcome) -> Receipt:
    return Receipt.from_dict(outcome.receipt)


@pytest.mark.parametrize("vector", VECTORS["valid"], ids=lambda vector: str(vector["name"]))
def test_a_valid_golden_record_is_taken_whole(vector: dict[str, Any]) -> None:
    line = make.line(vector["record"])
    (found,) = judge_summaries([(1, line)], ANY_TIME, install_id=make.INSTALL).summaries
    assert {"_kind": found.kind, **found.data} == vector["record"]


@pytest.mark.parametrize("vector", VECTORS["invalid"], ids=lambda vector: str(vector["name"]))
def test_a_faulty_golden_record_is_refused_by_field_and_code(vector: dict[str, Any]) -> None:
    line = make.line(vector["record"])
    (refused,) = judge_summaries([(7, line)], ANY_TIME, install_id=make.INSTALL).refused
    assert (refused.line, f"{refused.detail}: {refused.code}") == (7, vector["fault"])


def test_summaries_and_heartbeats_are_stored_and_counted_by_kind() -> None:
    outcome = push(summary("a"), summary("b"), beat(), last_seq=900)
    assert receipt(outcome).accepted == {"workflow_completed": 2, "heartbeat": 1}
    stored = AggregateRecord.objects.get(record_id="a")
    assert (stored.install_id, stored.kind, stored.seq) == (make.INSTALL, "workflow_completed", 1)
    assert stored.data["models_used"] == VECTORS["valid"][0]["record"]["models_used"]
    assert not Run.objects.exists()
    assert InstallIntake.objects.get().last_seq is None  # the local plane's counter


def test_each_record_leads_to_the_consent_that_allowed_it() -> None:
    push(summary())
    batch = IngestBatch.objects.get(batch_id=AggregateRecord.objects.get().batch_id)
    assert (batch.plane, batch.consent) == ("aggregate", CONSENT)


def test_a_repeated_batch_gets_its_receipt_and_has_one_effect() -> None:
    batch_id, record = uuid4(), summary()
    first = push(record, b"{", batch_id=batch_id)
    again = push(record, b"{", batch_id=batch_id)
    assert (again.is_replay, again.receipt) == (True, first.receipt)
    assert AggregateRecord.objects.count() == QuarantinedLine.objects.count() == 1


def test_a_later_copy_of_a_run_replaces_it_and_an_older_one_does_not() -> None:
    push(summary(seq=2, estimated_cost_usd=None))
    merged = push(summary(seq=5, estimated_cost_usd=0.5), summary(seq=4, estimated_cost_usd=0.4))
    older = push(summary(seq=3, estimated_cost_usd=0.3))
    assert (receipt(merged).accepted, receipt(merged).duplicates) == ({"workflow_completed": 1}, 1)
    assert (receipt(older).accepted, receipt(older).duplicates) == ({}, 1)
    stored = AggregateRecord.objects.get()
    assert (stored.seq, stored.data["estimated_cost_usd"]) == (5, 0.5)
    assert receipt(merged).received == 2


def test_bad_lines_are_quarantined_with_their_code_and_the_others_stay() -> None:
    odd = summary("x", prompt="what the user said")
    late = summary("y", occurred_ns=make.recent_ns(-2 * 86_400))
    old = summary("z", occurred_ns=make.recent_ns(400 * 86_400))
    outcome = push(odd, b"nonsense", make.run(), late, old, summary("good"))
    assert receipt(outcome).rejected_counts == {
        "unknown_field": 1,
        "malformed_line": 1,
        "unknown_kind": 1,
        "time_in_future": 1,
        "time_too_old": 1,
    }
    assert [row.record_id for row in AggregateRecord.objects.all()] == ["good"]
    assert QuarantinedLine.objects.count() == 5


def test_a_heartbeat_of_another_install_is_refused() -> None:
    outcome = push(beat(install_id=str(uuid4())))
    (listed,) = receipt(outcome).rejected
    assert (listed.code, listed.detail) == ("invalid_value", "install_id")
    assert not AggregateRecord.objects.exists()


def test_secrets_in_names_are_replaced_before_they_are_stored() -> None:
    secret = "ghp_" + "x7Kq9ZtB2mWv4Rn8Lp3Yc6Hd1Fs5Gj0Aw2Ee"
    model = {"provider": secret, "model": "m", "calls": 1, "tokens": 1}
    push(summary(secret, tools_used=[secret], models_used=[model], platform=secret))
    stored = AggregateRecord.objects.get()
    assert secret not in json.dumps([stored.data, stored.record_id])
    assert stored.data["tools_used"][0].startswith("[REDACTED:")
    assert IngestBatch.objects.get().scrubbed_count == 1


def test_installs_do_not_share_records() -> None:
    push(summary())
    push(summary(), install_id=uuid4())
    assert AggregateRecord.objects.count() == 2


def test_records_go_with_retention() -> None:
    push(summary("old", occurred_ns=make.recent_ns(80 * 86_400)), summary("new"))
    with time_machine.travel(now() + timedelta(days=12), tick=False):
        maintain()
    assert [row.record_id for row in AggregateRecord.objects.all()] == ["new"]


def test_the_number_of_queries_does_not_depend_on_the_number_of_records(
    django_assert_max_num_queries: Any,  # noqa: ANN401 -- a fixture without a type
) -> None:
    with django_assert_max_num_queries(20):
        push(*(summary(f"run-{number}") for number in range(400)))


@pytest.mark.django_db(transaction=True)
def test_parallel_repeats_of_one_batch_have_one_effect() -> None:
    batch_id, records = uuid4(), [summary("a"), summary("b")]

    def again(_: int) -> dict[str, object]:
        try:
            return dict(push(*records, batch_id=batch_id).receipt)
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        receipts = list(pool.map(again, range(12)))
    assert all(found == receipts[0] for found in receipts)
    assert (AggregateRecord.objects.count(), IngestBatch.objects.count()) == (2, 1)


@given(st.lists(st.binary(max_size=120) | st.just(make.line(summary())), max_size=4))
def test_no_bytes_whatever_raise(lines: list[bytes]) -> None:
    verdicts = judge_summaries(list(enumerate(lines)), ANY_TIME, install_id=make.INSTALL)
    assert len(verdicts.summaries) + len(verdicts.refused) == len(lines)


COPIES = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 6)), min_size=1, max_size=6)


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(batches=st.lists(COPIES, min_size=1, max_size=4))
def test_the_store_is_a_dictionary_with_the_highest_seq(
    batches: list[list[tuple[int, int]]],
) -> None:
    AggregateRecord.objects.all().delete()
    model: dict[str, int] = {}
    for batch in batches:
        before = dict(model)
        for number, seq in batch:
            model[f"r{number}"] = max(seq, model.get(f"r{number}", -1))
        found = receipt(push(*(summary(f"r{number}", seq) for number, seq in batch)))
        changed = sum(before.get(name) != seq for name, seq in model.items())
        assert (sum(found.accepted.values()), found.duplicates) == (changed, len(batch) - changed)
    assert dict(AggregateRecord.objects.values_list("record_id", "seq")) == model
