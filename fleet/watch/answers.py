"""The answers for whoever watches: /livez, /readyz and /metrics, before any other middleware.

They look at no Host, no session and no TLS redirect: a probe comes by address, over plain HTTP,
from the machine or the cluster itself. None of them says anything that is secret.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from django.http import HttpRequest, HttpResponse

from fleet.api.errors import ApiProblem, problem_response
from fleet.watch import ready, shared
from fleet.watch.access import may_read_metrics
from fleet.watch.figures import REGISTRY
from fleet.watch.state import StateCollector

RETRY_AFTER_S: Final = 2
_NO_STORE: Final = {"Cache-Control": "no-store"}
_STATE: Final = StateCollector()


def answer_of(request: HttpRequest) -> HttpResponse | None:
    """The answer, when the request's path is one of ours."""
    view = view_of(request.path_info)
    if view is None:
        return None
    if request.method not in {"GET", "HEAD"}:
        return problem_response(
            ApiProblem("method_not_allowed", headers={"Allow": "GET, HEAD"}), request
        )
    return view(request)


def view_of(path: str) -> Callable[[HttpRequest], HttpResponse] | None:
    """What answers at this path, if it is one of ours."""
    return _VIEWS.get(path)


def livez(request: HttpRequest) -> HttpResponse:  # noqa: ARG001  # a view's signature
    """This process answers; nothing else is asked."""
    return _text("ok\n")


def readyz(request: HttpRequest) -> HttpResponse:
    """Whether this process should be sent requests; 503 says why not."""
    fault = ready.fault()
    if fault:
        return problem_response(
            ApiProblem("unavailable", fault, retry_after_s=RETRY_AFTER_S), request
        )
    return _text("ready\n")


def metrics(request: HttpRequest) -> HttpResponse:
    """Everything there is, in the form the scraper asks for; 404 for who may not read it."""
    from prometheus_client import exposition

    if not may_read_metrics(request):
        return problem_response(ApiProblem("not_found"), request)
    encode, content_type = exposition.choose_encoder(request.headers.get("Accept", ""))
    return HttpResponse(_exposed(encode), content_type=content_type, headers=_NO_STORE)


def _exposed(encode: Callable[..., bytes]) -> bytes:
    from prometheus_client import CollectorRegistry
    from prometheus_client.multiprocess import MultiProcessCollector

    state = CollectorRegistry(auto_describe=False)
    state.register(_STATE)
    where = shared.folder()
    if where is None:
        return _joined(encode(REGISTRY), encode(state))
    with shared.still(where):
        shared.bury_dead(where)
        counted = CollectorRegistry()
        MultiProcessCollector(counted, str(where))  # type: ignore[no-untyped-call]  # untyped library
        found = encode(counted)
    return _joined(found, encode(state))


def _joined(counted: bytes, state: bytes) -> bytes:
    """One exposition of two: OpenMetrics ends each with a line that may stand once."""
    return counted.removesuffix(b"# EOF\n") + state


def _text(text: str) -> HttpResponse:
    return HttpResponse(text.encode(), content_type="text/plain", headers=_NO_STORE)


_VIEWS: Final[Mapping[str, Callable[[HttpRequest], HttpResponse]]] = {
    "/livez": livez,
    "/healthz": livez,
    "/readyz": readyz,
    "/metrics": metrics,
}
