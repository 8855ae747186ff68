from __future__ import annotations

import json
import socket
import threading
import time
from email.utils import formatdate
from pathlib import Path

import pytest

from agent_client import config
from agent_client.http import NetworkError
from agent_client.otlp.delivery import json_partial_success
from agent_client.otlp.drain import drain
from agent_client.otlp.encode import PartialSuccess, read_partial_success
from agent_client.otlp.target import Closed, Target, parse_endpoint, read_headers, shown, target_of
from agent_client.otlp.transport import MAX_ANSWER_BYTES, Collector
from agent_client.push_send import MAX_ATTEMPTS
from tests.agent_client.builders import START_NS, error_event, model_call
from tests.agent_client.otlp_homes import configure, instant, recorded
from tests.agent_client.otlp_receiver import LOGS, METRICS, TRACES, Fault, OtlpReceiver

KEY = "sesame-0123456789"


def pending(home: Path, url: str, count: int = 3, **keys: object) -> None:
    recorded(home, url, *(model_call(number) for number in range(count)), **keys)


# ------------------------------------------------------------------------------- trying again


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_what_may_pass_is_tried_again_with_growing_waits(tmp_path: Path, status: int) -> None:
    waits: list[float] = []
    with OtlpReceiver() as receiver:
        pending(tmp_path, receiver.url)
        receiver.faults = [Fault(TRACES, "status", status, times=3)]
        assert drain(tmp_path, timing=instant(waits)).sent["spans"] == 3
        assert waits == [1.0, 2.0, 4.0]


@pytest.mark.parametrize("kind", ["reset", "drop"])
def test_a_connection_that_breaks_is_tried_again(tmp_path: Path, kind: str) -> None:
    with OtlpReceiver() as receiver:
        pending(tmp_path, receiver.url)
        receiver.faults = [Fault(TRACES, kind)]
        assert drain(tmp_path, timing=instant()).status == "sent"
        assert len(receiver.spans) == 3


@pytest.mark.parametrize("is_date", [False, True])
def test_retry_after_is_obeyed_in_both_its_forms(tmp_path: Path, *, is_date: bool) -> None:
    waits: list[float] = []
    with OtlpReceiver() as receiver:
        pending(tmp_path, receiver.url)
        asked = formatdate(time.time() + 40, usegmt=True) if is_date else "40"
        receiver.faults = [Fault(TRACES, "status", 429, {"Retry-After": asked})]
        assert drain(tmp_path, timing=instant(waits)).status == "sent"
        assert waits == [pytest.approx(40, abs=15 if is_date else 0)]


def test_a_long_retry_after_ends_the_drain_and_holds_the_next(tmp_path: Path) -> None:
    with OtlpReceiver() as receiver:
        pending(tmp_path, receiver.url)
        receiver.faults = [Fault(TRACES, "status", 503, {"Retry-After": "600"})]
        report = drain(tmp_path, timing=instant())
        assert (report.status, report.exit_code, report.retry_after_s) == ("later", 5, 600)
        held = drain(tmp_path, timing=instant(now_ns=START_NS + 10**9))
        assert (held.status, held.reason, held.left) == ("later", "asked_to_wait", 3)
        assert len(receiver.requests) == 1
        assert drain(tmp_path, timing=instant(), force=True).status == "sent"


def test_a_hold_passes(tmp_path: Path) -> None:
    with OtlpReceiver() as receiver:
        pending(tmp_path, receiver.url)
        receiver.faults = [Fault(TRACES, "status", 503, {"Retry-After": "600"})]
        drain(tmp_path, timing=instant())
        assert drain(tmp_path, timing=instant(now_ns=START_NS + 601 * 10**9)).status == "sent"


