"""BatchView: POST /api/v1/telemetry."""

from __future__ import annotations

from django.http.request import UnreadablePostError
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework.exceptions import MethodNotAllowed
from rest_framework.parsers import BaseParser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from agent_client.contract import wire
from fleet.api.authentication import InstallTokenAuthentication, install_of
from fleet.api.errors import ApiProblem
from fleet.api.permissions import HasScope
from fleet.lib.clock import now
from fleet.models import Install, PolicyTarget
from fleet.policy.effective import mandatory_of
from fleet.policy.serve import ETAG_NONE, served_etag, target_of
from telemetry.api.counting import count_outcome
from telemetry.api.limits import Meter, check_hold, rows_in
from telemetry.api.openapi import PUSH_HEADERS, RECEIPT
from telemetry.api.parsers import body_stream
from telemetry.ingest.decode import Body, IngestError, Readable, read_body
from telemetry.ingest.gate import count_refusal, plane_is_open, scrubs_pii
from telemetry.ingest.headers import PushHeaders, date_skew_ms, read_headers
from telemetry.ingest.receive import BatchHeader, is_known, receive_batch
from telemetry.models.rollups import NO_GROUP


class BatchView(APIView):
    """Takes in one batch of telemetry.

    Checks, in this order: method, credential, scope, content type, encoding, headers, plane,
    rate limits, body. The receipt leaves after the commit.
    """

    authentication_classes = [InstallTokenAuthentication]
    permission_classes = [HasScope]
    parser_classes: list[type[BaseParser]] = []  # the body is a stream, read last
    required_scope = wire.SCOPE_PUSH

    http_method_names = ["post"]

    def initial(self, request: Request, *args: object, **kwargs: object) -> None:
        """Refuse a foreign method, and who was told to wait, before anybody is asked who he is."""
        if request.method != "POST":
            raise MethodNotAllowed(str(request.method))
        check_hold(request.headers.get("Authorization", ""))
        super().initial(request, *args, **kwargs)

    @extend_schema(
        operation_id="push_batch",
        parameters=PUSH_HEADERS,
        request={wire.MEDIA_NDJSON: OpenApiTypes.BINARY},
        responses={200: RECEIPT},
    )
    def post(self, request: Request) -> Response:
        """Answer with the receipt."""
        install = install_of(request)
        try:
            headers = read_headers(request.headers)
            target = target_of(install)
            _check_plane(install, headers, target)
            stream, expected_bytes = body_stream(request._request)  # noqa: SLF001 -- DRF has no other way to the stream
            meter = Meter(install.pk, authorization=request.headers.get("Authorization", ""))
            meter.take_bytes(expected_bytes)
            with meter.turn():
                body = _read(stream, expected_bytes, headers)
                header = _batch_header(install, request, headers, target)
                _take_rows(meter, header, body)
                outcome = receive_batch(header, body)
        except IngestError as error:
            raise ApiProblem(error.code, error.detail, retry_after_s=error.retry_after_s) from None
        count_outcome(outcome, body, plane=headers.plane)
        if outcome.is_replay:
            meter.repeated()
        return Response(outcome.receipt, headers=meter.headers())


def _take_rows(meter: Meter, header: BatchHeader, body: Body) -> None:
    """Charge the rows. One that is known already is answered whatever the level is."""
    row_count = rows_in(body.data)
    if not meter.take_rows(row_count, wire_bytes=body.wire_bytes) and not is_known(header):
        meter.refuse_rows(row_count)


def _check_plane(install: Install, headers: PushHeaders, target: PolicyTarget | None) -> None:
    bound = mandatory_of(target)
    if not plane_is_open(install, headers.plane, consent=headers.consent, bound=bound):
        count_refusal(install.pk, headers.plane)
        raise IngestError("plane_closed", f"the {headers.plane} plane is closed for this install")


def _read(stream: Readable, expected_bytes: int | None, headers: PushHeaders) -> Body:
    try:
        body = read_body(stream, headers.encoding, expected_bytes=expected_bytes)
    except (UnreadablePostError, OSError):
        raise IngestError("malformed_body", "the body was cut short") from None
    if headers.digest and headers.digest != body.wire_sha256:
        raise IngestError("digest_mismatch", "the body is not what Content-Digest says")
    return body


def _batch_header(
    install: Install, request: Request, headers: PushHeaders, target: PolicyTarget | None
) -> BatchHeader:
    etag = served_etag(install, moment=now(), target=target) if target else ETAG_NONE
    return BatchHeader(
        install_id=install.pk,
        batch_id=headers.batch_id,
        plane=headers.plane,
        schema_version=headers.schema_version,
        client=request.headers.get("User-Agent", ""),
        consent=headers.consent,
        losses=headers.losses,
        first_seq=headers.first_seq,
        last_seq=headers.last_seq,
        policy_etag=etag,
        group_id=install.group_id or NO_GROUP,
        clock_skew_ms=date_skew_ms(request.headers.get("Date", "")),
        content_pii=headers.plane != "trajectories" or scrubs_pii(install),
    )
