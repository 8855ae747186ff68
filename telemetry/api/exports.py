"""The operator's exports under /api/v1/exports: order, look, cancel, list files; and downloads.

For people who are signed in (session and CSRF token), with the permissions of the pages. A download
needs its signed link only, unless there is content in it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, cast

from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import PermissionsMixin
from django.http import HttpResponse, HttpResponseBase, StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.authentication import SessionAuthentication
from rest_framework.permissions import AllowAny, BasePermission
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from fleet.api.errors import ApiProblem
from fleet.api.views import ApiView
from telemetry.api.exports_serializers import (
    ExportFilesSerializer,
    ExportListSerializer,
    ExportOrderSerializer,
    ExportSerializer,
)
from telemetry.exports import links
from telemetry.exports.allowed import DOWNLOAD
from telemetry.exports.choice import Choice, ChoiceRefused
from telemetry.exports.faults import ExportFault, ExportRefused
from telemetry.exports.orders import ADD_EXPORT, Order, cancel_job, order_job
from telemetry.models import ExportDestination, ExportJob

PAGE_JOBS: Final = 50
VIEW: Final = "telemetry.view_exportjob"
CANCEL: Final = "telemetry.cancel_exportjob"
NO_STORE: Final = {"Cache-Control": "no-store"}
_RANGE: Final = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)


class MayDo(BasePermission):
    """A signed-in member of staff with the view's permission for the method; default deny."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        """Whether it is there."""
        needed = getattr(view, "needs", {}).get(request.method)
        user: object = request.user
        return (
            isinstance(user, PermissionsMixin)
            and getattr(user, "is_staff", False)
            and getattr(user, "is_active", False)
            and needed is not None
            and user.has_perm(needed)
        )


class PersonView(ApiView):
    """Base of the views for people; ``needs`` names a permission by method."""

    authentication_classes = [SessionAuthentication]
    permission_classes = [MayDo]
    needs: dict[str, str] = {}


class ExportsView(PersonView):
    """``/api/v1/exports``."""

    needs = {"GET": VIEW, "POST": ADD_EXPORT}

    @extend_schema(
        operation_id="exports_list",
        parameters=[
            OpenApiParameter(
                "before", OpenApiTypes.INT64, description="Only exports with a smaller id."
            )
        ],
        responses=ExportListSerializer,
    )
    def get(self, request: Request) -> Response:
        """The newest exports, fifty a page."""
        text = request.query_params.get("before", "")
        jobs = ExportJob.objects.select_related("destination").order_by("-pk")
        if text:
            if not text.isascii() or not text.isdecimal() or len(text) > 18:
                raise ApiProblem("invalid", "Refused: before")
            jobs = jobs.filter(pk__lt=int(text))
        found = list(jobs[: PAGE_JOBS + 1])
        shown = found[:PAGE_JOBS]
        body = {
            "exports": [shown_job(job) for job in shown],
            "next_before": shown[-1].pk if len(found) > PAGE_JOBS else None,
        }
        return Response(body, headers=NO_STORE)

    @extend_schema(
        operation_id="exports_create",
        request=ExportOrderSerializer,
        responses={201: ExportSerializer},
    )
    def post(self, request: Request) -> Response:
        """Order an export."""
        body = ExportOrderSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        data: dict[str, Any] = body.validated_data  # Any: DRF's own type
        try:
            job = order_job(_order(data), actor=person_of(request))
        except (ChoiceRefused, ExportRefused) as error:
            raise ApiProblem("invalid", str(error)) from None
        return Response(shown_job(job), status=201, headers=NO_STORE)


class ExportView(PersonView):
    """``/api/v1/exports/{id}``."""

    needs = {"GET": VIEW}

    @extend_schema(operation_id="exports_retrieve", responses=ExportSerializer)
    def get(self, request: Request, pk: int) -> Response:
        """One export and how far it is."""
        return Response(shown_job(job_of(pk)), headers=NO_STORE)


class ExportCancelView(PersonView):
    """``/api/v1/exports/{id}/cancel``."""

    needs = {"POST": CANCEL}

    @extend_schema(operation_id="exports_cancel", request=None, responses=ExportSerializer)
    def post(self, request: Request, pk: int) -> Response:
        """Ask it to stop; nothing happens to one that is over."""
        job_of(pk)
        cancel_job(pk, person_of(request))
        return Response(shown_job(job_of(pk)), headers=NO_STORE)


class ExportFilesView(PersonView):
    """``/api/v1/exports/{id}/files``."""

    needs = {"GET": DOWNLOAD}

    @extend_schema(operation_id="exports_files", responses=ExportFilesSerializer)
    def get(self, request: Request, pk: int) -> Response:
        """The files of a result, each with a link that is good for a while."""
        job = job_of(pk)
        if not links.may_download(job, person_of(request)):
            raise ApiProblem("forbidden")
        is_done = job.state == ExportJob.State.DONE
        files = job.files.order_by("dataset", "part") if is_done else []
        body = {
            "manifest": links.signed_manifest_path(job) if is_done else None,
            "archive": links.signed_zip_path(job) if is_done else None,
            "files": [
                {
                    "name": file.name,
                    "dataset": file.dataset,
                    "part": file.part,
                    "row_count": file.row_count,
                    "size_bytes": file.size_bytes,
                    "sha256": file.sha256,
                    "link": links.signed_path(file),
                }
                for file in files
            ],
        }
        return Response(body, headers=NO_STORE)


