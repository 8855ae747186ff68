"""Traces of the console itself: what they say, what they never say, and that nobody waits."""

from __future__ import annotations

import io
import json
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.test import Client, override_settings

from fleet.logs import json_formatter
from fleet.watch import traced, tracing
from tests.builders import enroll_one
from tests.faults import raw, served
from tests.fleet.watch.spans import Got, raw_bodies, received
from tests.fleet.watch.test_log_canary import CANARY, hostile
from tests.telemetry import receivers
from tests.telemetry.receivers import Http, Say

POLL = "/api/v1/policy/assignment"
PARENT = f"00-{'a' * 32}-{'b' * 16}-01"
UNSAMPLED = f"00-{'a' * 32}-{'b' * 16}-00"
SERVER = 2


@pytest.fixture
def http() -> Iterator[Http]:
    with receivers.http() as made:
        yield made


@pytest.fixture(autouse=True)
def anew() -> Iterator[None]:
    tracing.forget()
    yield
    tracing.stop(0.0)
    tracing.forget()


@pytest.fixture
def on(http: Http) -> Iterator[Http]:
    with override_settings(FLEET_TRACES_ENDPOINT=f"{http.url}/v1/traces"):
        traced.connect()
        yield http


def sent(http: Http) -> list[Got]:
    """What was sent when this process stops."""
    assert tracing.stop(60)
    return received(http)


@pytest.mark.django_db
@pytest.mark.both_engines
def test_a_request_is_a_span_by_its_route_with_its_statements(on: Http) -> None:
    _install, token = enroll_one()
    Client().get(f"{POLL}?x={CANARY}", headers={"Authorization": f"Bearer {token}"})
    (span,) = sent(on)
    assert (span.name, span.kind, span.parent_id) == (f"GET {POLL}", SERVER, "")
    assert span.took_ns > 0
    assert set(span.says) == {
        *("http.request.method", "http.route", "http.response.status_code"),
        *("fleet.db.statements", "fleet.db.seconds"),
    }
    statements, seconds = span.says["fleet.db.statements"], span.says["fleet.db.seconds"]
    assert isinstance(statements, int)
    assert isinstance(seconds, float)
    assert statements > 0
    assert 0 < seconds * 1e9 < span.took_ns
    assert span.resource["service.name"] == "hermes-fleet"
    assert CANARY.encode() not in raw_bodies(on)


@pytest.mark.parametrize(
    ("proxies", "sent_as", "is_taken"),
    [
        (["127.0.0.0/8"], PARENT, True),
        ([], PARENT, False),
        (["10.0.0.0/8"], PARENT, False),
        (["127.0.0.0/8"], f"00-{CANARY}-01", False),
        (["127.0.0.0/8"], f"00-{'0' * 32}-{'b' * 16}-01", False),
        (["127.0.0.0/8"], PARENT * 1000, False),
    ],
)
@pytest.mark.django_db
def test_a_parent_counts_only_from_a_proxy_of_ours(
    on: Http, proxies: list[str], sent_as: str, is_taken: bool
) -> None:
    with override_settings(FLEET_PROXIES=proxies):
        Client().get("/login/", headers={"Traceparent": sent_as, "Tracestate": f"a={CANARY}"})
    (span,) = sent(on)
    assert (span.trace_id == "a" * 32, span.parent_id == "b" * 16) == (is_taken, is_taken)
    assert CANARY.encode() not in raw_bodies(on)


@pytest.mark.django_db
def test_the_ratio_holds_and_a_proxys_choice_wins(on: Http) -> None:
    with override_settings(FLEET_TRACES_RATIO=0.0, FLEET_PROXIES=["127.0.0.0/8"]):
        Client().get("/login/")
        Client().get("/login/", headers={"Traceparent": UNSAMPLED})
        Client().get("/login/", headers={"Traceparent": PARENT})
    (span,) = sent(on)
    assert span.parent_id == "b" * 16


@pytest.mark.django_db
def test_probes_and_unknown_paths_name_nothing_that_was_asked(on: Http) -> None:
    Client().get("/livez")
    Client().get(f"/api/v1/{CANARY}")
    Client().generic(CANARY.upper(), "/login/")
    assert {span.name for span in sent(on)} == {"GET (none)", "_OTHER (console)"}


@pytest.mark.django_db
def test_lines_of_a_request_carry_its_trace(on: Http) -> None:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(json_formatter())
    logger = logging.getLogger("tests.traced")
    logger.addHandler(handler)
    try:
        with tracing.span("request", "server"):
            logger.warning("inside")
        logger.warning("outside", extra={"trace_id": CANARY})
    finally:
        logger.removeHandler(handler)
    inside, outside = (json.loads(line) for line in out.getvalue().splitlines())
    (span,) = sent(on)
    assert inside["trace_id"] == span.trace_id
    assert "trace_id" not in outside


