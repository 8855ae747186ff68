"""One log line a request that was refused or failed: by its route, never by what was asked for."""

from __future__ import annotations

from django.http import HttpRequest
from django_structlog.middlewares import RequestMiddleware

from fleet.watch.middleware import route_of


class RequestLogMiddleware(RequestMiddleware):
    """django-structlog's, which would write path and query: either may hold what is secret."""

    @staticmethod
    def format_request(request: HttpRequest) -> str:
        """Verb and route."""
        return f"{_verb(request)} {route_of(request)}"


def _verb(request: HttpRequest) -> str:
    from fleet.watch.figures import METHODS

    return request.method if request.method in METHODS else "other"
