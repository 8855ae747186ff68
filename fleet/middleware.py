"""Small middlewares: an id on every answer, no NUL in an address, and the admin's own CSP."""

from __future__ import annotations

from collections.abc import Callable
from uuid import uuid4

from django.conf import settings
from django.http import HttpRequest, HttpResponseBadRequest
from django.http.response import HttpResponseBase

type _View = Callable[[HttpRequest], HttpResponseBase]


class RequestIdMiddleware:
    """Gives each request an id of ours: in the logs, the audit row and ``X-Request-Id``.

    A caller's own header is overwritten, so that nobody can write into another's trail.
    """

    def __init__(self, get_response: _View) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Answer the request with its id in a header."""
        request_id = uuid4().hex
        request.META["HTTP_X_REQUEST_ID"] = request_id
        response = self._get_response(request)
        response.headers["X-Request-Id"] = request_id
        return response


def request_id_of(request: HttpRequest) -> str:
    """The id RequestIdMiddleware gave; "" outside of it."""
    return str(request.META.get("HTTP_X_REQUEST_ID", ""))


class NoNulMiddleware:
    """Refuses a query with a NUL: no text of a database can hold one, and none is meant."""

    def __init__(self, get_response: _View) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """400, or what the view answers."""
        if "%00" in str(request.META.get("QUERY_STRING", "")):
            return HttpResponseBadRequest("the address has a NUL in it", content_type="text/plain")
        return self._get_response(request)


class AdminCspMiddleware:
    """Sets the themed pages' policy, which alone allows ``unsafe-eval``.

    It stands right inside ContentSecurityPolicyMiddleware, which writes the header on the way
    out, after the mark.
    """

    def __init__(self, get_response: _View) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Mark answers of the admin site; a view's own override wins."""
        response = self._get_response(request)
        match = request.resolver_match
        if match is not None and match.app_name == "admin" and not hasattr(response, "_csp_config"):
            response._csp_config = settings.FLEET_ADMIN_CSP  # type: ignore[attr-defined]  # noqa: SLF001  # Django's own hook, as csp_override sets it
        return response