@pytest.mark.parametrize(
    ("status", "ended", "exit_code"),
    [
        (400, "failed", 1),
        (401, "rejected", 4),
        (403, "rejected", 4),
        (404, "failed", 1),
        (408, "failed", 1),
        (500, "failed", 1),
        (501, "failed", 1),
        (302, "failed", 1),
        (304, "failed", 1),
    ],
)
def test_everything_else_is_final_and_the_cursor_stays(
    tmp_path: Path, status: int, ended: str, exit_code: int
) -> None:
    waits: list[float] = []
    with OtlpReceiver() as receiver:
        pending(tmp_path, receiver.url)
        receiver.faults = [Fault(TRACES, "status", status, {"Location": "https://else.example/"})]
        report = drain(tmp_path, timing=instant(waits))
        assert (report.status, report.exit_code, report.left) == (ended, exit_code, 3)
        assert len(receiver.requests) == 1
        assert waits == []


def test_a_collector_that_is_gone_is_bounded_and_harmless(tmp_path: Path) -> None:
    with OtlpReceiver() as receiver:
        url = receiver.url
    waits: list[float] = []
    pending(tmp_path, url)
    report = drain(tmp_path, timing=instant(waits))
    assert (report.status, report.exit_code, report.left) == ("later", 5, 3)
    assert "nothing listens" in report.detail
    assert len(waits) == MAX_ATTEMPTS - 1


# ----------------------------------------------------------------------------- partial success


def test_rejected_spans_are_counted_and_never_sent_again(tmp_path: Path) -> None:
    with OtlpReceiver() as receiver:
        pending(tmp_path, receiver.url)
        receiver.faults = [Fault(TRACES, "partial", rejected=2, message="too\nold")]
        report = drain(tmp_path, timing=instant())
        assert (report.status, report.exit_code, report.detail) == ("partial", 6, "too old")
        assert (report.sent["spans"], report.rejected, report.left) == (1, {"spans": 2}, 0)
        assert drain(tmp_path, timing=instant()).status == "nothing"


def test_a_warning_without_rejections_is_a_success(tmp_path: Path) -> None:
    with OtlpReceiver() as receiver:
        pending(tmp_path, receiver.url)
        receiver.faults = [Fault(TRACES, "partial", rejected=0, message="use grpc")]
        report = drain(tmp_path, timing=instant())
        assert (report.status, report.exit_code, report.detail) == ("sent", 0, "use grpc")


@pytest.mark.parametrize(("rejected", "counted"), [(-5, 0), (10**12, 3)])
def test_counts_that_cannot_be_are_cut_to_what_was_sent(
    tmp_path: Path, rejected: int, counted: int
) -> None:
    with OtlpReceiver() as receiver:
        pending(tmp_path, receiver.url)
        receiver.faults = [Fault(TRACES, "partial", rejected=rejected)]
        report = drain(tmp_path, timing=instant())
        assert (report.sent["spans"], report.rejected.get("spans", 0)) == (3 - counted, counted)


def test_a_collectors_words_are_scrubbed_and_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLLECTOR_KEY", f"Bearer {KEY}")
    words = f"\x1b[31mno {KEY} ghp_a1B2c3D4e5a1B2c3D4e5a1B2c3D4e5f6G7h8 " + "x" * 5000
    with OtlpReceiver() as receiver:
        pending(tmp_path, receiver.url, headers_env={"authorization": "COLLECTOR_KEY"})
        receiver.faults = [Fault(TRACES, "partial", rejected=1, message=words)]
        report = drain(tmp_path, timing=instant())
    assert KEY not in report.detail
    assert "ghp_" not in report.detail
    assert report.detail.isprintable()
    assert len(report.detail) <= 300


def test_a_header_that_is_echoed_at_the_cut_is_not_halved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLLECTOR_KEY", "k" * 500)
    with OtlpReceiver() as receiver:
        pending(tmp_path, receiver.url, headers_env={"x-key": "COLLECTOR_KEY"})
        receiver.faults = [
            Fault(TRACES, "partial", rejected=1, message="k" * 1500 + "!" + "k" * 500)
        ]
        report = drain(tmp_path, timing=instant())
    assert report.detail == "[header]" * 3 + "![header]"


