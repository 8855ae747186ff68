"""POST /v1/traces, /v1/logs and /v1/metrics: the documented status and body for each thing."""

from __future__ import annotations

import gzip
import json
from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError
from django.http import HttpResponse
from django.test import Client
from google.rpc.error_details_pb2 import BadRequest
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from agent_client.contract import wire
from fleet.lib.clock import now
from telemetry.api import otlp as otlp_api
from telemetry.ingest.drain import drain
from telemetry.models import (
    ClosedPlane,
    IngestBatch,
    InstallIntake,
    ModelCall,
    QuarantinedLine,
    Run,
    Span,
    SpooledBatch,
    ToolCall,
)
from tests import builders
from tests.telemetry import otlp_builders as otlp
from tests.telemetry.builders import recent_ns
from tests.telemetry.test_api_batch import enrolled

pytestmark = [pytest.mark.django_db, pytest.mark.both_engines]
PROTOBUF, JSON = "application/x-protobuf", "application/json"
SECRET = "ghp_" + "x7Kq9ZtB2mWv4Rn8Lp3Yc6Hd1Fs5Gj0Aw2Ee"
AWS_KEY = "AKIA" + "Z7Q2XM4T6KLB3WVD"
CANARY = "canary-51ab what a person said"


def post(
    token: str, data: bytes, media: str = PROTOBUF, path: str = "/v1/traces", **headers: str
) -> HttpResponse:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if token:
        sent["Authorization"] = f"Bearer {token}"
    # Named, because the test client says neither of an empty body.
    said: dict[str, Any] = {"CONTENT_LENGTH": str(len(data)), "CONTENT_TYPE": media}
    answer = Client().generic("POST", path, data, media, headers=sent, **said)
    assert isinstance(answer, HttpResponse)
    return answer


def status_of(answer: HttpResponse) -> Status:
    assert answer["Content-Type"] == PROTOBUF
    return Status.FromString(answer.content)


def partial(answer: HttpResponse) -> tuple[int, str]:
    assert answer.status_code == 200
    found = ExportTraceServiceResponse.FromString(answer.content).partial_success
    return found.rejected_spans, found.error_message


# ------------------------------------------------------------------------------- what is taken


@pytest.mark.parametrize("media", [PROTOBUF, JSON])
def test_spans_are_rows_when_the_answer_is_there(media: str) -> None:
    make = otlp.protobuf if media == PROTOBUF else otlp.as_json
    answer = post(enrolled(), make(otlp.agent(), otlp.span(), otlp.tool()), media)
    assert (answer.status_code, answer["Content-Type"]) == (200, media)
    assert answer.content == (b"" if media == PROTOBUF else b"{}")
    assert (Run.objects.count(), ModelCall.objects.count(), ToolCall.objects.count()) == (1, 1, 1)
    batch = IngestBatch.objects.get()
    assert (batch.source, batch.plane, batch.received_count) == ("otlp", "local", 3)
    assert (batch.batch_id.version, batch.clock_skew_ms) == (8, None)


@pytest.mark.parametrize("encoding", ["gzip", "zstd", "identity"])
def test_a_compressed_request_is_taken(encoding: str) -> None:
    import zstandard

    data = otlp.protobuf(otlp.span())
    packed = {"gzip": gzip.compress(data), "zstd": zstandard.compress(data), "identity": data}
    assert post(enrolled(), packed[encoding], Content_Encoding=encoding).status_code == 200
    assert ModelCall.objects.count() == 1


@pytest.mark.parametrize(("media", "empty"), [(PROTOBUF, b""), (JSON, b"{}")])
def test_an_empty_request_is_a_success_and_leaves_nothing(media: str, empty: bytes) -> None:
    answer = post(enrolled(), empty, media)
    assert (answer.status_code, answer.content) == (200, empty)
    assert not IngestBatch.objects.exists()


def test_a_repeat_is_answered_from_the_ledger_and_doubles_nothing() -> None:
    token, data = enrolled(), otlp.protobuf(otlp.span(), otlp.span(span_id="00" * 8))
    first = post(token, data)
    again = post(token, gzip.compress(data), Content_Encoding="gzip")
    assert (first.status_code, first.content) == (again.status_code, again.content)
    assert partial(first)[0] == 1
    assert IngestBatch.objects.count() == ModelCall.objects.count() == 1
    assert InstallIntake.objects.get().batch_count == 1


