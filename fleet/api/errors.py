"""Every API error as problem+json (RFC 9457), with a code of the contract."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

import structlog
from django.core.exceptions import PermissionDenied
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse
from rest_framework import exceptions
from rest_framework.request import Request
from rest_framework.views import set_rollback

from agent_client.contract.wire import MEDIA_PROBLEM, PROBLEM_CODES, PROBLEM_TYPE_BASE
from fleet.middleware import request_id_of

logger = structlog.get_logger(__name__)
DEFAULT_RETRY_AFTER_S: Final = 5
"""429 and 503 always say when to come back; this is for those that do not know better."""


class ApiProblem(exceptions.APIException):
    """An error answer; raise it anywhere in a view. ``detail`` never quotes the payload.

    Errors: KeyError for a code the contract does not know.
    """

    def __init__(
        self,
        code: str,
        detail: str = "",
        *,
        retry_after_s: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status_code, self.title = PROBLEM_CODES[code]
        self.code = code
        self.text = detail
        self.headers = dict(headers or {})
        if retry_after_s is None and self.status_code in {429, 503}:
            retry_after_s = DEFAULT_RETRY_AFTER_S
        if retry_after_s is not None:
            self.headers["Retry-After"] = str(max(1, retry_after_s))
        if self.status_code == 401:
            self.headers["WWW-Authenticate"] = 'Bearer realm="hermes-fleet"'


def problem_response(problem: ApiProblem, request: HttpRequest | Request | None) -> HttpResponse:
    """The answer of a problem."""
    plain = request._request if isinstance(request, Request) else request  # noqa: SLF001  # DRF offers no other way
    document = {
        "type": PROBLEM_TYPE_BASE + problem.code,
        "title": problem.title,
        "status": problem.status_code,
        "detail": problem.text,
        "instance": request_id_of(plain) if plain is not None else "",
        "code": problem.code,
    }
    answer = HttpResponse(
        json.dumps(document).encode("utf-8"),
        status=problem.status_code,
        content_type=MEDIA_PROBLEM,
        headers={"Cache-Control": "no-store", **problem.headers},
    )
    if problem.status_code == 429:
        # One line of request_finished is enough: who floods us must not flood the log twice over.
        answer._has_been_logged = True  # type: ignore[attr-defined]  # noqa: SLF001  # Django's own mark
    return answer


def problem_handler(error: Exception, context: Mapping[str, object]) -> HttpResponse:
    """DRF's exception handler: everything leaves as a problem, a bug as ``internal``."""
    problem = _problem_of(error)
    if problem.code in {"internal", "unavailable"}:
        logger.error("api_failed", code=problem.code, exc_info=error)
    set_rollback()
    request = context.get("request")
    return problem_response(problem, request if isinstance(request, Request) else None)


def _problem_of(error: Exception) -> ApiProblem:
    if isinstance(error, ApiProblem):
        return error
    if isinstance(error, exceptions.ValidationError):
        return ApiProblem("invalid", _fields_of(error))
    if isinstance(error, exceptions.ParseError):
        return ApiProblem("malformed_body")
    if isinstance(error, exceptions.MethodNotAllowed):
        return ApiProblem("method_not_allowed")
    if isinstance(error, exceptions.UnsupportedMediaType):
        return ApiProblem("unsupported_media_type")
    if isinstance(error, exceptions.AuthenticationFailed | exceptions.NotAuthenticated):
        return ApiProblem("credential_missing")
    if isinstance(error, exceptions.PermissionDenied | PermissionDenied):
        return ApiProblem("forbidden")
    if isinstance(error, exceptions.Throttled):
        return ApiProblem("rate_limited", retry_after_s=int(getattr(error, "wait", None) or 1) + 1)
    if isinstance(error, exceptions.NotFound | Http404):
        return ApiProblem("not_found")
    if isinstance(error, OperationalError | InterfaceError):
        return ApiProblem("unavailable")
    return ApiProblem("internal")


def _fields_of(error: exceptions.ValidationError) -> str:
    """Which fields were refused; their names are ours, their values stay out."""
    detail = error.detail
    names = sorted(detail) if isinstance(detail, dict) else []
    return "Refused: " + ", ".join(names) if names else ""