def test_a_json_answer_is_understood(tmp_path: Path) -> None:
    body = json.dumps({"partialSuccess": {"rejectedSpans": "1", "errorMessage": "no"}}).encode()
    with OtlpReceiver() as receiver:
        pending(tmp_path, receiver.url)
        receiver.faults = [
            Fault(TRACES, "reply", headers={"Content-Type": "application/json"}, body=body)
        ]
        assert drain(tmp_path, timing=instant()).rejected == {"spans": 1}


@pytest.mark.parametrize("body", [b"", b"[", b"[]", b'{"partialSuccess": 7}', b"[" * 9000])
def test_json_that_is_no_answer_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        json_partial_success(body)


def test_an_empty_answer_refuses_nothing() -> None:
    assert read_partial_success("logs", b"") == PartialSuccess()
    assert json_partial_success(b"{}") == PartialSuccess()


@pytest.mark.parametrize(
    ("media", "body"),
    [
        ("text/html", b"<html>log in to the wifi</html>"),
        ("application/x-protobuf", b"\xff" * 50),
        ("application/json", b"nonsense"),
    ],
)
@pytest.mark.parametrize("path", [TRACES, LOGS, METRICS])
def test_a_page_that_is_no_answer_moves_no_cursor(
    tmp_path: Path, path: str, media: str, body: bytes
) -> None:
    with OtlpReceiver() as receiver:
        recorded(tmp_path, receiver.url)
        receiver.faults = [Fault(path, "reply", headers={"Content-Type": media}, body=body)]
        report = drain(tmp_path, timing=instant())
        assert (report.status, report.exit_code, report.reason) == ("failed", 1, "bad_answer")
        assert report.left == (0 if path == METRICS else 10)
        assert drain(tmp_path, timing=instant()).status == "sent"


# ----------------------------------------------------------------------------- sizes, signals


def test_a_batch_that_is_too_large_goes_in_smaller_ones(tmp_path: Path) -> None:
    with OtlpReceiver() as receiver:
        receiver.max_records = 40
        pending(tmp_path, receiver.url, 300)
        report = drain(tmp_path, timing=instant())
        assert (report.status, report.left) == ("sent", 0)
        assert len(receiver.spans) == receiver.span_arrivals == 300


def test_one_record_that_is_too_large_is_counted_and_left_behind(tmp_path: Path) -> None:
    with OtlpReceiver() as receiver:
        receiver.max_records = 0
        pending(tmp_path, receiver.url, 2)
        report = drain(tmp_path, timing=instant())
        assert (report.status, report.rejected, report.left) == ("partial", {"spans": 2}, 0)


def test_a_body_over_the_limit_is_cut_before_it_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent_client.otlp.delivery.MAX_BODY_BYTES", 20_000)
    with OtlpReceiver() as receiver:
        pending(tmp_path, receiver.url, 200)
        assert drain(tmp_path, timing=instant()).sent["spans"] == 200
        assert all(len(request.body) <= 20_000 for request in receiver.sent(TRACES))
        assert receiver.span_arrivals == 200


def test_a_receiver_that_refuses_before_it_has_read_is_heard(tmp_path: Path) -> None:
    with OtlpReceiver() as receiver:
        pending(tmp_path, receiver.url)
        receiver.faults = [Fault(TRACES, "early", 401)]
        assert drain(tmp_path, timing=instant()).status == "rejected"


@pytest.mark.parametrize("is_kept", [LOGS, METRICS])
def test_a_signal_that_the_collector_does_not_take_holds_nothing_up(
    tmp_path: Path, is_kept: str
) -> None:
    with OtlpReceiver() as receiver:
        receiver.paths = {TRACES, is_kept}
        recorded(tmp_path, receiver.url)
        report = drain(tmp_path, timing=instant())
        assert (report.status, report.exit_code, report.left) == ("partial", 6, 0)
        assert len(receiver.spans) == 4
        refused = "metrics" if is_kept == LOGS else "logs"
        assert list(report.rejected) == [refused]
        assert f"telemetry.export.otlp.{refused}: false" in report.detail