def test_the_same_content_from_another_install_is_another_batch() -> None:
    data = otlp.protobuf(otlp.span())
    post(enrolled(), data)
    other = builders.make_install()
    otlp.push(otlp.span(), install_id=other.pk)
    assert IngestBatch.objects.count() == 2


def test_spans_that_come_again_in_other_company_are_duplicates() -> None:
    token, chat = enrolled(), otlp.span()
    post(token, otlp.protobuf(chat))
    post(token, otlp.protobuf(otlp.tool(), chat))
    assert (ModelCall.objects.count(), ToolCall.objects.count()) == (1, 1)
    assert Run.objects.get().model_call_count == 1
    assert IngestBatch.objects.latest("received_at").duplicate_count == 1


def test_bad_spans_are_a_partial_success_and_stand_in_quarantine() -> None:
    too_old = otlp.span(start_ns=1, end_ns=2)
    answer = post(enrolled(), otlp.protobuf(otlp.span(span_id="00" * 8), too_old, otlp.tool()))
    count, message = partial(answer)
    assert count == 2
    assert "1 invalid_value" in message
    assert "1 time_too_old (older than the console's retention)" in message
    lines = QuarantinedLine.objects.order_by("line").values_list("line", "code", "detail")
    assert list(lines) == [(1, "invalid_value", "span_id"), (2, "time_too_old", "start_ns")]
    assert ToolCall.objects.count() == 1


def test_a_partial_success_in_json_counts_in_text() -> None:
    answer = post(enrolled(), otlp.as_json(otlp.span(trace_id="00" * 16)), JSON)
    said = json.loads(answer.content)["partialSuccess"]
    assert said["rejectedSpans"] == "1"
    assert said["errorMessage"].startswith("1 invalid_value")


def test_content_is_stored_nowhere() -> None:
    said = {
        "gen_ai.operation.name": "chat",
        "gen_ai.input.messages": CANARY,
        "gen_ai.tool.call.arguments": CANARY,
        "gen_ai.request.model": "m",
    }
    spans = [otlp.span(attributes=said), otlp.span(span_id="00" * 8, attributes=said)]
    old = otlp.agent(start_ns=1, end_ns=2, attributes=said)
    for media, make in ((PROTOBUF, otlp.protobuf), (JSON, otlp.as_json)):
        assert post(enrolled(), make(*spans, old), media).status_code == 200
    models = (Run, ModelCall, Span, IngestBatch, QuarantinedLine)
    assert QuarantinedLine.objects.exists()
    assert CANARY not in "".join(str(list(model._default_manager.values())) for model in models)


def test_secrets_in_names_are_scrubbed() -> None:
    said = {"gen_ai.operation.name": "chat", "gen_ai.request.model": f"m {SECRET}"}
    post(enrolled(), otlp.protobuf(otlp.span(attributes=said, name=SECRET)), User_Agent=SECRET)
    assert SECRET not in str(ModelCall.objects.values().get())
    batch = IngestBatch.objects.get()
    assert (SECRET in batch.client, batch.scrubbed_count) == (False, 1)


@pytest.mark.parametrize("name", ["gen_ai.provider.name", "traceloop.span.kind"])
def test_a_secret_is_found_before_a_word_is_put_in_small_letters(name: str) -> None:
    said = {name: AWS_KEY} | ({"gen_ai.operation.name": "chat"} if "provider" in name else {})
    post(enrolled(), otlp.protobuf(otlp.span(attributes=said)))
    kept = [*ModelCall.objects.values(), *Span.objects.values()]
    assert kept
    assert AWS_KEY.lower() not in str(kept).lower()


