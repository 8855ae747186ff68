from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from agent_client import config
from agent_client.contract.events import Event
from agent_client.contract.redact import UNAVAILABLE
from agent_client.emitter import Emitter
from agent_client.files import exclusive_lock, telemetry_dir
from agent_client.otlp import drain as draining
from agent_client.otlp.drain import DrainReport, drain
from tests.agent_client.builders import (
    error_event,
    finish,
    happening,
    model_call,
    one_of_each,
    run_event,
    span_event,
    start,
    store_events,
    tool_call,
)
from tests.agent_client.otlp_homes import INSTALL, TRACE, configure, in_trace, instant, recorded
from tests.agent_client.otlp_receiver import (
    LOGS,
    METRICS,
    TRACES,
    Fault,
    OtlpReceiver,
)

URL = {"endpoint": "URL"}


def session() -> list[Event]:
    """A run with a turn, calls in it and a subagent's run."""
    return in_trace(
        run_event(0),
        span_event(1),
        *(model_call(number, parent_span_id="span-1") for number in range(3)),
        tool_call(0, parent_span_id="span-1"),
        run_event(1, parent_run_id="run-0", entrypoint="subagent"),
        model_call(9, run_id="run-1", parent_span_id="run-1"),
    )


# ------------------------------------------------------------------------------- what arrives


def test_everything_recorded_arrives_once(tmp_path: Path) -> None:
    with OtlpReceiver() as receiver:
        recorded(tmp_path, receiver.url)
        report = drain(tmp_path, timing=instant())
        assert (report.status, report.exit_code, report.left) == ("sent", 0, 0)
        assert report.sent == {"spans": 4, "logs": 6, "metrics": len(receiver.metrics)}
        assert (len(receiver.spans), len(receiver.logs)) == (4, 6)
        again = drain(tmp_path, timing=instant())
        assert (again.status, again.exit_code, again.sent) == ("nothing", 0, {})
        assert receiver.span_arrivals == 4


def test_the_trace_is_connected(tmp_path: Path) -> None:
    with OtlpReceiver() as receiver:
        recorded(tmp_path, receiver.url, *session())
        drain(tmp_path, timing=instant())
        roots = [span for span in receiver.spans.values() if not span.parent_span_id]
        assert [root.name for root in roots] == ["invoke_agent hermes-agent"]
        for span in receiver.spans.values():
            assert span.trace_id.hex() == TRACE
            assert span is roots[0] or span.parent_span_id in receiver.spans
        # The drain takes in what is owed first: the span of the subagent that sent none.
        assert sorted(span.name for span in receiver.spans.values()) == [
            *["chat model-a"] * 4,
            "execute_tool terminal",
            *["invoke_agent hermes-agent"] * 2,
            "subagent",
            "turn",
        ]


def test_all_goes_over_one_connection_below_the_endpoints_path(tmp_path: Path) -> None:
    with OtlpReceiver("/collector") as receiver:
        recorded(tmp_path, receiver.url + "/")
        drain(tmp_path, timing=instant())
        assert [request.path for request in receiver.requests] == [
            "/collector/v1/traces",
            "/collector/v1/logs",
            "/collector/v1/metrics",
        ]
        assert receiver.connections == 1
        assert {request.headers["content-encoding"] for request in receiver.requests} == {"gzip"}


def test_the_resource_names_the_install_and_never_the_machine(tmp_path: Path) -> None:
    import socket

    with OtlpReceiver() as receiver:
        recorded(tmp_path, receiver.url, run_event(agent_version="0.19.0", profile_id="work"))
        drain(tmp_path, timing=instant())
        (resource,) = receiver.resources
    assert resource["service.name"] == "hermes-agent"
    assert resource["service.instance.id"] == resource["hermes.install.id"] == INSTALL
    assert resource["service.version"] == "0.19.0"
    assert resource["hermes.profile.id"] == "work"
    assert resource["telemetry.plane"] == "local"
    assert socket.gethostname() not in resource.values()


def test_each_agent_version_is_a_resource_of_its_own(tmp_path: Path) -> None:
    with OtlpReceiver() as receiver:
        runs = [run_event(number, agent_version=f"0.{number}") for number in range(2)]
        recorded(tmp_path, receiver.url, *runs)
        drain(tmp_path, timing=instant())
        assert [found["service.version"] for found in receiver.resources] == ["0.0", "0.1"]


def test_more_than_a_batch_goes_in_several(tmp_path: Path) -> None:
    with OtlpReceiver() as receiver:
        count = draining.MAX_BATCH_ROWS + 1
        recorded(tmp_path, receiver.url, *(model_call(number) for number in range(count)))
        heard: list[DrainReport] = []
        report = drain(tmp_path, timing=instant(), on_batch=heard.append)
        assert report.sent["spans"] == len(receiver.spans) == count
        assert [(found.sent["spans"], found.left) for found in heard] == [
            (count - 1, 1),
            (count, 0),
        ]


