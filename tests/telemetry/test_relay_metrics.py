"""The fleet's metrics: cumulative, from fixed starts, through restarts and corrections."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

from fleet.lib.clock import datetime_to_ns, now
from fleet.models import Install, InstallGroup
from telemetry.models import InstallIntake, RelayCursor, RelayDestination, Signal
from telemetry.relay import metrics
from telemetry.relay.metric_cells import explicit
from telemetry.relay.metrics import MetricsBody, encode_metrics
from telemetry.rollup.fold import fold_touched
from telemetry.rollup.histogram import Histogram
from tests.telemetry.builders import INSTALL, error, model_call, push, recent_ns, run, tool_call
from tests.telemetry.relay_rows import attributes_of

pytestmark = [pytest.mark.django_db, pytest.mark.both_engines]
AT = recent_ns()
NOW = now()


def collector(**values: object) -> RelayDestination:
    made = {"name": "c", "endpoint": "https://c.example", "since_at": NOW, **values}
    return RelayDestination.objects.create(**made)


def arrive(*records: dict[str, object], **values: object) -> None:
    push(*records, **values)
    fold_touched()


class Sent:
    """What one collector was sent, one body after the other."""

    def __init__(self, **values: object) -> None:
        self.to = collector(**values)
        self.state: dict[str, Any] = {}
        self.points: dict[str, list[Any]] = {}
        self.metrics: dict[str, Any] = {}

    def send(self, minutes: int = 0) -> MetricsBody:
        moment = NOW + timedelta(minutes=minutes)
        body = encode_metrics(self.to, json.loads(json.dumps(self.state)), moment)
        self.state = body.state
        request = ExportMetricsServiceRequest.FromString(body.data)
        found = [m for r in request.resource_metrics for s in r.scope_metrics for m in s.metrics]
        self.metrics = {metric.name: metric for metric in found}
        self.points = {
            m.name: list(getattr(m, str(m.WhichOneof("data"))).data_points) for m in found
        }
        assert sum(map(len, self.points.values())) == body.record_count
        return body

    def one(self, name: str, **said: str) -> Any:  # noqa: ANN401 -- a point of either kind
        (found,) = [
            point for point in self.points[name] if said.items() <= attributes_of(point).items()
        ]
        return found


def test_series_begin_at_nothing_and_then_say_the_whole() -> None:
    arrive(run(1, start_ns=AT), model_call(2, start_ns=AT))
    sent = Sent()
    sent.send()
    first = sent.one("hermes.run.count", end_reason="completed")
    assert (first.as_int, first.start_time_unix_nano) == (0, datetime_to_ns(NOW))
    arrive(run(3, run_id="b", start_ns=AT))
    sent.send(1)
    arrive(run(4, run_id="c", start_ns=AT))
    sent.send(2)
    last = sent.one("hermes.run.count", end_reason="completed")
    assert (last.as_int, last.start_time_unix_nano) == (2, datetime_to_ns(NOW))
    assert last.time_unix_nano == datetime_to_ns(NOW + timedelta(minutes=2))
    assert attributes_of(last) == {"entrypoint": "cli", "end_reason": "completed"}
    assert sent.metrics["hermes.run.count"].sum.aggregation_temporality == 2
    assert sent.metrics["hermes.run.count"].sum.is_monotonic


def test_calls_and_tools_are_histograms_with_the_conventions_bounds() -> None:
    sent = Sent()
    sent.send()
    more = {"cache_read_tokens": 40, "cache_write_tokens": 2, "ttft_ms": 200.0}
    arrive(
        model_call(1, start_ns=AT, latency_ms=500.0, provider="gemini", **more),
        tool_call(2, start_ns=AT, duration_ms=15.0),
        run(3, start_ns=AT),
        error(4, ts_ns=AT),
    )
    sent.send(1)
    call = sent.one("gen_ai.client.operation.duration")
    assert len(call.explicit_bounds) == 14
    assert (call.count, sum(call.bucket_counts)) == (1, 1)
    assert call.sum == pytest.approx(0.5, rel=0.03)
    assert call.bucket_counts[6] == 1  # (0.32, 0.64]
    assert attributes_of(call) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "gcp.gemini",
        "gen_ai.request.model": "m-1",
    }
    tokens = sent.one("gen_ai.client.token.usage", **{"gen_ai.token.type": "input"})
    assert (tokens.count, tokens.sum, list(tokens.explicit_bounds)) == (1, 142, [])
    assert sent.one("gen_ai.client.operation.time_to_first_chunk").count == 1
    assert sent.one("hermes.tool.duration").bucket_counts[1] == 1
    assert sent.one("hermes.run.duration").count == 1
    assert sent.one("hermes.error.count").as_int == 1


@pytest.mark.parametrize(
    ("profile", "names"),
    [
        ("1.41", {"gen_ai.client.operation.duration"}),
        ("next", {"gen_ai.client.inference.duration", "gen_ai.execute_tool.duration"}),
        (
            "both",
            {
                "gen_ai.client.operation.duration",
                "gen_ai.client.inference.duration",
                "gen_ai.execute_tool.duration",
            },
        ),
    ],
)
def test_a_profile_decides_the_metrics(profile: str, names: set[str]) -> None:
    arrive(model_call(1, start_ns=AT), tool_call(2, start_ns=AT))
    sent = Sent(profile=profile)
    sent.send()
    found = {name for name in sent.points if name.startswith("gen_ai") and "duration" in name}
    assert found == names
    is_next = profile != "1.41"
    assert ("gen_ai.client.inference.usage.input_tokens" in sent.points) is is_next


def test_a_correction_downwards_begins_the_series_anew_and_costs_just_fall() -> None:
    sent = Sent()
    sent.send()
    arrive(run(1, start_ns=AT, end_reason="abandoned", estimated_cost_usd=3.0))
    sent.send(1)
    assert sent.one("hermes.run.count", end_reason="abandoned").as_int == 1
    assert sent.one("hermes.cost.usd").as_double == 3.0
    arrive(run(2, start_ns=AT, end_reason="completed", estimated_cost_usd=1.0))
    sent.send(2)
    anew = sent.one("hermes.run.count", end_reason="abandoned")
    at_ns = datetime_to_ns(NOW + timedelta(minutes=2))
    assert (anew.as_int, anew.start_time_unix_nano) == (0, at_ns)
    kept = sent.one("hermes.run.count", end_reason="completed")
    assert (kept.as_int, kept.start_time_unix_nano) == (1, datetime_to_ns(NOW))
    cost = sent.one("hermes.cost.usd")
    assert (cost.as_double, cost.start_time_unix_nano) == (1.0, datetime_to_ns(NOW))
    assert not sent.metrics["hermes.cost.usd"].sum.is_monotonic


def test_days_that_have_passed_stay_counted() -> None:
    sent = Sent()
    sent.send()
    arrive(run(1, start_ns=AT), model_call(2, start_ns=AT))
    for days in (0, 1, 2, 3, 30):
        sent.send(days * 1440 + 1)
        assert sent.one("hermes.run.count").as_int == 1
        assert sent.one("gen_ai.client.operation.duration").count == 1
    assert {p.start_time_unix_nano for p in sent.points["hermes.run.count"]} == {
        datetime_to_ns(NOW)
    }


@pytest.mark.parametrize(
    "state", [{}, {"version": 1}, {"version": 0}, {"version": 1, "profile": "1.41", "series": 7}]
)
def test_a_state_that_is_none_begins_anew(state: dict[str, Any]) -> None:
    arrive(run(1, start_ns=AT))
    sent = Sent()
    sent.state = state
    sent.send()
    assert sent.one("hermes.run.count").as_int == 0


def test_another_choice_of_groups_or_profile_begins_anew() -> None:
    group = InstallGroup.objects.create(name="research")
    sent = Sent()
    sent.send()
    arrive(run(1, start_ns=AT), group_id=group.pk)
    sent.send(1)
    assert sent.one("hermes.run.count", **{"hermes.group": "research"}).as_int == 1
    sent.to.group_ids = [group.pk]
    sent.send(2)
    anew = sent.one("hermes.run.count")
    start_ns = datetime_to_ns(NOW + timedelta(minutes=2))
    assert (anew.as_int, anew.start_time_unix_nano) == (0, start_ns)


def test_only_the_groups_asked_for_are_counted_and_no_install_is_named() -> None:
    group = InstallGroup.objects.create(name="research")
    sent = Sent(group_ids=[group.pk])
    sent.send()
    arrive(run(1, start_ns=AT), group_id=group.pk)
    arrive(run(2, run_id="b", start_ns=AT), install_id=UUID(int=5))
    body = sent.send(1)
    assert sum(point.as_int for point in sent.points["hermes.run.count"]) == 1
    assert str(INSTALL).encode() not in body.data


def test_installs_lag_and_losses_are_said() -> None:
    sent = Sent()
    Install.objects.create(id=INSTALL, machine_id="m", sync_state="in_sync")
    Install.objects.create(id=UUID(int=7), machine_id="m", status="revoked")
    RelayCursor.objects.create(destination=sent.to, signal=Signal.TRACES, lag_s=2.5)
    sent.send()
    InstallIntake.objects.create(install_id=INSTALL, losses={"queue_full": 3})
    sent.send(1)
    states = {
        attributes_of(one)["state"]: one.as_int for one in sent.points["hermes.fleet.installs"]
    }
    assert states == {"in_sync": 1, "revoked": 1}
    assert sent.one("hermes.export.lag", signal="traces").as_double == 2.5
    assert sent.one("hermes.events.dropped", reason="queue_full").as_int == 3


def test_a_flood_of_names_ends_in_one_series(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "MAX_SERIES", 10)
    sent = Sent()
    sent.send()
    arrive(*(tool_call(n, tool_name=f"t{n}", start_ns=AT) for n in range(1, 31)))
    sent.send(1)
    assert len(sent.points["hermes.tool.duration"]) == 11
    overflow = [
        point
        for point in sent.points["hermes.tool.duration"]
        if attributes_of(point) == {"otel.metric.overflow": True}
    ]
    assert [point.count for point in overflow] == [20]


def test_nothing_is_no_body() -> None:
    assert Sent().send().data == b""


def test_values_go_into_the_bucket_they_lie_in() -> None:
    values_ms = [0.0, 5.0, 15.0, 30.0, 3_000_000.0]
    bounds = (0.01, 0.02, 0.04)
    *buckets, total_us = explicit(Histogram.of(values_ms).to_json(), bounds)
    assert buckets == [2, 1, 1, 1]
    assert total_us / 1000 == pytest.approx(sum(values_ms), rel=0.023)
