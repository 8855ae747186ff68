"""Messages leave by shape: facts always, content only when asked for, scrubbed in any case."""

from __future__ import annotations

import json

import pytest

from agent_client.contract.redact import redact_message
from tests.contract.redact_examples import expand

TOKEN = expand("ghp_<w36>")
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "terminal", "arguments": json.dumps({"password": "correct horse"})},
}


def message(**changes: object) -> dict[str, object]:
    base: dict[str, object] = {
        "role": "assistant",
        "content": f"use {TOKEN}",
        "reasoning": "because",
        "reasoning_content": "because of it",
        "tool_calls": [CALL],
        "tool_name": "terminal",
        "api_content": "never kept",
    }
    return base | changes


def test_without_content_only_sizes_remain() -> None:
    assert redact_message(message(), include_content=False, pii=False) == {
        "role": "assistant",
        "tool_name": "terminal",
        "content_chars": 44,
        "reasoning_chars": 13,
        "tool_call_count": 1,
    }


def test_with_content_everything_is_scrubbed_and_names_stay() -> None:
    cleaned = redact_message(message(), include_content=True, pii=False)
    assert cleaned["content"] == "use [REDACTED:github]"
    assert cleaned["reasoning"] == "because"
    calls = json.dumps(cleaned["tool_calls"])
    assert "terminal" in calls
    assert "correct horse" not in calls
    assert "api_content" not in cleaned


@pytest.mark.parametrize("include_content", [True, False])
@pytest.mark.parametrize("raw", ['[{"broken', '{"a": 1}', 7, "[" * 100_000])
def test_unreadable_tool_calls_are_named_as_such(raw: object, include_content: bool) -> None:
    cleaned = redact_message(message(tool_calls=raw), include_content=include_content, pii=False)
    field = "tool_calls" if include_content else "tool_call_count"
    assert cleaned[field] == "[unparseable-tool-calls]"


def test_tool_calls_are_read_from_json_text() -> None:
    cleaned = redact_message(
        message(tool_calls=json.dumps([CALL])), include_content=False, pii=False
    )
    assert cleaned["tool_call_count"] == 1


def test_a_tool_call_that_is_no_object_goes() -> None:
    cleaned = redact_message(message(tool_calls=["rm -rf"]), include_content=True, pii=False)
    assert cleaned["tool_calls"] == ["[unparseable-tool-calls]"]


@pytest.mark.parametrize("raw", [None, "", "null", []])
def test_no_tool_calls_count_as_none(raw: object) -> None:
    cleaned = redact_message(message(tool_calls=raw), include_content=False, pii=False)
    assert cleaned["tool_call_count"] == 0


def test_parts_of_content_are_counted_by_their_text() -> None:
    parts = [{"type": "text", "text": "12345"}, {"type": "image", "data": "x" * 99}, "678", 9]
    cleaned = redact_message(message(content=parts), include_content=False, pii=False)
    assert cleaned["content_chars"] == 8


def test_a_message_with_nothing_has_zero_of_everything() -> None:
    assert redact_message({"role": "user"}, include_content=False, pii=False) == {
        "role": "user",
        "content_chars": 0,
        "reasoning_chars": 0,
        "tool_call_count": 0,
    }
    assert redact_message({"role": "user"}, include_content=True, pii=False) == {"role": "user"}


def test_secret_in_a_name_goes_too() -> None:
    cleaned = redact_message({"role": "tool", "name": TOKEN}, include_content=False, pii=False)
    assert cleaned["name"] == "[REDACTED:github]"


def test_personal_data_goes_when_asked() -> None:
    text = "mail ada@example.com or call +1 415 555 2671"
    cleaned = redact_message(message(content=text), include_content=True, pii=True)
    assert cleaned["content"] == "mail [email] or call [phone]"
    kept = redact_message(message(content=text), include_content=True, pii=False)
    assert kept["content"] == text