def test_a_signal_that_is_not_taken_is_offered_once_a_drain(tmp_path: Path) -> None:
    with OtlpReceiver() as receiver:
        receiver.paths = {TRACES, METRICS}
        recorded(tmp_path, receiver.url, *(error_event(number) for number in range(600)))
        assert drain(tmp_path, timing=instant()).rejected == {"logs": 600}
        assert len(receiver.sent(LOGS)) == 1


def test_metrics_that_are_too_large_are_counted_and_not_offered_again(tmp_path: Path) -> None:
    with OtlpReceiver() as receiver:
        pending(tmp_path, receiver.url)
        receiver.faults = [Fault(METRICS, "status", 413)]
        assert drain(tmp_path, timing=instant()).rejected == {"metrics": 2}
        assert drain(tmp_path, timing=instant()).status == "nothing"


# ---------------------------------------------------------------------------- slow and hostile


def collector_of(url: str, deadline_s: float = 0.2) -> Collector:
    return Collector(parse_endpoint(url, {}), {}, deadline_s=deadline_s)


@pytest.mark.parametrize("kind", ["slow", "dripping"])
def test_a_collector_that_drips_its_answer_meets_the_deadline(kind: str) -> None:
    with OtlpReceiver() as receiver:
        receiver.faults = [Fault(TRACES, kind)]
        began_s = time.monotonic()
        with pytest.raises(NetworkError):
            collector_of(receiver.url).post("/v1/traces", b"", {})
        assert time.monotonic() - began_s < 5


def test_a_collector_that_says_nothing_meets_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # the kernel accepts, nobody answers
        began_s = time.monotonic()
        with pytest.raises(NetworkError, match="did not answer in time"):
            collector_of(f"http://127.0.0.1:{server.getsockname()[1]}").post("/v1/logs", b"", {})
        assert time.monotonic() - began_s < 5


def test_an_answer_without_end_is_cut_off() -> None:
    with OtlpReceiver() as receiver:
        receiver.faults = [Fault(TRACES, "reply", body=b"x" * (MAX_ANSWER_BYTES + 1))]
        with pytest.raises(NetworkError, match="larger"):
            collector_of(receiver.url, 5).post("/v1/traces", b"", {})


@pytest.mark.parametrize(
    "answer",
    [
        b"\x16\x03\x01garbage\n\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500 + b"\r\n",
        b"HTTP/1.1 " + b"9" * 70_000,
        b"",
    ],
)
def test_garbage_for_an_answer_is_a_network_fault(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(5)
        collector = collector_of(f"http://127.0.0.1:{server.getsockname()[1]}", 5)

        def serve() -> None:
            peer, _ = server.accept()
            with peer:
                peer.recv(65_536)
                peer.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(NetworkError) as caught:
            collector.post("/v1/traces", b"", {})
        thread.join(5)
    assert KEY not in str(caught.value)


def test_a_connection_that_died_while_idle_is_opened_again() -> None:
    with OtlpReceiver() as receiver:
        collector = collector_of(receiver.url, 5)
        receiver.faults = [Fault(TRACES, "drop", times=1)]
        with pytest.raises(NetworkError):
            collector.post("/v1/traces", b"", {})
        assert collector.post("/v1/traces", b"", {}).status == 200
        receiver.faults = [Fault(TRACES, "drop", times=1)]
        assert collector.post("/v1/traces", b"", {}).status == 200  # its second try, at once
        collector.close()


def test_a_host_that_is_no_name_is_a_network_fault() -> None:
    with pytest.raises(NetworkError):
        collector_of("https://" + "a" * 70 + ".example").post("/v1/traces", b"", {})


@pytest.mark.parametrize("proxy", ["http://proxy:port", "http://[::1"])
def test_a_proxy_that_is_none_is_a_network_fault(
    monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("https_proxy", proxy)
    with pytest.raises(NetworkError):
        collector_of("https://collector.example").post("/v1/traces", b"", {})


# ------------------------------------------------------------------------- endpoint and headers


def target(home: Path, url: str, **keys: object) -> Target | Closed:
    configure(home, url, **keys)
    return target_of(config.load(home))


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("https://collector.example", "https://collector.example"),
        ("https://Collector.example:4318/", "https://collector.example:4318"),
        ("https://collector.example/otlp/v1/traces", "https://collector.example/otlp"),
        ("https://collector.example/otlp/v1/logs/", "https://collector.example/otlp"),
        ("http://127.0.0.1:4318", "http://127.0.0.1:4318"),
    ],
)
def test_an_endpoint_is_the_base_of_the_signals(url: str, base: str) -> None:
    assert parse_endpoint(url, {}).geturl() == base


