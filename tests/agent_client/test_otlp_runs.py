"""When a run's span is sent: it ends with each turn, and its cost may be put right later."""

from __future__ import annotations

from pathlib import Path

from agent_client.otlp.drain import DrainReport, drain
from agent_client.store import Store
from tests.agent_client.builders import (
    SECOND_NS,
    START_NS,
    model_call,
    query,
    run_event,
    store_events,
)
from tests.agent_client.otlp_homes import configure, in_trace, instant, recorded
from tests.agent_client.otlp_receiver import OtlpReceiver, attributes


def test_an_open_run_is_sent_when_it_is_closed(tmp_path: Path) -> None:
    with OtlpReceiver() as receiver:
        open_run = run_event(end_ns=None, end_reason=None)
        recorded(tmp_path, receiver.url, *in_trace(open_run, model_call()))
        drain(tmp_path, timing=instant())
        assert list(receiver.by_name()) == ["chat model-a"]
        store_events(tmp_path, *in_trace(run_event()))
        drain(tmp_path, timing=instant())
        found = receiver.by_name()
        run = found["invoke_agent hermes-agent"]
        assert found["chat model-a"].parent_span_id == run.span_id


def test_a_run_whose_cost_is_put_right_is_sent_again_under_its_id(tmp_path: Path) -> None:
    with OtlpReceiver() as receiver:
        recorded(tmp_path, receiver.url, run_event(estimated_cost_usd=0.25))
        drain(tmp_path, timing=instant())
        store_events(tmp_path, run_event(estimated_cost_usd=0.5))
        drain(tmp_path, timing=instant())
        (run,) = receiver.spans.values()
        assert attributes(run.attributes)["hermes.estimated_cost_usd"] == 0.5
        assert receiver.metrics["hermes.run.count"].sum.data_points[0].as_int == 1
        assert receiver.metrics["hermes.cost.usd"].sum.data_points[0].as_double == 0.5


def test_a_session_of_many_turns_is_one_span_sent_once(tmp_path: Path) -> None:
    """Each turn ends its run and the next opens it again; only the last end is the run's."""
    minute_ns = 60 * SECOND_NS
    with OtlpReceiver() as receiver:
        configure(tmp_path, receiver.url)

        def drain_at(now_ns: int) -> DrainReport:
            return drain(tmp_path, timing=instant(now_ns=now_ns), settle_s=300.0)

        for turn in range(1, 4):
            at_ns = START_NS + turn * minute_ns
            store_events(tmp_path, run_event(end_ns=None, end_reason=None), model_call(turn))
            drain_at(at_ns)
            store_events(tmp_path, run_event(end_ns=at_ns, turn_count=turn))
            report = drain_at(at_ns + SECOND_NS)
            assert (report.left, report.held) == (0, 1)
        assert [span.name for span in receiver.spans.values()] == ["chat model-a"] * 3
        report = drain_at(START_NS + 60 * minute_ns)
        assert (report.sent["spans"], report.held) == (1, 0)
        run = receiver.by_name()["invoke_agent hermes-agent"]
        assert run.end_time_unix_nano == START_NS + 3 * minute_ns
        assert attributes(run.attributes)["hermes.turn_count"] == 3
        assert receiver.span_arrivals == 4
        assert drain_at(START_NS + 70 * minute_ns).status == "nothing"


def test_a_drain_by_hand_sends_what_a_streamer_held_back(tmp_path: Path) -> None:
    with OtlpReceiver() as receiver:
        recorded(tmp_path, receiver.url, *(run_event(number) for number in range(3)))
        now = instant(now_ns=START_NS + 2 * SECOND_NS)
        assert drain(tmp_path, timing=now, settle_s=300.0).held == 3
        assert receiver.spans == {}
        report = drain(tmp_path, timing=now)
        assert (report.sent["spans"], report.held) == (3, 0)
        assert total_runs(receiver) == 3


def total_runs(receiver: OtlpReceiver) -> int:
    return sum(point.as_int for point in receiver.metrics["hermes.run.count"].sum.data_points)


def test_a_run_that_opened_again_is_held_no_more(tmp_path: Path) -> None:
    with OtlpReceiver() as receiver:
        recorded(tmp_path, receiver.url, run_event())
        now = instant(now_ns=START_NS + 2 * SECOND_NS)
        drain(tmp_path, timing=now, settle_s=300.0)
        store_events(tmp_path, run_event(end_ns=None, end_reason=None))
        assert drain(tmp_path, timing=now, settle_s=300.0).held == 0
        assert drain(tmp_path, timing=now).status == "nothing"
        assert receiver.spans == {}


def test_held_runs_that_are_too_many_for_one_request_go_in_several(tmp_path: Path) -> None:
    with OtlpReceiver() as receiver:
        recorded(tmp_path, receiver.url, *(run_event(number) for number in range(20)))
        now = instant(now_ns=START_NS + 2 * SECOND_NS)
        drain(tmp_path, timing=now, settle_s=300.0)
        receiver.max_records = 3
        assert drain(tmp_path, timing=now).sent["spans"] == 20
        assert receiver.span_arrivals == 20


def test_a_held_run_that_retention_removed_is_forgotten(tmp_path: Path) -> None:
    with OtlpReceiver() as receiver:
        recorded(tmp_path, receiver.url, run_event())
        now = instant(now_ns=START_NS + 2 * SECOND_NS)
        drain(tmp_path, timing=now, settle_s=300.0)
        with Store(tmp_path) as store:
            store.connection.execute("DELETE FROM tel_runs")
        assert drain(tmp_path, timing=now).held == 0
        assert receiver.spans == {}


def test_what_is_remembered_of_a_run_goes_when_the_run_does(tmp_path: Path) -> None:
    with OtlpReceiver() as receiver:
        recorded(tmp_path, receiver.url, run_event(0), run_event(1))
        drain(tmp_path, timing=instant())
        with Store(tmp_path) as store:
            store.connection.execute("DELETE FROM tel_runs WHERE run_id = 'run-0'")
        drain(tmp_path, timing=instant())
        keys = query(tmp_path, "SELECT key FROM tel_state WHERE key LIKE 'otlp.run.%'")
        assert [key.rpartition(".")[2] for (key,) in keys] == ["run-1"]
