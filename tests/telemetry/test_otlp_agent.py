"""Our own agent's OpenTelemetry export, pointed at the console: its rows arrive as they were."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from pytest_django.live_server_helper import LiveServer

from agent_client.contract.events import Event
from agent_client.otlp.drain import drain
from agent_client.push import Timing
from telemetry.models import IngestBatch, ModelCall, Run, Span, ToolCall
from tests.agent_client.builders import (
    model_call,
    one_of_each,
    run_event,
    span_event,
    store_events,
    tool_call,
)
from tests.agent_client.otlp_homes import configure
from tests.telemetry.test_api_batch import enrolled

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.both_engines]
S = 1_000_000_000


@pytest.fixture
def home(tmp_path: Path, live_server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home whose collector is the console of this test; it sends traces only."""
    monkeypatch.setenv("HERMES_OTLP_AUTHORIZATION", f"Bearer {enrolled()}")
    names = {"authorization": "HERMES_OTLP_AUTHORIZATION"}
    configure(tmp_path, live_server.url, headers_env=names, logs=False, metrics=False)
    return tmp_path


def sent(home: Path, *events: Event) -> int:
    store_events(home, *events)
    report = drain(home, timing=Timing())
    assert (report.status, report.left) == ("sent", 0)
    return report.exit_code


def placed(*events: Event, at_ns: int) -> list[Event]:
    """The events at a time that the console accepts."""
    return [
        type(event).from_dict(
            {
                name: at_ns if name in {"start_ns", "ts_ns"} else value
                for name, value in event.to_dict().items()
                if name != "event"
            }
            | {"end_ns": at_ns + S}
        )
        for event in events
    ]


def test_runs_calls_and_turns_arrive_as_they_were_recorded(home: Path) -> None:
    at_ns = time.time_ns() - 60 * S
    sent(home, *placed(run_event(0), model_call(1), tool_call(2), span_event(3), at_ns=at_ns))
    run, call = Run.objects.get(), ModelCall.objects.get()
    recorded = model_call(1)
    assert (run.run_id, run.start_ns, run.end_ns) == ("run-0", at_ns, at_ns + S)
    assert (call.run_id, call.model, call.input_tokens) == (
        "run-0",
        recorded.model,
        recorded.input_tokens,
    )
    assert (ToolCall.objects.count(), Span.objects.count()) == (1, 1)
    assert IngestBatch.objects.get().rejected_count == 0


def test_a_run_whose_cost_came_later_is_the_later_one(home: Path) -> None:
    at_ns = time.time_ns() - 60 * S
    sent(home, *placed(run_event(0, estimated_cost_usd=None), at_ns=at_ns))
    sent(home, *placed(run_event(0, estimated_cost_usd=0.25, cost_status="actual"), at_ns=at_ns))
    assert Run.objects.get().estimated_cost_usd == 0.25


def test_signals_that_the_console_does_not_take_hold_up_nothing(
    home: Path, live_server: LiveServer
) -> None:
    names = {"authorization": "HERMES_OTLP_AUTHORIZATION"}
    configure(home, live_server.url, headers_env=names)
    store_events(home, *placed(*one_of_each(), at_ns=time.time_ns() - 60 * S))
    report = drain(home, timing=Timing())
    assert report.left == 0
    assert Run.objects.count() == ModelCall.objects.count() == 1
