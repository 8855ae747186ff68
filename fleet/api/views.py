"""The agents' endpoints: each parses, calls one function and answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.permissions import AllowAny
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from agent_client.contract.canonical import digest_of
from agent_client.contract.policy_doc import CheckIn
from agent_client.contract.tokens import PREFIX_ENROLL
from agent_client.contract.wire import (
    MEDIA_DSSE,
    SCOPE_POLICY,
    SCOPE_REPORT,
    Discovery,
)
from fleet.api import serializers, throttling
from fleet.api.authentication import (
    InstallTokenAuthentication,
    bearer_token,
    check_client,
    install_of,
)
from fleet.api.errors import ApiProblem
from fleet.api.parsers import BoundedJsonParser
from fleet.api.permissions import HasScope
from fleet.enroll import (
    Applicant,
    EnrollRefused,
    Waiting,
    enroll_install,
    propose_credential,
)
from fleet.lib.addresses import client_address
from fleet.lib.clock import now, now_ns
from fleet.models import InstallCredential
from fleet.policy.ack import SequenceFork, record_checkin
from fleet.policy.polls import MEMORY, proof_of
from fleet.policy.serve import ETAG_NONE, assignment_for, bundle_for
from fleet.policy.signing import current_root, fleet_id, seal_bundle
from fleet.watch.figures import count_poll

ENROLL_POLL_S = 5
NO_STORE = {"Cache-Control": "no-store"}


class OneRenderer(BaseContentNegotiation):
    """Answers in the endpoint's own media type, whatever Accept says: there is no other."""

    def select_parser(self, request: Request, parsers: Iterable[BaseParser]) -> BaseParser | None:
        """The first parser that takes the content type."""
        kind = (request.content_type or "").partition(";")[0].strip().lower()
        return next((parser for parser in parsers if parser.media_type == kind), None)

    def select_renderer(
        self,
        request: Request,  # DRF's signature
        renderers: Iterable[BaseRenderer],
        format_suffix: str | None = None,
    ) -> tuple[BaseRenderer, str]:
        """The only renderer."""
        renderer = next(iter(renderers))
        return renderer, str(renderer.media_type)


class ApiView(APIView):
    """Base of all endpoints: no negotiation, small strict JSON in."""

    content_negotiation_class = OneRenderer
    parser_classes = [BoundedJsonParser]


class AgentView(ApiView):
    """Base of the endpoints an enrolled install calls; each names its ``required_scope``."""

    authentication_classes = [InstallTokenAuthentication]
    permission_classes = [HasScope]
    required_scope = ""


class PublicView(ApiView):
    """Base of the endpoints without authentication; still counted by address."""

    authentication_classes: Sequence[Any] = []  # Any: DRF's own type
    permission_classes = [AllowAny]

    def initial(self, request: Request, *args: object, **kwargs: object) -> None:
        """Count the request before anything else."""
        throttling.check_address(request._request)  # noqa: SLF001  # DRF offers no other way
        super().initial(request, *args, **kwargs)


class DiscoveryView(PublicView):
    """``GET /.well-known/hermes-fleet``."""

    @extend_schema(responses=serializers.DiscoverySerializer, auth=[])
    def get(self, request: Request) -> Response:  # DRF's signature
        """What an agent needs before it enrolls."""
        found = Discovery(
            fleet_id=fleet_id(),
            api_base=f"{settings.FLEET_PUBLIC_URL}/api/v1",
            server_time_ns=now_ns(),
            poll_seconds=settings.FLEET_POLL_SECONDS,
            min_client=settings.FLEET_MIN_CLIENT,
            root_fingerprint=current_root().fingerprint,
        )
        return Response(found.to_dict(), headers=NO_STORE)


class EnrollView(PublicView):
    """``POST /api/v1/enroll``."""

    @extend_schema(
        request=serializers.EnrollRequestSerializer,
        responses={201: serializers.EnrolledSerializer, 202: serializers.WaitingSerializer},
        auth=[],
    )
    def post(self, request: Request) -> Response:
        """Exchange an enrollment token for the install's own credential."""
        plain = request._request  # noqa: SLF001  # DRF offers no other way
        throttling.check_enroll(plain)
        check_client(plain)
        token = bearer_token(plain, PREFIX_ENROLL, unknown="token_unknown")
        body = serializers.EnrollRequestSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        data: dict[str, Any] = body.validated_data  # Any: DRF's own type
        applicant = Applicant(
            install_id=data["install_id"],
            machine_id=data["machine_id"],
            address=client_address(plain),
            facts=serializers.facts_of(data),
        )
        try:
            outcome = enroll_install(token, applicant)
        except EnrollRefused as error:
            raise ApiProblem(error.code, error.detail) from error
        if isinstance(outcome, Waiting):
            waiting = {
                "status": "pending",
                "user_code": outcome.user_code,
                "poll_seconds": ENROLL_POLL_S,
            }
            return Response(waiting, status=202, headers=NO_STORE)
        install = outcome.install
        answer = {
            "install_id": str(install.pk),
            "credential": outcome.credential,
            "fleet_id": fleet_id(),
            "group": install.group.name if install.group else None,
            "scopes": install.credentials.get(revoked_at=None).scopes,
            "server_time_ns": now_ns(),
            "poll_seconds": settings.FLEET_POLL_SECONDS,
        }
        return Response(answer, status=201, headers=NO_STORE)


