"""schemathesis against what is served: every documented operation, every answer as documented."""

from __future__ import annotations

import os
from typing import Any

import pytest
import schemathesis
from drf_spectacular.generators import SchemaGenerator
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pytest_django.live_server_helper import LiveServer
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from agent_client.contract import wire
from telemetry.api.otlp_answers import MEDIA_PROTOBUF
from tests import builders
from tests.faults import raw, served
from tests.telemetry import builders as make

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.both_engines,
    pytest.mark.timeout(served.PATIENCE_S),
]
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
EXAMPLES = settings(
    max_examples=int(os.environ.get("FAULTS_EXAMPLES", "10")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
)


BODIES = st.one_of(
    st.lists(
        st.sampled_from([*map(make.line, make.one_of_each()), b"{", b"\xff", b'{"_kind":[]}'])
    ).map(lambda lines: make.ndjson(*lines)),
    st.binary(max_size=200),
)


@schemathesis.serializer(wire.MEDIA_NDJSON, MEDIA_PROTOBUF)
def _as_it_is(_: object, value: object) -> bytes:
    """What schemathesis does not know how to write: bytes as they are."""
    data = getattr(value, "data", value)
    return data if isinstance(data, bytes) else repr(data).encode()


def trace_bodies() -> st.SearchStrategy[bytes]:
    """An export as an SDK writes it: whole, cut, with foreign bytes in it; or no export at all."""
    whole = raw.otlp_export()
    damaged = st.tuples(st.integers(0, len(whole)), st.binary(max_size=4)).map(
        lambda at: whole[: at[0]] + at[1] + whole[at[0] + len(at[1]) :]
    )
    return st.one_of(st.just(whole), damaged, st.binary(max_size=100))


OTLP_BODIES = trace_bodies()


def document() -> dict[str, Any]:  # Any: an OpenAPI document
    """The API's description, as it is served."""
    found: dict[str, Any] = SchemaGenerator().get_schema(request=None, public=True)  # type: ignore[no-untyped-call]  # untyped
    return found


OPERATIONS = [
    (path, method.upper())
    for path, methods in sorted(document()["paths"].items())
    for method in sorted(methods)
]


def operation_of(server: LiveServer, path: str, method: str) -> Any:  # noqa: ANN401 -- schemathesis' own type
    schema = schemathesis.openapi.from_url(f"{server.url}/api/v1/schema")
    return schema[path][method]


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_whatever_is_asked_the_answer_is_as_documented(
    live_server: LiveServer, path: str, method: str
) -> None:
    builders.publish()
    token = builders.make_token()[1] if path == wire.PATH_ENROLL else raw.credential_of()
    operation = operation_of(live_server, path, method)

    @EXAMPLES
    @given(case=operation.as_strategy(), lines=BODIES, spans=OTLP_BODIES)
    def ask(case: Any, lines: bytes, spans: bytes) -> None:  # noqa: ANN401 -- schemathesis' own type
        bodies = {wire.MEDIA_NDJSON: lines, MEDIA_PROTOBUF: spans}
        case.body = bodies.get(case.media_type, case.body)
        case.call_and_validate(headers={"Authorization": f"Bearer {token}"}, checks=CHECKS)
        case.call_and_validate(checks=CHECKS)

    ask()


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_each_operation_documents_its_problems(path: str, method: str) -> None:
    answers = document()["paths"][path][method.lower()]["responses"]
    assert {"4XX", "503"} <= set(answers)
    media = {MEDIA_PROTOBUF, "application/json"} if path[:4] == "/v1/" else {wire.MEDIA_PROBLEM}
    assert set(answers["4XX"]["content"]) == media
