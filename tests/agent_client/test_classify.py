"""The host's words and ours."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_client import classify
from agent_client.contract.events import APPROVALS, ENTRYPOINTS, ERROR_CLASSES, RESULT_CLASSES

GATEWAYS = (
    "telegram discord slack whatsapp signal matrix email sms teams feishu wecom line google_chat"
).split()
anything = st.none() | st.integers() | st.text(max_size=20) | st.booleans() | st.lists(st.none())


@pytest.mark.parametrize(
    ("platform", "entrypoint"),
    [
        *[(name, "gateway") for name in GATEWAYS],
        *[(name, "cli") for name in ("", "chat", "interactive", "desktop", "cli", "new-one")],
        ("api_server", "api"),
        ("openai_api", "api"),
        (" Telegram ", "gateway"),
        ("tui", "tui"),
        ("cron", "cron"),
        ("batch", "batch"),
        ("acp", "acp"),
        ("subagent", "subagent"),
        (None, "cli"),
        (7, "cli"),
    ],
)
def test_a_platform_has_its_entrypoint(platform: object, entrypoint: str) -> None:
    assert classify.entrypoint_of(platform) == entrypoint
    assert entrypoint in ENTRYPOINTS


@pytest.mark.parametrize(
    ("reason", "status_code", "error_class"),
    [
        ("auth", 500, "auth"),
        ("server_error", 500, "provider_error"),
        ("timeout", None, "provider_timeout"),
        ("content_policy_blocked", 400, "content_policy"),
        ("invalid_response", None, "invalid_response"),
        ("of tomorrow", 401, "auth"),
        (None, 403, "auth"),
        (None, 402, "rate_limit"),
        (None, 429, "rate_limit"),
        (None, 408, "provider_timeout"),
        (None, 504, "provider_timeout"),
        (None, 413, "context_overflow"),
        (None, 400, "provider_error"),
        (None, 503, "provider_error"),
        (None, 200, "unknown"),
        (None, None, "unknown"),
        ("of tomorrow", "429", "unknown"),
    ],
)
def test_an_errors_class_is_the_hosts_reason_or_else_its_status(
    reason: object, status_code: object, error_class: str
) -> None:
    assert classify.error_class_of(reason, status_code) == error_class


@pytest.mark.parametrize(
    ("retryable", "retry_count", "max_retries", "is_final"),
    [
        (False, 0, 3, True),
        (True, 0, 3, False),
        (True, 2, 3, True),
        (None, 0, 1, True),
        (True, None, 3, False),
        (True, 0, None, False),
    ],
)
def test_a_request_is_given_up_when_the_host_says_so(
    retryable: object, retry_count: object, max_retries: object, is_final: bool
) -> None:
    assert classify.is_final(retryable, retry_count, max_retries) is is_final


@pytest.mark.parametrize(
    ("status", "error_type", "result", "result_class"),
    [
        ("ok", None, '{"status": "blocked"}', "ok"),
        (None, None, None, "ok"),
        ("error", None, None, "error"),
        ("error", "tool_error", '{"status": "blocked", "x": 1}', "blocked"),
        ("error", None, '{"x": 1, "status" : "blocked"}', "blocked"),
        ("error", None, 'said "status": "blocked"', "error"),
        ("error", None, "{" + " " * 5000 + '"status": "blocked"}', "error"),
        ("error", "ToolBlocked", None, "blocked"),
        ("blocked", None, None, "blocked"),
        ("timeout", None, None, "timeout"),
        ("error", "ReadTimeout", None, "timeout"),
        ("cancelled", None, None, "error"),
    ],
)
def test_a_tools_result_has_its_class(
    status: object, error_type: object, result: object, result_class: str
) -> None:
    assert classify.result_class_of(status, error_type, result) == result_class


@pytest.mark.parametrize(
    ("choice", "approval"),
    [
        ("deny", "denied"),
        *[(w, w) for w in ("once", "session", "always", "timeout", "smart_approve", "smart_deny")],
        ("maybe", None),
        (None, None),
    ],
)
def test_a_choice_is_an_approval(choice: object, approval: str | None) -> None:
    assert classify.approval_of(choice) == approval


@given(anything, anything, anything)
def test_no_word_of_the_host_gives_a_class_the_contract_does_not_know(
    one: object, two: object, three: object
) -> None:
    assert classify.entrypoint_of(one) in ENTRYPOINTS
    assert classify.error_class_of(one, two) in ERROR_CLASSES
    assert classify.approval_of(one) in (None, *APPROVALS)
    assert isinstance(classify.is_final(one, two, three), bool)


@given(st.none() | st.text(max_size=20), anything, anything)
def test_every_result_has_a_class_of_the_contract(one: object, two: object, three: object) -> None:
    assert classify.result_class_of(one, two, three) in RESULT_CLASSES
