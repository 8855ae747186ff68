"""WatchMiddleware: the outermost one; answers probes and scrapes, counts and times all the rest."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from django.http import HttpRequest
from django.http.response import HttpResponseBase

from fleet.watch.answers import answer_of
from fleet.watch.figures import count_request
from fleet.watch.traced import traced_request

type _View = Callable[[HttpRequest], HttpResponseBase]

CONSOLE: Final = "(console)"
"""All pages for people together: which of them is open is nobody's metric."""
STATIC: Final = "(static)"
UNKNOWN: Final = "(none)"


class WatchMiddleware:
    """Stands first: what it measures is what a caller waits for, less the web server."""

    def __init__(self, get_response: _View) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """The probe's answer, or the console's, counted."""
        answer = answer_of(request)
        if answer is not None:
            return answer
        began_s = time.perf_counter()
        with traced_request(request) as traced:
            response = self._get_response(request)
            route, method = route_of(request), request.method or ""
            traced.end(route=route, method=method, status=response.status_code)
        count_request(
            route=route,
            method=method,
            status=response.status_code,
            took_s=time.perf_counter() - began_s,
        )
        return response


def route_of(request: HttpRequest) -> str:
    """The URLconf's own pattern, never the path that was asked for: there are few of them."""
    match = request.resolver_match
    if match is None:
        return STATIC if request.path_info.startswith("/static/") else UNKNOWN
    if match.app_name == "admin" or "admin" in match.namespaces:
        return CONSOLE
    if match.url_name == "fleet-api-not-found":
        return UNKNOWN
    return f"/{match.route}"
