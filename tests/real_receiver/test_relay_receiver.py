"""What the relay encodes and sends, as receivers that others wrote understand it."""

from __future__ import annotations

import urllib.request
from datetime import UTC, datetime

import pytest
from pytest_django import Settings

from telemetry.models import FeedEntry, RelayCursor
from telemetry.relay.encode import Body
from tests.real_receiver.mlflow import DEFAULT_EXPERIMENT, EXPERIMENT_HEADER, MLflow
from tests.real_receiver.phoenix import Phoenix
from tests.real_receiver.servers import wait_for
from tests.telemetry.builders import S, error, model_call, recent_ns, run, span, tool_call
from tests.telemetry.relay_helpers import collector, cursor_of, go_until_idle
from tests.telemetry.relay_rows import TRACE, bodies, fed

pytestmark = [
    pytest.mark.real_receiver,
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.django_db,
]
AT = recent_ns() // 1000 * 1000  # Phoenix keeps whole microseconds
PLACE = {"trace_id": TRACE, "start_ns": AT}


def fill() -> list[FeedEntry]:
    """A run that failed, its children in an earlier batch than its own row."""
    inside = {**PLACE, "parent_span_id": "turn"}
    cached = {"cache_read_tokens": 40, "cache_write_tokens": 7, "provider": "gemini"}
    children = fed(
        model_call(1, **inside, end_ns=AT + S, input_tokens=100, **cached),
        tool_call(2, **{**inside, "start_ns": AT + S}, end_ns=AT + 2 * S, result_class="error"),
        error(3, ts_ns=AT, trace_id=TRACE, recovery="none"),
    )
    parents = fed(
        span(4, span_id="turn", **PLACE, end_ns=AT + 3 * S),
        run(5, **PLACE, end_ns=AT + 3 * S, end_reason="failed"),
    )
    return [children, parents]


def session() -> list[Body]:
    """The bodies of that run."""
    made = bodies(*fill(), errors_as_span_events=True)
    assert len(made) == 1
    return made


def send(url: str, body: Body, **headers: str) -> None:
    """As the relay's own sender does, with nothing retried."""
    request = urllib.request.Request(
        f"{url}/v1/traces",
        data=body.compressed(),
        headers={
            "Content-Type": "application/x-protobuf",
            "Content-Encoding": "gzip",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        },
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert answer.status == 200


def at(when_ns: int) -> datetime:
    """As Phoenix keeps it: whole microseconds."""
    return datetime.fromtimestamp(when_ns // 1000 / 1e6, UTC)


def test_phoenix_shows_a_connected_trace_and_a_repeat_changes_nothing(phoenix: Phoenix) -> None:
    (body,) = session()
    send(phoenix.url, body)
    spans = phoenix.wait_for(4)
    found = {one["name"]: one for one in spans.values()}
    root, turn = found["invoke_agent hermes-agent"], found["turn"]
    call, tool = found["chat m-1"], found["execute_tool terminal"]
    assert {one["context"]["trace_id"] for one in spans.values()} == {TRACE}
    assert root["parent_id"] is None
    assert turn["parent_id"] == root["context"]["span_id"]
    assert call["parent_id"] == tool["parent_id"] == turn["context"]["span_id"]
    times = [(one["start_time"], one["end_time"]) for one in (root, tool)]
    assert [tuple(map(datetime.fromisoformat, pair)) for pair in times] == [
        (at(AT), at(AT + 3 * S)),
        (at(AT + S), at(AT + 2 * S)),
    ]
    assert (root["status_code"], tool["status_code"], call["status_code"]) == (
        *("ERROR", "ERROR"),
        "UNSET",
    )
    assert [event["name"] for event in root["events"]] == ["gen_ai.client.operation.exception"]
    assert call["attributes"]["llm.token_count.prompt"] == 147
    assert root["attributes"]["hermes.entrypoint"] == "cli"

    send(phoenix.url, body)
    (more,) = bodies(fed(model_call(9, **PLACE, model="the-last")))
    send(phoenix.url, more)
    again = phoenix.wait_for(5)
    assert {span_id: again[span_id] for span_id in spans} == spans


# ------------------------------------------------------------------------ through a destination


@pytest.fixture
def allowed(settings: Settings) -> None:
    settings.FLEET_OTLP_HOSTS = ["127.0.0.0/8"]
    settings.FLEET_OTLP_PLAIN_HTTP = True


def ns(text: str) -> int:
    """Phoenix's time of a span, whole microseconds, as nanoseconds of the epoch."""
    return round(datetime.fromisoformat(text).timestamp() * 1e6) * 1000


def check_tree(spans: dict[str, tuple[str, str | None, int, int]]) -> None:
    """Name, parent, start and end by span id: the tree of the session with its recorded times."""
    ids = {one[0]: span_id for span_id, one in spans.items()}
    root, turn = ids["invoke_agent hermes-agent"], ids["turn"]
    assert {one[0]: one[1:] for one in spans.values()} == {
        "invoke_agent hermes-agent": (None, AT, AT + 3 * S),
        "turn": (root, AT, AT + 3 * S),
        "chat m-1": (turn, AT, AT + S),
        "execute_tool terminal": (turn, AT + S, AT + 2 * S),
    }


def test_phoenix_as_a_collector_has_the_tree_once(allowed: None, phoenix: Phoenix) -> None:
    fill()
    destination = collector(phoenix.url)
    go_until_idle(destination)
    spans = phoenix.wait_for(4)
    RelayCursor.objects.update(position=0)  # as after a death between an answer and our note of it
    go_until_idle(destination)
    assert (cursor_of(destination).sent_count, cursor_of(destination).dead_count) == (8, 0)
    assert phoenix.spans() == spans
    check_tree(
        {
            span_id: (one["name"], one["parent_id"], ns(one["start_time"]), ns(one["end_time"]))
            for span_id, one in spans.items()
        }
    )


def test_mlflow_as_a_collector_has_the_tree_once(
    allowed: None, mlflow: MLflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It wants to be told an experiment; the header's value comes from the environment."""
    monkeypatch.setenv("FLEET_OTLP_HDR_EXPERIMENT", DEFAULT_EXPERIMENT)
    fill()
    named = {EXPERIMENT_HEADER: "FLEET_OTLP_HDR_EXPERIMENT"}
    destination = collector(mlflow.url, headers_env=named)
    go_until_idle(destination)
    spans = wait_for(mlflow.spans, 4)
    RelayCursor.objects.update(position=0)
    go_until_idle(destination)
    assert (cursor_of(destination).sent_count, cursor_of(destination).dead_count) == (8, 0)
    assert mlflow.spans() == spans
    assert {one["trace_id"].removeprefix("tr-") for one in spans.values()} == {TRACE}
    check_tree(
        {
            span_id: (one["name"], one["parent_id"], one["start_ns"], one["end_ns"])
            for span_id, one in spans.items()
        }
    )
