"""Traces as runs: whatever way their spans are cut into requests, the run is the same."""

from __future__ import annotations

import random
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from fleet.lib.clock import datetime_to_ns, now
from telemetry.ingest.otlp_traces import TraceFacts, is_same, merged, run_row, said_from_json
from telemetry.models import (
    CELL_MODELS,
    ErrorEvent,
    IngestBatch,
    ModelCall,
    OtlpTrace,
    ReplacedRun,
    Run,
    ToolCall,
    TouchedHour,
)
from telemetry.rollup.fold import fold_touched
from telemetry.store import retention, traces
from tests.telemetry import otlp_builders as otlp
from tests.telemetry.builders import S, recent_ns
from tests.telemetry.recount import counted, stored

pytestmark = [pytest.mark.django_db, pytest.mark.both_engines]
NS_PER_HOUR = 3600 * S


def trace(begin_ns: int) -> list[Span]:
    """A web request with an agent that calls a model thrice and a tool once, which fails."""
    calls = [
        otlp.span(span_id=f"{n:016x}", start_ns=begin_ns + n * S, end_ns=begin_ns + (n + 1) * S)
        for n in range(2, 5)
    ]
    web = otlp.span(
        span_id="aa" * 8,
        parent_id="",
        kind=2,
        attributes={"http.request.method": "POST"},
        start_ns=begin_ns,
        end_ns=begin_ns + 9 * S,
    )
    agent = otlp.agent(parent_id="aa" * 8, start_ns=begin_ns + S, end_ns=begin_ns + 8 * S)
    # In the next hour, where the run is as long as nothing earlier has come.
    failed = otlp.tool(is_error=True, start_ns=begin_ns + 3600 * S, end_ns=begin_ns + 3601 * S)
    return [*calls, failed, agent, web]


def stored_run() -> dict[str, object]:
    ignored = ("batch_id", "received_at", "seq", "start_at")
    (found,) = Run.objects.values()
    return {name: value for name, value in found.items() if name not in ignored}


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_any_cut_order_and_repetition_of_a_trace_gives_the_same_run_and_sums(seed: int) -> None:
    for model in (Run, ModelCall, ToolCall, ErrorEvent, OtlpTrace, IngestBatch):
        model._default_manager.all().delete()
    for cells in (*CELL_MODELS, ReplacedRun, TouchedHour):
        cells._default_manager.all().delete()
    spans, rng = trace(recent_ns(2 * 3600)), random.Random(seed)
    sent = [*spans, *rng.sample(spans, rng.randint(0, len(spans)))]
    rng.shuffle(sent)
    while sent:
        size = rng.randint(1, len(sent))
        otlp.push(*sent[:size])
        sent = sent[size:]
        if rng.random() < 0.4:
            fold_touched()
    fold_touched()
    assert stored() == counted() != {}
    run = stored_run()
    begin_ns = run["start_ns"]
    assert isinstance(begin_ns, int)
    assert run["end_ns"] == begin_ns + 9 * S
    expected = {"end_reason": "completed", "profile_id": "helper", "platform": "bot"}
    assert {name: run[name] for name in expected} == expected
    assert (run["model_call_count"], run["tool_call_count"], run["error_count"]) == (3, 1, 1)
    assert (ModelCall.objects.count(), ToolCall.objects.count()) == (3, 1)
    for batch in IngestBatch.objects.all():
        parts = batch.inserted_count, batch.merged_count, batch.duplicate_count
        assert batch.received_count == sum(parts)


def test_a_trace_is_a_run_before_its_root_has_come() -> None:
    otlp.push(otlp.span())
    run = stored_run()
    assert (run["end_ns"], run["end_reason"], run["model_call_count"]) == (None, None, 1)


