"""OTLP/HTTP in: POST /v1/traces, and /v1/logs and /v1/metrics answered.

The same credential, scope, gate, limits and throttles as a push. Answers and errors are OTLP's
own, in the type of the request; which statuses an exporter retries (429, 502, 503, 504) is fixed
by the standard, so anything that a repeat cannot mend is answered with another one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from django.http import HttpRequest, HttpResponse
from django.http.request import UnreadablePostError
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework.exceptions import MethodNotAllowed
from rest_framework.parsers import BaseParser
from rest_framework.request import Request
from rest_framework.views import APIView

from agent_client.contract import wire
from fleet.api.authentication import InstallTokenAuthentication, install_of
from fleet.api.errors import ApiProblem, problem_handler
from fleet.api.permissions import HasScope
from fleet.models import Install
from fleet.policy.effective import mandatory_values
from telemetry.api import otlp_answers as answers
from telemetry.api.counting import count_outcome
from telemetry.api.limits import Meter, check_hold
from telemetry.api.otlp_answers import MEDIA_JSON, MEDIA_PROTOBUF, Signal
from telemetry.api.parsers import body_stream
from telemetry.ingest.decode import ENCODINGS, Body, IngestError, Readable, read_body
from telemetry.ingest.gate import count_refusal, is_open
from telemetry.ingest.otlp_counts import count_logs, count_points
from telemetry.ingest.otlp_receive import DECODERS, batch_id_of, receive_spans
from telemetry.ingest.receive import BatchHeader, is_known
from telemetry.models import IngestBatch
from telemetry.models.rollups import NO_GROUP

PLANE = "local"
NOT_TAKEN = (
    "This console takes traces only. Switch the exporter of {name} off: OTEL_{upper}_EXPORTER=none"
)
_REQUEST = {MEDIA_PROTOBUF: OpenApiTypes.BINARY, MEDIA_JSON: OpenApiTypes.OBJECT}
_RESPONSES = {(200, media): kind for media, kind in _REQUEST.items()}


@dataclass(frozen=True, slots=True)
class Sent:
    """One request that was read: who sent it, its decoded body and type, and its meter."""

    install: Install
    body: Body
    media: str
    meter: Meter
    client: str


class OtlpView(APIView):
    """What the endpoints of all signals share.

    Checks, in this order: method, credential, scope, content type, plane, rate limits, encoding,
    body.
    """

    authentication_classes = [InstallTokenAuthentication]
    permission_classes = [HasScope]
    parser_classes: list[type[BaseParser]] = []  # the body is a stream, read last
    required_scope = wire.SCOPE_PUSH
    http_method_names = ["post"]
    signal: ClassVar[Signal]

    def initial(self, request: Request, *args: object, **kwargs: object) -> None:
        """Refuse a foreign method before anybody is asked who he is."""
        if request.method != "POST":
            raise MethodNotAllowed(str(request.method))
        check_hold(request.headers.get("Authorization", ""))
        super().initial(request, *args, **kwargs)

    def get_exception_handler(self) -> Callable[[Exception, dict[str, Any]], HttpResponse]:
        """Errors as google.rpc.Status, whatever they come from."""
        return status_handler

    def post_signal(self, request: Request) -> HttpResponse:
        """Check and read the request, then ``take`` it. Errors: ApiProblem."""
        install = install_of(request)
        try:
            media = _media_of(request)
            _check_plane(install)
            stream, expected_bytes = body_stream(request._request)  # noqa: SLF001 -- DRF has no other way to the stream
            meter = Meter(install.pk, authorization=request.headers.get("Authorization", ""))
            meter.take_bytes(expected_bytes)
            with meter.turn():
                body = _read(stream, expected_bytes, _encoding_of(request))
                answer = self.take(Sent(install, body, media, meter, _agent_of(request)))
        except IngestError as error:
            raise ApiProblem(error.code, error.detail, retry_after_s=error.retry_after_s) from None
        for name, value in meter.headers().items():
            answer[name] = value
        return answer

    def take(self, sent: Sent) -> HttpResponse:
        """The answer to one request. Errors: ApiProblem, IngestError."""
        raise NotImplementedError

    def answer(self, media: str, rejected_count: int = 0, message: str = "") -> HttpResponse:
        """Success, with what was rejected if anything was."""
        content = answers.success(media, self.signal, rejected_count, message)
        return HttpResponse(content, content_type=media, headers={"Cache-Control": "no-store"})


class TracesView(OtlpView):
    """Takes in spans; they are in the database when the answer leaves."""

    signal = answers.TRACES

    @extend_schema(operation_id="otlp_traces", request=_REQUEST, responses=_RESPONSES)
    def post(self, request: Request) -> HttpResponse:
        """Answer with an ExportTraceServiceResponse."""
        return self.post_signal(request)

    def take(self, sent: Sent) -> HttpResponse:
        """Store the spans; a known batch is answered whatever the install has sent lately."""
        decoded = DECODERS[sent.media](sent.body.data)
        if not decoded.received:
            return self.answer(sent.media)
        install = sent.install
        header = BatchHeader(
            install_id=install.pk,
            batch_id=batch_id_of(install.pk, sent.media, sent.body),
            plane=PLANE,
            source=IngestBatch.Source.OTLP,
            client=sent.client,
            group_id=install.group_id or NO_GROUP,
        )
        row_count, meter = decoded.received, sent.meter
        if not meter.take_rows(row_count, wire_bytes=sent.body.wire_bytes) and not is_known(header):
            meter.refuse_rows(row_count)
        outcome = receive_spans(header, sent.body, decoded)
        count_outcome(outcome, sent.body, plane=PLANE)
        if outcome.is_replay:
            meter.repeated()
        counts = _rejected(outcome.receipt)
        return self.answer(sent.media, sum(counts.values()), answers.rejection_text(counts))


class _NotTakenView(OtlpView):
    """A signal this console has no place for: all of it is rejected, which no exporter repeats."""

    count: ClassVar[Callable[..., int]]

    def take(self, sent: Sent) -> HttpResponse:
        """A partial success that rejects everything and says how to stop sending it."""
        count = type(self).count(sent.body.data, is_json=sent.media == MEDIA_JSON)
        name = self.signal.name
        return self.answer(sent.media, count, NOT_TAKEN.format(name=name, upper=name.upper()))


class LogsView(_NotTakenView):
    """Rejects log records; nothing of them is stored."""

    signal = answers.LOGS
    count = staticmethod(count_logs)

    @extend_schema(operation_id="otlp_logs", request=_REQUEST, responses=_RESPONSES)
    def post(self, request: Request) -> HttpResponse:
        """Answer with an ExportLogsServiceResponse."""
        return self.post_signal(request)


class MetricsView(_NotTakenView):
    """Rejects data points; nothing of them is stored."""

    signal = answers.METRICS
    count = staticmethod(count_points)

    @extend_schema(operation_id="otlp_metrics", request=_REQUEST, responses=_RESPONSES)
    def post(self, request: Request) -> HttpResponse:
        """Answer with an ExportMetricsServiceResponse."""
        return self.post_signal(request)


def status_handler(error: Exception, context: dict[str, Any]) -> HttpResponse:
    """The answer to an error: status and headers as everywhere, the body a google.rpc.Status."""
    problem = problem_handler(error, context)
    document = json.loads(problem.content)
    request = context.get("request")
    plain = request._request if isinstance(request, Request) else None  # noqa: SLF001 -- DRF has no other way
    media = (
        MEDIA_PROTOBUF if plain is not None and _type_of(plain) == MEDIA_PROTOBUF else MEDIA_JSON
    )
    detail = document["detail"]
    message = f"{document['code']}: {document['title']}" + (f" ({detail})" if detail else "")
    headers = {
        name: value for name, value in problem.headers.items() if name.lower() != "content-type"
    }
    return HttpResponse(
        answers.status(media, problem.status_code, message),
        status=problem.status_code,
        content_type=media,
        headers=headers,
    )


def _check_plane(install: Install) -> None:
    if not is_open(PLANE, consent={}, bound=mandatory_values(install)):
        count_refusal(install.pk, PLANE)
        raise IngestError("plane_closed", "the local plane is closed for this install")


def _type_of(request: HttpRequest | Request) -> str:
    return request.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def _media_of(request: Request) -> str:
    media = _type_of(request)
    if media not in {MEDIA_PROTOBUF, MEDIA_JSON}:
        raise IngestError("unsupported_media_type", f"send {MEDIA_PROTOBUF} or {MEDIA_JSON}")
    return media


def _encoding_of(request: Request) -> str:
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower() or "identity"
    if encoding not in ENCODINGS:
        raise IngestError("unsupported_encoding", f"use one of {', '.join(ENCODINGS)}")
    return encoding


def _agent_of(request: Request) -> str:
    return request.headers.get("User-Agent", "")


def _read(stream: Readable, expected_bytes: int | None, encoding: str) -> Body:
    try:
        return read_body(stream, encoding, expected_bytes=expected_bytes)
    except (UnreadablePostError, OSError):
        raise IngestError("malformed_body", "the body was cut short") from None


def _rejected(receipt: Mapping[str, object]) -> dict[str, int]:
    counts = receipt.get("rejected_counts")
    assert isinstance(counts, dict)  # noqa: S101 -- a receipt of ours
    return {str(code): int(count) for code, count in counts.items()}