@pytest.mark.parametrize("room_count", [180, 190, 197])
def test_a_secret_at_a_names_bound_is_not_cut_in_two(room_count: int) -> None:
    long = "n " * (room_count // 2) + SECRET + " more" * 2000
    said = {
        "gen_ai.operation.name": "retrieval",
        "gen_ai.data_source.id": long,
        "gen_ai.agent.name": long,
        "gen_ai.agent.version": long,
    }
    spans = [otlp.span(attributes=said, name=long), otlp.span(span_id="00" * 8, name=long)]
    assert post(enrolled(), otlp.protobuf(*spans)).status_code == 200
    models = (Run, Span, IngestBatch, QuarantinedLine)
    assert SECRET[:10] not in "".join(str(list(m._default_manager.values())) for m in models)


@pytest.mark.parametrize("word", [SECRET, "a\\u0000b", "\\ud800", "x" * 500])
def test_an_attributes_own_name_gets_into_no_message(word: str) -> None:
    bad = f'{{"key":"hermes.attrs.{word}","value":5}}'
    data = b'{"resourceSpans":[{"scopeSpans":[{"spans":[{"attributes":[%s]}]}]}]}' % bad.encode()
    assert post(enrolled(), data, JSON).status_code == 200
    assert SECRET not in str([IngestBatch.objects.get().receipt, *QuarantinedLine.objects.values()])
    assert QuarantinedLine.objects.get().detail == "attributes"


# ------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("data", "media", "headers", "http_status", "grpc_code"),
    [
        (b"\xff\xff", PROTOBUF, {}, 400, 3),
        (b"not gzip", PROTOBUF, {"Content_Encoding": "gzip"}, 400, 3),
        (gzip.compress(b"x" * 100, mtime=0)[:-9], PROTOBUF, {"Content_Encoding": "gzip"}, 400, 3),
        (gzip.compress(bytes(2**26 + 1), mtime=0), PROTOBUF, {"Content_Encoding": "gzip"}, 413, 3),
        (bytes(2**23 + 1), PROTOBUF, {}, 413, 3),
        (b"", PROTOBUF, {"Content_Encoding": "br"}, 415, 3),
    ],
)
def test_what_a_repeat_cannot_mend_is_answered_so_that_nobody_repeats_it(
    data: bytes, media: str, headers: dict[str, str], http_status: int, grpc_code: int
) -> None:
    answer = post(enrolled(), data, media, **headers)
    assert answer.status_code == http_status
    assert status_of(answer).code == grpc_code
    assert "Retry-After" not in answer


def test_bad_data_is_told_where_it_is_bad() -> None:
    found = status_of(post(enrolled(), b"\xff\xff"))
    (detail,) = found.details
    bad = BadRequest()
    assert detail.Unpack(bad)
    assert (bad.field_violations[0].field, bad.field_violations[0].description) == (
        "body",
        found.message,
    )


def test_bad_json_is_told_in_json() -> None:
    answer = post(enrolled(), b"{", JSON)
    assert (answer.status_code, answer["Content-Type"]) == (400, JSON)
    document = json.loads(answer.content)
    assert document["code"] == 3
    assert document["details"][0]["@type"].endswith("google.rpc.BadRequest")


def test_another_content_type_is_refused_in_json_that_people_can_read() -> None:
    answer = post(enrolled(), b"", "text/plain")
    assert (answer.status_code, answer["Content-Type"]) == (415, JSON)
    assert PROTOBUF in json.loads(answer.content)["message"]


@pytest.mark.parametrize(
    ("token", "code"), [("", "credential_missing"), ("hfa_x", "credential_unknown")]
)
def test_without_a_credential_there_is_401(token: str, code: str) -> None:
    answer = post(token, otlp.protobuf(otlp.span()))
    assert (answer.status_code, status_of(answer).code) == (401, 16)
    assert code in status_of(answer).message
    assert answer["WWW-Authenticate"].startswith("Bearer")


def test_a_credential_without_the_scope_is_403() -> None:
    answer = post(enrolled(scopes=[wire.SCOPE_POLICY]), otlp.protobuf(otlp.span()))
    assert (answer.status_code, status_of(answer).code) == (403, 7)


def test_an_expired_credential_is_401() -> None:
    answer = post(enrolled(expires_at=now() - timedelta(days=1)), otlp.protobuf(otlp.span()))
    assert (answer.status_code, status_of(answer).code) == (401, 16)


def test_a_policy_that_closes_the_local_plane_closes_this_door_too() -> None:
    token = enrolled()
    builders.make_pin("telemetry.export.console.enabled", False)
    builders.publish()
    answer = post(token, otlp.protobuf(otlp.span()))
    assert (answer.status_code, "plane_closed" in status_of(answer).message) == (403, True)
    assert not IngestBatch.objects.exists()
    assert ClosedPlane.objects.get().refused_count == 1


def test_too_many_requests_are_429_with_a_time_to_come_back(settings: Any) -> None:  # noqa: ANN401 -- a fixture without a type
    settings.FLEET_RATE_INSTALL_PER_MIN = 0
    answer = post(enrolled(), otlp.protobuf(otlp.span()))
    assert (answer.status_code, status_of(answer).code) == (429, 8)
    assert int(answer["Retry-After"]) >= 1