class DownloadView(ApiView):
    """``/api/v1/exports/download/{token}``."""

    authentication_classes = [SessionAuthentication]
    permission_classes = [AllowAny]

    @extend_schema(
        operation_id="exports_download",
        parameters=[OpenApiParameter("Range", OpenApiTypes.STR, OpenApiParameter.HEADER)],
        responses={
            (200, "application/octet-stream"): OpenApiTypes.BINARY,
            (206, "application/octet-stream"): OpenApiTypes.BINARY,
        },
        auth=[],
    )
    def get(self, request: Request, token: str) -> HttpResponseBase:
        """Hand out one file, or a range of it."""
        person = request.user if isinstance(request.user, AbstractBaseUser) else None
        try:
            served = links.check(token, person)
        except links.LinkRefused:
            raise ApiProblem("not_found", "The link is over, or is none.") from None
        except links.LinkForbidden:
            raise ApiProblem("forbidden", "Content needs its permission and a session.") from None
        except ExportFault as fault:
            raise ApiProblem("unavailable", fault.words) from None
        asked = _range_of(request.headers.get("Range", ""), served, request)
        if asked == UNSATISFIABLE:
            return HttpResponse(
                status=416,
                headers={**NO_STORE, "Content-Range": f"bytes */{served.size_bytes}"},
                content_type="application/octet-stream",
            )
        start, end = asked or (0, served.size_bytes)
        try:
            stream = served.open(start, end)
        except ExportFault as fault:
            raise ApiProblem("unavailable", fault.words) from None
        links.record_download(served, person, is_later_part=start > 0)
        response = StreamingHttpResponse(
            stream, status=206 if asked else 200, content_type=served.media
        )
        for name, value in _headers(served, asked).items():
            response[name] = value
        return response


UNSATISFIABLE: Final = (-1, -1)


def _range_of(text: str, served: links.Served, request: Request) -> tuple[int, int] | None:
    """``[start, end)`` of a single range; None: the whole. RFC 9110 §14: what is odd is ignored."""
    size = served.size_bytes
    match = _RANGE.fullmatch(text.strip())
    condition = request.headers.get("If-Range")
    if match is None or size is None or (condition and condition != _etag(served)):
        return None
    first, last = match.groups()
    if not first and not last:
        return None
    if not first:
        start, end = max(0, size - int(last)), size
        return (start, end) if int(last) and size else UNSATISFIABLE
    start, end = int(first), min(size, int(last) + 1) if last else size
    if last and int(last) < start:
        return None
    return (start, end) if start < size else UNSATISFIABLE


def _etag(served: links.Served) -> str:
    return f'"{served.sha256}"'


def _headers(served: links.Served, asked: tuple[int, int] | None) -> dict[str, str]:
    headers = {
        "Cache-Control": "private, no-store",
        # Names are ours: letters, digits, dots and hyphens.
        "Content-Disposition": f'attachment; filename="{served.name}"',
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; sandbox",
    }
    if served.size_bytes is not None:
        start, end = asked or (0, served.size_bytes)
        headers |= {
            "Accept-Ranges": "bytes",
            "Content-Length": str(end - start),
            "ETag": _etag(served),
        }
        if asked:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{served.size_bytes}"
    return headers


def person_of(request: Request) -> AbstractBaseUser:
    """Who asks. Errors: ApiProblem forbidden."""
    user: object = request.user
    if not isinstance(user, AbstractBaseUser):
        raise ApiProblem("forbidden")
    return user


def job_of(pk: int) -> ExportJob:
    """The export. Errors: ApiProblem not_found."""
    job = ExportJob.objects.select_related("destination").filter(pk=pk).first()
    if job is None:
        raise ApiProblem("not_found")
    return job


def _order(data: dict[str, Any]) -> Order:  # Any: DRF's own type
    """Errors: ChoiceRefused, ExportRefused."""
    name = data.get("destination") or ""
    destination = ExportDestination.objects.filter(name=name).first() if name else None
    if name and destination is None:
        raise ExportRefused("There is no destination of that name.")
    return Order(
        datasets=tuple(data["datasets"]),
        fmt=data["format"],
        start_at=data["from"],
        end_at=data["to"],
        choice=Choice.from_dict(data.get("filter") or {}),
        destination=destination,
        keep_days=data.get("keep_days", 7),
        reason=data.get("reason", ""),
        is_gzipped=data.get("is_gzipped", False),
    )


def shown_job(job: ExportJob) -> dict[str, object]:
    """An export as the API shows it."""
    time: Callable[[object], object] = lambda value: value and cast("Any", value).isoformat()  # noqa: E731
    return {
        "id": job.pk,
        "uid": str(job.uid),
        "state": job.state,
        "datasets": job.datasets,
        "format": job.fmt,
        "is_gzipped": job.is_gzipped,
        "filter": job.chosen,
        "from": time(job.start_at),
        "to": time(job.end_at),
        "destination": job.destination.name if job.destination else None,
        "ordered_by": job.actor,
        "reason": job.reason,
        "created_at": time(job.created_at),
        "started_at": time(job.started_at),
        "finished_at": time(job.finished_at),
        "expires_at": time(job.expires_at),
        "is_cancel_asked": job.cancel_asked_at is not None,
        "total_count": job.total_count,
        "done_count": job.done_count,
        "done_bytes": job.done_bytes,
        "redacted_count": job.redacted_count,
        "attempt_count": job.attempt_count,
        "next_attempt_at": time(job.not_before),
        "last_error": job.last_error,
        "manifest_sha256": job.manifest_sha256,
    }