def test_logs_and_metrics_can_be_left_out(tmp_path: Path) -> None:
    with OtlpReceiver() as receiver:
        recorded(tmp_path, receiver.url, logs=False, metrics=False)
        assert drain(tmp_path, timing=instant()).sent == {"spans": 4}
        assert [request.path for request in receiver.requests] == [TRACES]


# ---------------------------------------------------------------------------------- the cursor


def test_a_death_between_answer_and_cursor_sends_again_and_doubles_nothing(tmp_path: Path) -> None:
    with OtlpReceiver() as receiver:
        recorded(tmp_path, receiver.url, *session())
        script = """
        import signal
        from agent_client.otlp import drain as draining
        draining._Run._keep = lambda self, batch: os.kill(os.getpid(), signal.SIGKILL)
        draining.drain(home)
        """
        process = start(tmp_path, "\n".join(line.strip() for line in script.splitlines()))
        finish(process, -9)
        first = set(receiver.spans)
        report = drain(tmp_path, timing=instant())
        assert report.status == "sent"
        assert set(receiver.spans) == first
        assert receiver.span_arrivals == 2 * len(first)
        assert receiver.metrics["hermes.run.count"].sum.data_points[0].as_int == 1


def test_another_endpoint_starts_from_the_first_row(tmp_path: Path) -> None:
    with OtlpReceiver() as one, OtlpReceiver() as other:
        recorded(tmp_path, one.url)
        drain(tmp_path, timing=instant())
        configure(tmp_path, other.url)
        drain(tmp_path, timing=instant())
        assert set(other.spans) == set(one.spans)
        configure(tmp_path, one.url)
        assert drain(tmp_path, timing=instant()).status == "nothing"


def test_a_batch_that_fails_stays_and_what_came_before_does_not_come_again(tmp_path: Path) -> None:
    with OtlpReceiver() as receiver:
        recorded(tmp_path, receiver.url, model_call(0))
        drain(tmp_path, timing=instant())
        store_events(tmp_path, model_call(1))
        receiver.faults = [Fault(TRACES, "status", 500)]
        report = drain(tmp_path, timing=instant())
        assert (report.status, report.exit_code, report.reason) == ("failed", 1, "http_500")
        assert report.left == 1
        assert len(receiver.sent(TRACES)) == 2  # 500 is not tried again at once
        assert drain(tmp_path, timing=instant()).sent["spans"] == 1
        assert receiver.span_arrivals == 2


def test_one_drain_at_a_time(tmp_path: Path) -> None:
    with OtlpReceiver() as receiver:
        recorded(tmp_path, receiver.url)
        with exclusive_lock(telemetry_dir(tmp_path) / "otlp" / "lock") as is_held:
            assert is_held
            report = drain(tmp_path, timing=instant())
        assert (report.status, report.exit_code) == ("busy", 5)
        assert receiver.requests == []