def test_a_database_that_is_away_is_503_with_a_time_to_come_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def away(*_: object) -> None:
        raise OperationalError

    monkeypatch.setattr(otlp_api, "receive_spans", away)
    answer = post(enrolled(), otlp.protobuf(otlp.span()))
    assert (answer.status_code, status_of(answer).code) == (503, 14)
    assert int(answer["Retry-After"]) >= 1


def test_another_method_is_405_and_another_path_404() -> None:
    answer = Client().get("/v1/traces")
    assert answer.status_code == 405
    assert json.loads(answer.content)["code"] == 12
    assert Client().post("/v1/profiles").status_code == 404


# --------------------------------------------------------------------- signals that are not taken


def test_log_records_are_all_rejected_which_no_exporter_repeats() -> None:
    made = ExportLogsServiceRequest()
    made.resource_logs.add().scope_logs.add().log_records.add().body.string_value = CANARY
    answer = post(enrolled(), made.SerializeToString(), path="/v1/logs")
    found = ExportLogsServiceResponse.FromString(answer.content).partial_success
    assert (answer.status_code, found.rejected_log_records) == (200, 1)
    assert "OTEL_LOGS_EXPORTER=none" in found.error_message
    assert not IngestBatch.objects.exists()


def test_data_points_are_all_rejected_in_json_too() -> None:
    points: dict[str, object] = {"sum": {"dataPoints": [{}, {}]}}
    document = {"resourceMetrics": [{"scopeMetrics": [{"metrics": [points]}]}]}
    answer = post(enrolled(), json.dumps(document).encode(), JSON, path="/v1/metrics")
    said = json.loads(answer.content)["partialSuccess"]
    assert said["rejectedDataPoints"] == "2"
    assert "OTEL_METRICS_EXPORTER=none" in said["errorMessage"]


def test_an_empty_request_of_another_signal_is_a_success() -> None:
    answer = post(enrolled(), b"", path="/v1/metrics")
    assert not ExportMetricsServiceResponse.FromString(answer.content).HasField("partial_success")


@pytest.mark.parametrize("path", ["/v1/logs", "/v1/metrics"])
def test_other_signals_ask_for_the_credential_and_refuse_junk(path: str) -> None:
    assert post("", b"", path=path).status_code == 401
    assert post(enrolled(), b"\xff", path=path).status_code == 400


def test_the_schema_names_the_endpoints() -> None:
    text = Client().get("/api/v1/schema").content.decode()
    assert all(f"/v1/{signal}:" in text for signal in ("traces", "logs", "metrics"))


def test_times_are_kept_to_the_nanosecond() -> None:
    start_ns = recent_ns() // 1000 * 1000 + 123
    post(enrolled(), otlp.protobuf(otlp.span(start_ns=start_ns)))
    assert ModelCall.objects.get().start_ns == start_ns


def test_an_overloaded_database_spools_spans_and_their_run_is_there_when_it_is_drained(
    settings: Any,  # noqa: ANN401 -- a fixture without a type
) -> None:
    token, data = (
        enrolled(),
        otlp.protobuf(otlp.span(), otlp.agent(), otlp.span(trace_id="00" * 16)),
    )
    settings.FLEET_VALVE = "open"
    first = post(token, data)
    assert partial(first)[0] == 1
    assert post(token, data).content == first.content
    assert (SpooledBatch.objects.count(), Run.objects.count()) == (1, 0)
    settings.FLEET_VALVE = "shut"
    report = drain()
    assert not list(SpooledBatch.objects.values_list("last_error", flat=True))
    assert report.row_count == 2
    run = Run.objects.get()
    assert (run.end_reason, run.model_call_count, run.profile_id) == ("completed", 1, "helper")
    batch = IngestBatch.objects.get()
    assert (batch.inserted_count, batch.rejected_count, batch.expired_count) == (2, 1, 0)


def test_an_install_that_sends_too_many_spans_is_told_when_to_come_back(
    settings: Any,  # noqa: ANN401 -- a fixture without a type
) -> None:
    settings.FLEET_RATE_INSTALL_ROWS_PER_MIN = 2
    token, spans = enrolled(), [otlp.span(span_id=f"{n:016x}") for n in range(1, 7)]
    assert post(token, otlp.protobuf(*spans[:3])).status_code == 200
    answer = post(token, otlp.protobuf(*spans[3:]))
    assert (answer.status_code, status_of(answer).code) == (429, 8)
    assert int(answer["Retry-After"]) >= 1
    assert ModelCall.objects.count() == 3
