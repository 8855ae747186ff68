"""What recorded words mean in OTLP."""

from __future__ import annotations

import pytest

from agent_client.contract import otlp_genai as genai
from agent_client.contract import otlp_names as names

MS = names.NS_PER_MS


@pytest.mark.parametrize(
    ("base_url", "host"),
    [
        ("https://user:secret@llm.example:8443/v1?key=1", "llm.example:8443"),
        ("http://127.0.0.1:9/v1", "127.0.0.1:9"),
        ("llm.example/v1", "llm.example"),
        ("https://[::1/", None),
        ("https://x:99999/", None),
        ("/path", None),
        ("", None),
        (None, None),
    ],
)
def test_of_an_address_only_the_host_is_kept(base_url: object, host: str | None) -> None:
    assert names.host_of(base_url) == host


@pytest.mark.parametrize(
    ("base_url", "redacted", "server"),
    [
        ("https://u:p@llm.example/v1", "https://llm.example/v1", ("llm.example", 443)),
        ("http://llm.example/v1", "http://llm.example/v1", ("llm.example", 80)),
        ("https://llm.example:8443", "https://llm.example:8443", ("llm.example", 8443)),
        ("https://secret.example", "[REDACTED:x]", ("", 0)),
        ("", "", ("", 0)),
    ],
)
def test_a_server_is_a_host_that_the_redactor_left(
    base_url: str, redacted: str, server: tuple[str, int]
) -> None:
    assert names.server_of(base_url, redacted)[1:] == server


@pytest.mark.parametrize(
    ("status_code", "end_reason", "error"),
    [
        (500, "completed", "500"),
        (200, "timeout", "timeout"),
        (None, "stop", ""),
        (None, None, ""),
    ],
)
def test_a_call_failed_by_its_status_or_its_end(
    status_code: object, end_reason: object, error: str
) -> None:
    assert names.call_error(status_code, end_reason) == error


@pytest.mark.parametrize(
    ("approval", "result_class", "error_type", "error"),
    [
        (None, "error", "OSError", "OSError"),
        (None, "error", None, "tool_error"),
        (None, "timeout", "", "timeout"),
        ("once", "blocked", None, "blocked"),
        ("denied", "error", "OSError", ""),
        ("smart_deny", "blocked", None, ""),
        (None, "ok", "OSError", ""),
        (None, None, None, ""),
    ],
)
def test_a_denied_tool_call_is_no_error(
    approval: object, result_class: object, error_type: object, error: str
) -> None:
    assert names.tool_error(approval, result_class, error_type) == error


@pytest.mark.parametrize(
    ("start", "end", "took_ms", "times"),
    [
        (5, 9, 1.0, (5, 9, False)),
        (9, 5, None, (9, 9, False)),
        (5, None, 2.0, (5, 5 + 2 * MS, True)),
        (5, None, None, (5, 5, True)),
        (5, None, float("nan"), (5, 5, True)),
        (5, None, -3.0, (5, 5, True)),
        (-5, 9 * MS, 2.0, (7 * MS, 9 * MS, True)),
        (0, -9, 2.0, (0, 0, True)),
        (None, None, None, (0, 0, True)),
        (names.INT64_MAX, None, 1e300, (names.INT64_MAX, names.INT64_MAX, True)),
    ],
)
def test_a_span_has_two_times_and_never_ends_before_it_began(
    start: object, end: object, took_ms: object, times: tuple[int, int, bool]
) -> None:
    assert names.times_of(start, end, took_ms) == times


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"a": 1, "b": "x", "c": true, "d": 0.5}', {"a": 1, "b": "x", "c": True, "d": 0.5}),
        ('{"a": {"b": 1}, "c": [1], "d": null, "e": 1e999, "f": 99999999999999999999}', {}),
        ('{"a": "\\ud800"}', {"a": "?"}),
        ("[1]", {}),
        ("no JSON", {}),
        ("[" * 100_000, {}),
        (None, {}),
    ],
)
def test_attributes_are_plain_values(text: object, found: dict[str, object]) -> None:
    made = names.object_attributes(text)
    assert made == {f"hermes.attrs.{name}": value for name, value in found.items()}


def test_attributes_have_an_end() -> None:
    text = "{" + ", ".join(f'"k{number}": 1' for number in range(1000)) + "}"
    assert len(names.object_attributes(text)) == names.MAX_SPAN_ATTRIBUTES


def test_an_attribute_is_a_column_or_the_spans_place() -> None:
    for keys in names.COLUMN_KEYS.values():
        assert {"span_id", "parent_span_id", "start_ns", "end_ns"}.isdisjoint(k for k, *_ in keys)


@pytest.mark.parametrize(
    ("provider", "name"),
    [("Gemini ", "gcp.gemini"), ("bedrock", "aws.bedrock"), ("Mine", "mine"), (None, "")],
)
def test_a_provider_has_the_conventions_name(provider: object, name: str) -> None:
    assert genai.provider_name(provider) == name


@pytest.mark.parametrize(
    ("backend", "tool", "kind"),
    [
        ("MCP", "x", "extension"),
        (None, "mcp_search", "extension"),
        ("local", "memory_add", "datastore"),
        ("local", "session_search", "datastore"),
        ("local", "terminal", "function"),
        (None, None, "function"),
    ],
)
def test_a_tool_is_of_a_kind(backend: object, tool: object, kind: str) -> None:
    assert genai.tool_type(backend, tool) == kind


@pytest.mark.parametrize(
    ("profile", "keys"),
    [
        ("1.41", {"cache_creation"}),
        ("next", {"cache_write"}),
        ("both", {"cache_creation", "cache_write"}),
    ],
)
def test_what_was_written_to_a_cache_has_the_profiles_name(profile: str, keys: set[str]) -> None:
    found = genai.usage_attributes(
        profile, uncached=5, cache_read=3, cache_write=2, output=4, reasoning=1
    )
    assert found["gen_ai.usage.input_tokens"] == 10
    assert {name.split(".")[2] for name in found if ".cache_" in name} == keys | {"cache_read"}
    assert found["gen_ai.usage.reasoning.output_tokens"] == 1


def test_a_sum_of_tokens_stays_within_64_bits() -> None:
    most = names.INT64_MAX
    found = genai.usage_attributes(
        "1.41", uncached=most, cache_read=most, cache_write=0, output=None, reasoning=0
    )
    assert found["gen_ai.usage.input_tokens"] == most
    assert "gen_ai.usage.output_tokens" not in found