class CredentialsView(AgentView):
    """``POST /api/v1/installs/self/credentials``."""

    required_scope = SCOPE_REPORT

    @extend_schema(request=None, responses={201: serializers.CredentialSerializer})
    def post(self, request: Request) -> Response:
        """A candidate credential; its first use ends the old one, without it nothing changes."""
        text = propose_credential(install_of(request))
        return Response({"credential": text}, status=201, headers=NO_STORE)


class PolicyRootView(PublicView):
    """``GET /api/v1/policy/root``."""

    @extend_schema(responses={(200, MEDIA_DSSE): serializers.EnvelopeSerializer}, auth=[])
    def get(self, request: Request) -> HttpResponse:
        """The signed root document."""
        root = current_root()
        headers = {"Cache-Control": "public, max-age=300"}
        return _envelope(request, root.etag, root.envelope, headers)


class PolicyAssignmentView(AgentView):
    """``GET /api/v1/policy/assignment``."""

    required_scope = SCOPE_POLICY

    @extend_schema(
        responses={
            (200, MEDIA_DSSE): serializers.EnvelopeSerializer,
            204: OpenApiResponse(description="No policy was ever published."),
            304: OpenApiResponse(description="Nothing has changed."),
        }
    )
    def get(self, request: Request) -> HttpResponse:
        """Which bundle this install holds; 204 before the first publish, 304 when unchanged."""
        served = assignment_for(install_of(request), moment=now())
        _remember(request, served.etag if served else ETAG_NONE)
        headers = {"Cache-Control": "private, no-cache"}
        if served is None:
            status = 304 if _is_known(request, ETAG_NONE) else 204
            answer = HttpResponse(status=status, headers={**headers, "ETag": f'"{ETAG_NONE}"'})
        else:
            answer = _envelope(request, served.etag, served.envelope, headers)
        count_poll(status=answer.status_code, is_cached=False)
        return answer


class PolicyBundleView(AgentView):
    """``GET /api/v1/policy/bundles/{sha256}``."""

    required_scope = SCOPE_POLICY

    @extend_schema(responses={(200, MEDIA_DSSE): serializers.EnvelopeSerializer})
    def get(self, request: Request, sha256: str) -> HttpResponse:
        """A bundle this install was assigned; any other is not found."""
        bundle = bundle_for(install_of(request), sha256)
        if bundle is None:
            raise ApiProblem("not_found")
        headers = {"Cache-Control": "private, max-age=31536000, immutable"}
        return _envelope(request, sha256, seal_bundle(bundle.payload), headers)


class CheckInView(AgentView):
    """``POST /api/v1/checkin``."""

    required_scope = SCOPE_REPORT

    @extend_schema(
        request=serializers.CheckInSerializer, responses=serializers.CheckInAckSerializer
    )
    def post(self, request: Request) -> Response:
        """Take what an install reports of itself."""
        body = serializers.CheckInSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        checkin = CheckIn.from_dict(body.validated_data)
        try:
            ack = record_checkin(
                install_of(request), checkin, body_sha256=digest_of(request.data), moment=now()
            )
        except SequenceFork as error:
            raise ApiProblem("sequence_fork", str(error)) from error
        answer = {
            "ack": ack,
            "server_time_ns": now_ns(),
            "poll_seconds": settings.FLEET_POLL_SECONDS,
            "actions": [],
        }
        return Response(answer, headers=NO_STORE)


class NotFoundView(PublicView):
    """Every path below /api/ and /.well-known/ that is nobody's: a problem, not a login page."""

    schema = None

    def initial(self, request: Request, *args: object, **kwargs: object) -> None:
        """Refuse whatever the method is."""
        super().initial(request, *args, **kwargs)
        raise ApiProblem("not_found")

    def get(self, request: HttpRequest, **kwargs: object) -> HttpResponse:
        """Never reached; it makes the view answer GET."""
        raise ApiProblem("not_found")


def _remember(request: Request, etag: str) -> None:
    """Let the process answer the next poll of this credential by itself, if nothing changes."""
    credential: object = request.auth
    if isinstance(credential, InstallCredential):
        token = request.headers.get("Authorization", "").partition(" ")[2].strip()
        address = client_address(request._request)  # noqa: SLF001  # DRF offers no other way
        MEMORY.remember(proof_of(token), credential, etag, address=address)


def _is_known(request: Request, etag: str) -> bool:
    """Whether If-None-Match names this entity (RFC 9110, 13.1.2: weak comparison)."""
    tags = request.headers.get("If-None-Match", "").split(",")
    return any(tag.strip().removeprefix("W/") in {f'"{etag}"', "*"} for tag in tags)


def _envelope(
    request: Request, etag: str, envelope: bytes, headers: dict[str, str]
) -> HttpResponse:
    headers = {**headers, "ETag": f'"{etag}"'}
    if _is_known(request, etag):
        return HttpResponse(status=304, headers=headers)
    return HttpResponse(envelope, content_type=MEDIA_DSSE, headers=headers)
