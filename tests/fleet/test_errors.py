"""The exception handler: whatever is raised leaves as a problem of the contract."""

from __future__ import annotations

import json

import pytest
from django.core.exceptions import PermissionDenied
from django.db import OperationalError
from django.http import Http404
from rest_framework import exceptions

from agent_client.contract.wire import PROBLEM_CODES
from fleet.api.errors import ApiProblem, problem_handler


@pytest.mark.parametrize("code", sorted(PROBLEM_CODES))
def test_every_code_has_its_status_and_title(code: str) -> None:
    response = problem_handler(ApiProblem(code, "why"), {})
    body = json.loads(response.content)
    assert (body["code"], body["detail"], body["title"]) == (code, "why", PROBLEM_CODES[code][1])
    assert response.status_code == PROBLEM_CODES[code][0]
    assert ("Retry-After" in response.headers) is (response.status_code in {429, 503})
    assert ("WWW-Authenticate" in response.headers) is (response.status_code == 401)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (exceptions.ParseError(), "malformed_body"),
        (exceptions.NotFound(), "not_found"),
        (Http404(), "not_found"),
        (exceptions.MethodNotAllowed("PUT"), "method_not_allowed"),
        (exceptions.UnsupportedMediaType("x/y"), "unsupported_media_type"),
        (exceptions.NotAuthenticated(), "credential_missing"),
        (exceptions.AuthenticationFailed(), "credential_missing"),
        (exceptions.PermissionDenied(), "forbidden"),
        (PermissionDenied(), "forbidden"),
        (exceptions.Throttled(wait=3), "rate_limited"),
        (exceptions.ValidationError({"b": ["x"], "a": ["hunter2"]}), "invalid"),
        (OperationalError("password=hunter2"), "unavailable"),
        (RuntimeError("hunter2"), "internal"),
    ],
)
def test_an_exception_becomes_its_problem_and_says_nothing_of_its_text(
    error: Exception, code: str
) -> None:
    response = problem_handler(error, {})
    assert json.loads(response.content)["code"] == code
    assert b"hunter2" not in response.content


def test_a_problem_may_say_when_to_come_back() -> None:
    problem = ApiProblem("unavailable", retry_after_s=0, headers={"X-More": "1"})
    assert problem.headers == {"X-More": "1", "Retry-After": "1"}
