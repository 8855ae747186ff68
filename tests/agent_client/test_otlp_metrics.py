from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent_client import health
from agent_client.contract.tables import ERRORS, MODEL_CALLS, TOOL_CALLS
from agent_client.otlp import metrics as metering
from agent_client.otlp.drain import drain
from agent_client.otlp.metrics import Meter
from agent_client.otlp.signals import Log, Series
from tests.agent_client.builders import (
    SECOND_NS,
    START_NS,
    error_event,
    model_call,
    run_event,
    store_events,
    tool_call,
)
from tests.agent_client.otlp_homes import configure, instant, mapped, span_of
from tests.agent_client.otlp_receiver import METRICS, TRACES, Fault, OtlpReceiver, attributes


def metered(home: Path, profile: str = "1.41", **changes: Any) -> Meter:  # noqa: ANN401  # of a call
    meter = Meter(START_NS)
    meter.add_span(MODEL_CALLS, span_of(home, model_call(**changes), profile), profile)
    return meter


def series_of(meter: Meter, name: str) -> list[Series]:
    return [one for one in meter.series if one.name == name]


def names(meter: Meter) -> set[str]:
    return {one.name for one in meter.series}


def test_a_call_is_counted_in_the_names_of_1_41(tmp_path: Path) -> None:
    meter = metered(tmp_path, input_tokens=100, cache_read_tokens=20, output_tokens=7)
    tokens = series_of(meter, "gen_ai.client.token.usage")
    assert [(one.attributes["gen_ai.token.type"], one.total) for one in tokens] == [
        ("input", 120),
        ("output", 7),
    ]
    (duration,) = series_of(meter, "gen_ai.client.operation.duration")
    assert (duration.unit, duration.count, duration.total) == ("s", 1, 1e-6)
    assert names(meter) == {"gen_ai.client.token.usage", "gen_ai.client.operation.duration"}


def test_a_call_is_counted_in_the_names_after_1_41(tmp_path: Path) -> None:
    meter = metered(tmp_path, "next", cache_write_tokens=3, output_tokens=7, ttft_ms=500.0)
    usage = "gen_ai.client.inference.usage."
    assert {one.name: one.total for one in meter.series if one.name.startswith(usage)} == {
        f"{usage}input_tokens": 103,
        f"{usage}output_tokens": 7,
        f"{usage}cache_write.input_tokens": 3,
    }
    assert {
        "gen_ai.client.inference.duration",
        "gen_ai.client.inference.time_to_first_chunk",
        "gen_ai.client.inference.operation.input_tokens",
        "gen_ai.client.inference.operation.output_tokens",
    } < names(meter)
    assert not {name for name in names(meter) if name.startswith("gen_ai.client.operation")}
    (counted,) = series_of(meter, f"{usage}input_tokens")
    assert counted.attributes["gen_ai.token.modality"] == "unknown"


def test_both_profiles_give_both_sets(tmp_path: Path) -> None:
    old, new = metered(tmp_path / "a"), metered(tmp_path / "b", "next")
    assert names(metered(tmp_path / "c", "both")) == names(old) | names(new)


@pytest.mark.parametrize(
    ("seconds", "bucket"), [(0.0, 0), (0.01, 0), (0.011, 1), (81.92, 13), (82, 14), (9e6, 14)]
)
def test_a_value_on_a_bound_lies_below_it(tmp_path: Path, seconds: float, bucket: int) -> None:
    meter = metered(tmp_path, end_ns=START_NS + round(seconds * SECOND_NS))
    (duration,) = series_of(meter, "gen_ai.client.operation.duration")
    assert duration.buckets.index(1) == bucket
    assert len(duration.buckets) == len(duration.bounds) + 1 == 15
    assert duration.bounds[:3] == (0.01, 0.02, 0.04)


def test_only_a_failed_call_has_an_error_in_its_duration(tmp_path: Path) -> None:
    meter = metered(tmp_path, status_code=500)
    (duration,) = series_of(meter, "gen_ai.client.operation.duration")
    assert duration.attributes["error.type"] == "500"
    (tokens,) = series_of(meter, "gen_ai.client.token.usage")
    assert "error.type" not in tokens.attributes


@pytest.mark.parametrize(
    ("profile", "tools", "runs"),
    [
        ("1.41", {"hermes.tool.duration"}, {"hermes.run.duration"}),
        ("next", {"gen_ai.execute_tool.duration"}, {"gen_ai.invoke_agent.duration"}),
        (
            "both",
            {"hermes.tool.duration", "gen_ai.execute_tool.duration"},
            {"hermes.run.duration", "gen_ai.invoke_agent.duration"},
        ),
    ],
)
def test_tools_and_runs_are_timed_by_profile(
    tmp_path: Path, profile: str, tools: set[str], runs: set[str]
) -> None:
    meter = Meter(START_NS)
    meter.add_span(TOOL_CALLS, span_of(tmp_path / "tool", tool_call()), profile)
    assert names(meter) == tools
    meter.add_run(span_of(tmp_path / "run", run_event()), profile, None)
    assert names(meter) == tools | runs | {"hermes.run.count"}