def test_an_error_is_a_class_and_no_word_of_it(on: Http) -> None:
    def fail() -> None:
        with tracing.span("task x", "consumer") as recorded:
            assert recorded is not None
            recorded.fail("ValueError")
            raise ValueError(CANARY)

    with pytest.raises(ValueError, match=CANARY):
        fail()
    (span,) = sent(on)
    assert (span.is_error, span.says) == (True, {"error.type": "ValueError"})
    assert CANARY.encode() not in raw_bodies(on)


def make_spans(count: int) -> float:
    """How long it takes to record so many."""
    began_s = time.monotonic()
    for _index in range(count):
        with tracing.span("request", "server"):
            pass
    return time.monotonic() - began_s


def test_a_collector_that_hangs_holds_up_nobody_and_not_the_end() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        override_settings(
            FLEET_TRACES_ENDPOINT=f"http://127.0.0.1:{silent.getsockname()[1]}/v1/traces"
        ),
    ):
        # Four times what is kept: a queue that waited for the collector would wait for ever.
        make_spans(4 * tracing.QUEUE_SPANS)
        began_s = time.monotonic()
        assert not tracing.stop(0.2)
        assert time.monotonic() - began_s < 30


def test_a_collector_that_is_away_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    with override_settings(FLEET_TRACES_ENDPOINT="http://127.0.0.1:1/v1/traces"):
        make_spans(3 * tracing.BATCH_SPANS)
        assert not tracing.stop(60)
    assert len([one for one in caplog.records if "traces_not_sent" in one.getMessage()]) == 1


@pytest.mark.parametrize("status", [302, 400, 503])
def test_an_answer_that_is_no_yes_loses_spans_and_goes_on(http: Http, status: int) -> None:
    http.answer = lambda _post: Say(status, headers=(("Location", "http://127.0.0.1:1/"),))
    with override_settings(FLEET_TRACES_ENDPOINT=f"{http.url}/v1/traces"):
        make_spans(1)
        assert not tracing.stop(60)
    assert len(http.posts) == 1


def test_a_header_is_read_by_name_and_stands_in_no_line(
    on: Http, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "key").write_text(f"Bearer {CANARY}\n")
    monkeypatch.setenv("FLEET_OTLP_HDR_T_FILE", str(tmp_path / "key"))
    on.answer = lambda post: Say(401 if post.headers.get("authorization") else 200)
    with override_settings(FLEET_TRACES_HEADERS_ENV={"authorization": "FLEET_OTLP_HDR_T"}):
        make_spans(1)
        assert not tracing.stop(60)
    assert on.posts[0].headers["authorization"] == f"Bearer {CANARY}"
    assert CANARY not in caplog.text


def test_without_its_headers_value_nothing_is_sent(on: Http) -> None:
    with override_settings(FLEET_TRACES_HEADERS_ENV={"authorization": "FLEET_OTLP_HDR_NONE"}):
        make_spans(1)
        assert not tracing.stop(60)
    assert on.posts == []


def test_a_fork_begins_anew_and_sends_its_own(on: Http) -> None:
    make_spans(1)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            make_spans(2)
            code = 0 if tracing.stop(60) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    spans = sent(on)
    assert [span.resource["process.pid"] for span in spans].count(pid) == 2
    assert [span.resource["process.pid"] for span in spans].count(os.getpid()) == 1


def test_off_there_is_no_span_and_no_exporter_is_loaded() -> None:
    code = (
        "import django, sys\ndjango.setup()\n"
        "from fleet.watch import tracing, traced\n"
        "with tracing.span('x', 'server') as recorded: assert recorded is None\n"
        "print([name for name in sys.modules if name == 'fleet.watch.tracing_send'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=served.ROOT,
        env=served.console_environment(DATABASE_URL="sqlite:///:memory:"),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
@pytest.mark.timeout(served.PATIENCE_S)
def test_the_web_server_sends_from_each_worker_and_nothing_of_a_caller(
    http: Http, tmp_path: Path
) -> None:
    environ = {
        "FLEET_TRACES_ENDPOINT": f"{http.url}/v1/traces",
        "FLEET_TRACES_HEADERS_ENV": "X-Key=FLEET_OTLP_HDR_T",
        "FLEET_OTLP_HDR_T": f"key-{CANARY}",
        "FLEET_LOG_LEVEL": "INFO",
    }
    with served.serve(tmp_path, worker_count=2, environ=environ) as console:
        assert 200 in hostile(console.url, raw.credential_of())
        lines = [json.loads(line) for line in console.log_text().splitlines()]
        workers = set(console.worker_pids())
    spans = received(http)
    assert CANARY.encode() not in raw_bodies(http).lower()
    assert CANARY not in console.log_text()
    assert {post.headers["x-key"] for post in http.posts} == {f"key-{CANARY}"}
    assert {span.resource["process.pid"] for span in spans} <= workers
    ids = {span.trace_id for span in spans}
    refused = [line for line in lines if line.get("code") == 404]
    assert refused
    assert {line["trace_id"] for line in refused} <= ids
    assert "POST /api/v1/telemetry" in {span.name for span in spans}