def test_a_root_that_began_an_hour_earlier_moves_the_run_and_touches_both_hours() -> None:
    begin_ns = recent_ns(3 * 3600)
    otlp.push(otlp.span(start_ns=begin_ns + NS_PER_HOUR))
    TouchedHour.objects.all().delete()
    otlp.push(otlp.agent(start_ns=begin_ns, end_ns=begin_ns + 2 * NS_PER_HOUR))
    assert stored_run()["start_ns"] == begin_ns
    hours = {datetime_to_ns(touched.hour) // NS_PER_HOUR for touched in TouchedHour.objects.all()}
    assert hours == {begin_ns // NS_PER_HOUR, begin_ns // NS_PER_HOUR + 1}
    (before,) = ReplacedRun.objects.all()
    assert before.start_ns == begin_ns + NS_PER_HOUR
    assert before.replaced_by == IngestBatch.objects.latest("received_at").batch_id


def test_traces_of_two_installs_with_one_id_are_two_runs() -> None:
    otlp.push(otlp.span())
    otlp.push(otlp.span(), install_id="01890000-0000-7000-8000-000000000002")
    assert Run.objects.count() == OtlpTrace.objects.count() == 2


def test_what_is_said_of_a_run_is_scrubbed() -> None:
    secret = "ghp_" + "x7Kq2Lm9Pz4Rt8Wv1Yb3Nc6Df5Gh0Jk2Ms7Q"
    otlp.push(otlp.span(), resource={"service.name": f"bot {secret}"})
    assert secret not in str(Run.objects.values().get())
    assert secret not in str(OtlpTrace.objects.values().get())


def test_a_trace_is_forgotten_a_week_after_its_last_span_and_its_run_stays() -> None:
    otlp.push(otlp.agent())
    retention.maintain()
    assert OtlpTrace.objects.count() == 1
    OtlpTrace.objects.update(updated_at=now() - traces.TRACE_LIFE - timedelta(minutes=1))
    retention.maintain()
    assert (OtlpTrace.objects.count(), Run.objects.count()) == (0, 1)


def test_a_forgotten_trace_that_comes_again_counts_its_run_as_a_duplicate() -> None:
    agent = otlp.agent()
    otlp.push(agent, otlp.tool())
    OtlpTrace.objects.all().delete()
    otlp.push(agent)
    again = IngestBatch.objects.latest("received_at")
    assert (again.received_count, again.inserted_count) == (again.duplicate_count, 0)
    assert Run.objects.count() == 1


def test_a_trace_that_began_before_retention_begins_anew() -> None:
    otlp.push(otlp.span())
    OtlpTrace.objects.update(start_ns=1)
    assert Run.objects.all().delete()
    otlp.push(otlp.agent())
    assert stored_run()["end_reason"] == "completed"
    assert OtlpTrace.objects.get().seq == 1


# ------------------------------------------------------------------------------ the pure merge

PLACES = st.tuples(st.integers(0, 3), st.integers(1, 50), st.sampled_from(["a", "b", "c"]))
SPANS = st.tuples(PLACES, st.sampled_from(["x", "y", "", "z"]), st.integers(1, 99))


def facts_of(spans: list[tuple[tuple[int, int, str], str, int]]) -> TraceFacts:
    facts = TraceFacts("t", spans[0][0][1])
    for (rank, start_ns, span_id), value, end_ns in spans:
        place = facts.add_span(rank, start_ns, span_id)
        if value:
            facts.say("session_id", place, value)
        if rank <= 1:
            facts.end(rank, end_ns, span_id, value or "completed")
    return facts


@given(lists=st.lists(st.lists(SPANS, min_size=1, max_size=4), min_size=2, max_size=4))
def test_facts_merge_to_the_same_in_any_order(
    lists: list[list[tuple[tuple[int, int, str], str, int]]],
) -> None:
    def together(parts: list[TraceFacts]) -> TraceFacts:
        found = parts[0]
        for part in parts[1:]:
            found = merged(found, part, {})
        return found

    parts = [facts_of(spans) for spans in lists]
    whole = together(parts)
    assert is_same(whole, together(parts[::-1]))
    assert is_same(whole, merged(whole, parts[0], {}))
    assert is_same(whole, facts_of([span for spans in lists for span in spans]))


@pytest.mark.parametrize("data", [None, [], "x", {"a": 1}, {"a": [1, 2, 3, 4]}, {"a": [1, 2, "x"]}])
def test_what_is_kept_in_another_form_is_nothing(data: object) -> None:
    assert said_from_json(data) == {}


def test_a_run_row_has_the_contracts_columns() -> None:
    from agent_client.contract.tables import RUNS

    row = dict(zip((*RUNS.column_names(), "seq"), run_row(TraceFacts("t", 5), 3), strict=True))
    assert (row["run_id"], row["trace_id"], row["start_ns"], row["end_ns"]) == ("t", "t", 5, None)
    assert (row["entrypoint"], row["schema_v"], row["seq"]) == ("otlp", 1, 3)