def test_errors_are_counted_by_class(tmp_path: Path) -> None:
    meter = Meter(START_NS)
    for log in mapped(tmp_path, error_event(1), error_event(2), error_event(3, error_class=None)):
        assert isinstance(log, Log)
        meter.add_log(ERRORS, log)
    assert {
        (one.attributes["error_class"], one.attributes["subsystem"]): one.total
        for one in series_of(meter, "hermes.error.count")
    } == {("auth", "unknown"): 2, ("unknown", "unknown"): 1}


def test_no_series_names_the_install_or_a_session(tmp_path: Path) -> None:
    meter = metered(tmp_path / "call")
    meter.add_run(span_of(tmp_path / "run", run_event(estimated_cost_usd=1.0)), "both", None)
    keys = {key for one in meter.series for key in one.attributes}
    assert not {key for key in keys if "id" in key.split(".")[-1].split("_")}


def test_a_flood_of_names_ends_in_one_series(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metering, "MAX_SERIES", 3)
    meter = Meter(START_NS)
    for number in range(9):
        meter.add_span(
            TOOL_CALLS, span_of(tmp_path / str(number), tool_call(tool_name=f"t{number}")), "1.41"
        )
    *_, overflow = series_of(meter, "hermes.tool.duration")
    assert overflow.attributes == {"otel.metric.overflow": True}
    assert (len(meter.series), overflow.count) == (4, 6)


def test_series_survive_their_bookkeeping(tmp_path: Path) -> None:
    meter = metered(tmp_path, "both", ttft_ms=1.0)
    again = Meter.from_json(meter.to_json(), 7)
    assert again.start_ns == START_NS
    assert again.series == meter.series
    meter.add_span(MODEL_CALLS, span_of(tmp_path / "b", model_call()), "both")
    again.add_span(MODEL_CALLS, span_of(tmp_path / "c", model_call()), "both")
    assert again.series == meter.series


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "{",
        "[]",
        "7",
        '{"start_ns": 1, "series": [["no.such.metric", {}, 1, 1, [], 0, 0]]}',
        '{"start_ns": 1, "series": [["hermes.tool.duration", {}, 1, 1, [1, 2], 0, 0]]}',
    ],
)
def test_damaged_bookkeeping_starts_anew(text: str | None) -> None:
    meter = Meter.from_json(text, START_NS)
    assert (meter.start_ns, meter.series) == (START_NS, [])


# ------------------------------------------------------------------------------ over many drains


def total_of(receiver: OtlpReceiver, name: str) -> float:
    metric = receiver.metrics[name]
    if metric.HasField("histogram"):
        return sum(point.count for point in metric.histogram.data_points)
    return sum(point.as_int or point.as_double for point in metric.sum.data_points)


def test_totals_grow_from_one_fixed_start(tmp_path: Path) -> None:
    with OtlpReceiver() as receiver:
        configure(tmp_path, receiver.url)
        starts = set()
        for number in range(3):
            store_events(tmp_path, run_event(number), model_call(number))
            drain(tmp_path, timing=instant(now_ns=START_NS + number * SECOND_NS))
            assert total_of(receiver, "hermes.run.count") == number + 1
            assert total_of(receiver, "gen_ai.client.operation.duration") == number + 1
            (point,) = receiver.metrics["hermes.run.count"].sum.data_points
            starts.add(point.start_time_unix_nano)
            assert point.time_unix_nano == START_NS + number * SECOND_NS
        assert starts == {START_NS}
        assert receiver.metrics["hermes.run.count"].sum.aggregation_temporality == 2


def test_a_batch_that_is_sent_twice_is_counted_once(tmp_path: Path) -> None:
    with OtlpReceiver() as receiver:
        configure(tmp_path, receiver.url)
        store_events(tmp_path, run_event(), model_call())
        receiver.faults = [Fault(TRACES, "drop", times=3)]
        drain(tmp_path, timing=instant())
        assert receiver.span_arrivals > 2
        assert total_of(receiver, "hermes.run.count") == 1


def test_metrics_that_were_not_taken_go_with_the_next_drain(tmp_path: Path) -> None:
    with OtlpReceiver() as receiver:
        configure(tmp_path, receiver.url)
        store_events(tmp_path, run_event())
        receiver.faults = [Fault(METRICS, "status", 500)]
        report = drain(tmp_path, timing=instant())
        assert (report.status, report.left) == ("failed", 0)
        assert receiver.metrics == {}
        report = drain(tmp_path, timing=instant())
        assert (report.status, list(report.sent)) == ("sent", ["metrics"])
        assert total_of(receiver, "hermes.run.count") == 1
        assert drain(tmp_path, timing=instant()).status == "nothing"


def test_lost_events_are_told_by_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "totals", lambda _connection: {"overflow": 12})
    with OtlpReceiver() as receiver:
        configure(tmp_path, receiver.url)
        drain(tmp_path, timing=instant())
        (point,) = receiver.metrics["hermes.events.dropped"].sum.data_points
        assert (attributes(point.attributes), point.as_int) == ({"reason": "overflow"}, 12)