def test_two_drains_at_once_send_everything_once(tmp_path: Path) -> None:
    with OtlpReceiver() as receiver:
        recorded(tmp_path, receiver.url, *(model_call(number) for number in range(600)))
        threads = [threading.Thread(target=drain, args=(tmp_path,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert receiver.span_arrivals == len(receiver.spans) == 600


# ------------------------------------------------------------------------------------ the gate


@pytest.mark.parametrize(
    ("telemetry", "reason"),
    [
        (
            {"local": False, "export": {"otlp": {"enabled": True, "endpoint": "URL"}}},
            "plane_closed",
        ),
        ({"export": {"otlp": {"enabled": False, "endpoint": "URL"}}}, "plane_closed"),
        ({"export": {"otlp": {"endpoint": "URL"}}}, "plane_closed"),
        ({"export": {"otlp": {"enabled": True}}}, "no_endpoint"),
        ("broken", "plane_closed"),
    ],
)
def test_nothing_leaves_while_the_gate_is_shut(
    tmp_path: Path, telemetry: object, reason: str
) -> None:
    with OtlpReceiver() as receiver:
        recorded(tmp_path, receiver.url)
        text = json.dumps({"telemetry": telemetry}).replace("URL", receiver.url)
        (tmp_path / "config.yaml").write_text(text)
        report = drain(tmp_path, timing=instant())
        assert (report.status, report.exit_code, report.reason) == ("closed", 3, reason)
        assert receiver.connections == 0


def test_the_gate_is_asked_before_each_batch(tmp_path: Path) -> None:
    with OtlpReceiver() as receiver:
        recorded(tmp_path, receiver.url, *(model_call(number) for number in range(600)))

        def withdraw() -> None:
            configure(tmp_path, receiver.url, enabled=False)

        receiver.faults = [Fault(TRACES, "reply", action=withdraw)]
        report = drain(tmp_path, timing=instant())
        assert (report.status, report.exit_code, report.left) == ("closed", 3, 88)
        assert len(receiver.spans) == 512


def test_an_endpoint_that_changes_during_a_drain_ends_it(tmp_path: Path) -> None:
    with OtlpReceiver() as receiver:
        recorded(tmp_path, receiver.url)
        receiver.faults = [
            Fault(TRACES, "reply", action=lambda: configure(tmp_path, "https://else.example"))
        ]
        report = drain(tmp_path, timing=instant())
        assert (report.status, report.reason) == ("later", "configuration_changed")


def test_a_given_configuration_stands_in_for_the_files(tmp_path: Path) -> None:
    with OtlpReceiver() as receiver:
        recorded(tmp_path, receiver.url)
        settings = config.load(tmp_path)
        (tmp_path / "config.yaml").unlink()
        assert drain(config=settings, timing=instant()).status == "sent"


def test_an_address_that_cannot_be_used_is_a_failure(tmp_path: Path) -> None:
    recorded(tmp_path, "http://collector.example:4318")
    report = drain(tmp_path, timing=instant())
    assert (report.status, report.exit_code, report.reason) == ("failed", 1, "address_refused")


def test_without_the_extra_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    for name in list(sys.modules):
        if name.startswith("opentelemetry.proto"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry.proto", None)
    recorded(tmp_path, "https://collector.example")
    report = drain(tmp_path, timing=instant())
    assert (report.status, report.exit_code, report.reason) == ("failed", 1, "extra_missing")
    assert "pip install 'hermes-fleet-agent[otlp]'" in report.detail


def test_a_gate_that_shuts_during_a_wait_lets_nothing_more_out(tmp_path: Path) -> None:
    with OtlpReceiver() as receiver:
        recorded(tmp_path, receiver.url, *(model_call(number) for number in range(3)))
        receiver.faults = [Fault(TRACES, "status", 503)]

        def withdraw(_seconds: float) -> None:
            configure(tmp_path, receiver.url, enabled=False)

        report = drain(tmp_path, timing=replace(instant(), sleep=withdraw))
        assert (report.status, report.exit_code, report.left) == ("closed", 3, 3)
        assert len(receiver.requests) == 1


# ------------------------------------------------------------------------------------- content


def test_nothing_leaves_when_secrets_cannot_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with OtlpReceiver() as receiver:
        recorded(tmp_path, receiver.url)
        monkeypatch.setattr(
            "agent_client.otlp.scrub.redact_record",
            lambda record: {
                key: UNAVAILABLE if isinstance(value, str) else value
                for key, value in record.items()
            },
        )
        monkeypatch.setattr("agent_client.export.redact_text", lambda _text: UNAVAILABLE)
        report = drain(tmp_path, timing=instant())
        assert (report.status, report.exit_code, report.reason) == ("failed", 1, "redactor")
        assert receiver.requests == []


def test_a_name_that_is_spelled_like_the_redactors_mark_holds_nothing_up(tmp_path: Path) -> None:
    with OtlpReceiver() as receiver:
        recorded(tmp_path, receiver.url, model_call(model=UNAVAILABLE))
        assert drain(tmp_path, timing=instant()).status == "sent"


def test_secrets_are_removed_from_every_text(tmp_path: Path) -> None:
    secret = "sk-ant-api03-" + "Q7xK" * 20
    with OtlpReceiver() as receiver:
        events: list[Event] = [
            run_event(session_id=secret, platform=secret, profile_id=secret, agent_version=secret),
            model_call(model=secret, provider=secret, api_request_id=secret, base_url=secret),
            tool_call(tool_name=secret, tool_call_id=secret),
            span_event(name=secret, attrs_json=json.dumps({secret: secret})),
            error_event(error_class=secret),
            happening("skill", skill_name=secret),
        ]
        recorded(tmp_path, receiver.url, *events, errors_as_span_events=True)
        assert drain(tmp_path, timing=instant()).status == "sent"
        assert len(receiver.requests) == 3
        for request in receiver.requests:
            assert secret.encode() not in request.body
            assert secret.lower().encode() not in request.body


def test_the_paths_of_the_three_signals(tmp_path: Path) -> None:
    with OtlpReceiver() as receiver:
        recorded(tmp_path, f"{receiver.url}/v1/traces")  # a signal's whole address
        drain(tmp_path, timing=instant())
        assert {request.path for request in receiver.requests} == {TRACES, LOGS, METRICS}


def test_what_has_no_column_cannot_leave(tmp_path: Path) -> None:
    canary = "the-canary-sings-in-the-morning"
    emitter = Emitter(tmp_path)
    for event in in_trace(*one_of_each()):
        emitter.emit({**event.to_dict(), "content": canary, "arguments": {"text": canary}})
    assert emitter.flush(10)
    emitter.close()
    with OtlpReceiver() as receiver:
        configure(tmp_path, receiver.url, errors_as_span_events=True, semconv_profile="both")
        assert drain(tmp_path, timing=instant()).sent["spans"] == 4
        assert len(receiver.requests) == 3
        assert not [request for request in receiver.requests if canary.encode() in request.body]