@pytest.mark.parametrize(
    "url",
    [
        "http://collector.example",
        "https://user:sesame@collector.example",
        "https://collector.example/?key=sesame",
        "https://user:sesame/more@collector.example",
        "http://[sesame",
        "ftp://collector.example",
        "collector:4317",
    ],
)
def test_an_endpoint_that_would_show_or_hold_secrets_is_refused(tmp_path: Path, url: str) -> None:
    found = target(tmp_path, url)
    assert isinstance(found, Closed)
    assert "sesame" not in found.detail
    assert url.count("@") == 0 or "sesame" not in shown(url)


def test_a_configuration_that_cannot_be_read_opens_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HERMES_MANAGED_DIR", str(tmp_path / "managed"))
    (tmp_path / "managed").mkdir()
    (tmp_path / "managed" / "config.yaml").write_text("telemetry: {local: fal")
    assert isinstance(target(tmp_path, "https://collector.example"), Closed)


def test_plain_http_beyond_this_machine_needs_a_word_of_its_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = target(tmp_path, "http://collector.example")
    assert isinstance(refused, Closed)
    assert "HERMES_TELEMETRY_INSECURE_HTTP=1" in refused.detail
    monkeypatch.setenv("HERMES_TELEMETRY_INSECURE_HTTP", "1")
    assert isinstance(target(tmp_path, "http://collector.example"), Target)


def test_headers_go_out_by_the_name_of_their_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLLECTOR_KEY", f"Bearer {KEY}")
    with OtlpReceiver() as receiver:
        pending(tmp_path, receiver.url, headers_env={"Authorization": "COLLECTOR_KEY"})
        report = drain(tmp_path, timing=instant())
        assert receiver.requests[0].headers["authorization"] == f"Bearer {KEY}"
    assert KEY not in repr(report)
    assert KEY not in repr(target_of(config.load(tmp_path)))


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ("", "NOT set"),
        ("a\r\nX-Evil: 1", "holds characters"),
        ("snow☃man", "holds characters"),
        ("tab\there", "holds characters"),
    ],
)
def test_a_value_no_header_may_have_is_not_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, fault: str
) -> None:
    monkeypatch.setenv("COLLECTOR_KEY", value)
    configure(tmp_path, "https://collector.example", headers_env={"x-key": "COLLECTOR_KEY"})
    (header,), values = read_headers(config.load(tmp_path))
    assert header.fault.startswith(fault)
    assert values == {}


def test_our_own_headers_cannot_be_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLLECTOR_KEY", "evil.example")
    configure(tmp_path, "https://collector.example", headers_env={"Host": "COLLECTOR_KEY"})
    (header,), values = read_headers(config.load(tmp_path))
    assert not header.is_set
    assert values == {}


def test_a_pinned_header_cannot_name_just_any_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    managed = tmp_path / "managed"
    managed.mkdir()
    monkeypatch.setenv("HERMES_MANAGED_DIR", str(managed))
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.setenv("HERMES_OTLP_KEY", "for-the-collector")
    names = {"x-model": "ANTHROPIC_API_KEY", "x-key": "HERMES_OTLP_KEY"}
    pins = {"telemetry": {"export": {"otlp": {"headers_env": names}}}}
    (managed / "config.yaml").write_text(json.dumps(pins))
    headers, values = read_headers(config.load(tmp_path))
    assert [(header.variable, header.is_set) for header in headers] == [
        ("ANTHROPIC_API_KEY", False),
        ("HERMES_OTLP_KEY", True),
    ]
    assert values == {"x-key": "for-the-collector"}
