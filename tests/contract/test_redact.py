"""What the scrubber promises: what goes, what stays, and that it fails closed."""

from __future__ import annotations

import base64
import builtins
import json
import subprocess
import sys
import threading
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_client.contract import redact
from agent_client.contract.redact import (
    UNAVAILABLE,
    redact_message,
    redact_record,
    redact_text,
    redact_value,
)
from tests.contract.redact_examples import expand

GITHUB = expand("ghp_<w36>")
OPAQUE = expand("<w32>")

FRAGMENTS = st.sampled_from(
    [
        *(expand(t) for t in ("ghp_<w36>", "sk-ant-api03-<b93>", "AKIA<A16>", "<w40>", "<h40>")),
        *("password=", '"token": "', "secret: ", "Authorization: Bearer ", "Cookie: a=", "key is "),
        *("https://u:", "@host/", "?api_key=", "[REDACTED:", "]", "[email]", '"', "'", "\\", "\\n"),
        *(
            "-----BEGIN RSA PRIVATE KEY-----",
            "-----END RSA PRIVATE KEY-----",
            "kind: Secret\ndata:\n",
        ),
        *(
            "\n",
            "\n  ",
            " ",
            "{",
            "}",
            "=",
            ":",
            ",",
            "&",
            "%3D",
            "é",
            "\ud800",
            "x",
            "me@example.com",
        ),
        *(
            "+14155552671",
            "tel ",
            "4111 1111 1111 1111",
            "10.1.2.3",
            "user_id=",
            str(uuid.UUID(int=7)),
        ),
    ]
)
TEXTS = st.one_of(st.text(max_size=80), st.lists(FRAGMENTS, max_size=14).map("".join))


@pytest.fixture
def broken_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> object:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(redact._engine, "matchers", broken)


@given(text=TEXTS, strict=st.booleans(), pii=st.booleans())
def test_scrubbing_twice_changes_nothing_more(text: str, strict: bool, pii: bool) -> None:
    once = redact_text(text, strict=strict, pii=pii)
    assert once != UNAVAILABLE or text == UNAVAILABLE
    assert redact_text(once, strict=strict, pii=pii) == once


@given(text=TEXTS, pii=st.booleans())
def test_strict_mode_is_an_addition_to_standard_mode(text: str, pii: bool) -> None:
    standard = redact_text(text)
    assert redact_text(standard, strict=True, pii=pii) == redact_text(text, strict=True, pii=pii)


@given(before=st.text(max_size=40), after=st.text(max_size=40))
def test_vendor_key_goes_wherever_it_stands(before: str, after: str) -> None:
    assert GITHUB not in redact_text(f"{before} {GITHUB} {after}")


@given(text=st.text(alphabet="abcdefghijklmnopqrstuvwxyz ,.", max_size=300))
def test_ordinary_words_pass(text: str) -> None:
    assert redact_text(text, pii=True) == text


@pytest.mark.parametrize(
    "text",
    [
        "I'll rotate the token and update the password field in the settings page.",
        "token = get_token(request)",
        "password = os.environ['DB_PASSWORD']",
        "api_key: ${API_KEY}",
        "PASSWORD_HASHERS=argon2",
        "prompt_tokens: 9123, max_tokens=4096",
        "the primary key (id) and the sort_key=created_at",
        "def login(self, password: str, token: Token | None = None) -> Session:",
        "note: secret meeting moved to Tuesday",
        "tests: 12 pass: 11 fail: 1",
    ],
)
def test_talk_about_secrets_passes(text: str) -> None:
    assert redact_text(text) == text


@pytest.mark.parametrize(
    "value",
    [
        str(uuid.UUID(int=2**100 + 12345)),
        expand("<h32>"),
        expand("<h16>"),
        expand("<h64>"),
        expand("00-<h32>-<h16>-01"),
        expand("call_<w24>"),
        expand("toolu_01<w22>"),
        expand("chatcmpl-<w29>"),
        expand("msg_01<w22>"),
        "20260525_127443_c1b847",
        "claude-opus-4-5-20251101",
        "accounts/fireworks/models/llama-v3p1-405b-instruct",
        "meta-llama/Llama-3.3-70B-Instruct",
        "gpt-5.1-codex-max",
        "mcp__github__create_pull_request",
        "01JD2Z9V6K3Q8W5T4R7Y1X0ABC",
    ],
)
def test_ids_and_model_names_survive_in_every_mode(value: str) -> None:
    row = {"run_id": value, "model": value, "tool_name": value, "token_count": 7}
    assert redact_record(row) == row
    assert redact_text(value, strict=True, pii=True) == value


def test_record_keeps_columns_and_loses_secrets() -> None:
    row = {"run_id": "r1", "cost": 0.5, "end_ns": None, "base_url": f"https://h/?api_key={OPAQUE}"}
    cleaned = redact_record(row)
    assert list(cleaned) == list(row)
    assert cleaned | {"base_url": 0} == row | {"base_url": 0}
    assert OPAQUE not in str(cleaned)


def test_names_of_fields_decide() -> None:
    value = {
        "password": "correct horse",
        "api_key": "abcdef",
        "authorization": "Bearer qq",
        "prompt_tokens": 9123,
        "flavour_key": OPAQUE,
        "pin": {"password": 12345678, "enabled": True},
        "secret": ["one", None],
        "credentials": {"type": "service account", "value": OPAQUE},
    }
    assert redact_value(value) == {
        "password": "[REDACTED:named-password]",
        "api_key": "[REDACTED:named-secret]",
        "authorization": "[REDACTED:named-secret]",
        "prompt_tokens": 9123,
        "flavour_key": "[REDACTED:named-key]",
        "pin": {"password": "[REDACTED:named-password]", "enabled": True},
        "secret": ["[REDACTED:named-secret]", None],
        "credentials": {"type": "service account", "value": "[REDACTED:named-secret]"},
    }


def test_weak_names_and_placeholders_keep_words() -> None:
    value = {"signature": "def f(x)", "password": "${DB_PASSWORD}", "token": "<your token>"}
    assert redact_value(value) == value


def test_a_schema_of_a_password_field_stays() -> None:
    schema = {"properties": {"password": {"type": "string", "description": "The password"}}}
    assert redact_value(schema) == schema


def test_names_of_fields_are_scrubbed_and_stay_apart() -> None:
    cleaned = redact_value({GITHUB: 1, expand("ghp_<w37>"): 2})
    assert cleaned == {"[REDACTED:github]": 1, "[REDACTED:github]'": 2}


def test_kubernetes_secret_loses_all_its_data() -> None:
    manifest = {"kind": "Secret", "data": {"extra": "YWI="}, "metadata": {"name": "db"}}
    cleaned = redact_value(manifest)
    assert cleaned == manifest | {"data": {"extra": "[REDACTED:k8s-secret]"}}


def test_values_without_a_json_form_are_closed() -> None:
    assert redact_value({"x": object(), "raw": GITHUB.encode(), "t": (1, "a")}) == {
        "x": UNAVAILABLE,
        "raw": "[REDACTED:github]",
        "t": [1, "a"],
    }


def test_deep_values_are_cut_off_rather_than_overflow() -> None:
    value: object = GITHUB
    for _ in range(5000):
        value = [value]
    assert GITHUB not in repr_of_depth(redact_value(value))


def repr_of_depth(value: object) -> str:
    while isinstance(value, list):
        value = value[0]
    return str(value)


def test_json_in_strings_is_walked_three_levels_deep() -> None:
    inner = json.dumps({"env": {"DB_PASSWORD": "correct horse"}})
    middle = json.dumps({"arguments": inner})
    cleaned = redact_text(json.dumps({"call": middle}))
    assert "correct horse" not in cleaned
    assert json.loads(json.loads(json.loads(cleaned)["call"])["arguments"]) == {
        "env": {"DB_PASSWORD": "[REDACTED:named-password]"}
    }


def test_json_without_secrets_keeps_its_bytes() -> None:
    text = '{"a":1.10,  "token_count": 5,\n "path": "C:\\\\x", "key": "\\u0041"}'
    assert redact_text(text) == text


def test_compact_json_stays_compact() -> None:
    assert (
        redact_text('{"a":1,"password":"hé"}') == '{"a":1,"password":"[REDACTED:named-password]"}'
    )


@pytest.mark.parametrize(
    "text",
    [
        '{"password": "Zx9!kLm2", "password": "Zx9!kLm2"}',
        '{"password": "Zx9!kLm2"',
        "[" * 3000 + '"password": "Zx9!kLm2"' + "]" * 3000,
    ],
)
def test_json_that_cannot_be_read_is_scrubbed_as_text(text: str) -> None:
    assert "Zx9!kLm2" not in redact_text(text)


def test_escaped_names_in_json_do_not_hide() -> None:
    assert "hunter2" not in redact_text('{"\\u0070assword": "hunter2"}')


def test_base64_is_opened_once() -> None:
    wrapped = base64.b64encode(f"OPENAI_API_KEY={OPAQUE}\nPATH=/usr/bin\n".encode()).decode()
    assert redact_text(f"echo {wrapped} | base64 -d") == "echo [REDACTED:base64] | base64 -d"


@pytest.mark.parametrize(
    "raw",
    [
        b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
        b"just some text that is long enough to be looked at",
        "Grüße aus der Fußgängerzone, überall schönes Wetter".encode(),
        b"a text that ends in bytes that are no text at all, is it? \xff\xfe\xff",
        b"a text of more than forty-eight bytes with a control \x01 in it",
    ],
)
def test_base64_of_other_things_stays(raw: bytes) -> None:
    text = "body " + base64.b64encode(raw).decode()
    assert redact_text(text) == text


def test_strict_mode_takes_unknown_tokens() -> None:
    token = expand("zq9<w40>")
    assert redact_text(f"it printed {token} then") == f"it printed {token} then"
    assert redact_text(f"it printed {token} then", strict=True) == (
        "it printed [REDACTED:high-entropy] then"
    )
    assert redact_text(f"X={token}", strict=True) == "X=[REDACTED:high-entropy]"


def test_long_texts_lose_secrets_in_every_block() -> None:
    lines = [f"line {i} of the log says nothing" for i in range(2000)]
    lines[3] = f"password={OPAQUE}"
    lines[1500] = GITHUB
    key = "\n".join(
        ["-----BEGIN RSA PRIVATE KEY-----", *[expand(f"<s64>{'' * i}") for i in range(200)]]
    )
    cleaned = redact_text("\n".join(lines) + "\n" + key + "\n-----END RSA PRIVATE KEY-----\nend")
    assert OPAQUE not in cleaned
    assert GITHUB not in cleaned
    assert cleaned.endswith("[REDACTED:private-key]\nend")
    assert cleaned.count("says nothing") == 1998


def test_a_long_line_is_one_block() -> None:
    assert GITHUB not in redact_text("x " * 5000 + GITHUB + " y" * 5000)


def test_long_value_goes_to_its_end() -> None:
    value = expand("<w40>") * 60
    assert (
        redact_text(f'app_secret = "{value}"; next')
        == 'app_secret = "[REDACTED:named-secret]"; next'
    )
    assert redact_text(f"token={value} next") == "token=[REDACTED:named-secret] next"
    assert redact_text(f"token: {value}") == "token: [REDACTED:named-secret]"


def test_replacement_never_cuts_a_character() -> None:
    cleaned = redact_text("password=grüße1ß next ü")
    assert cleaned == "password=[REDACTED:named-password] next ü"


def test_a_replacement_is_not_read_as_user_info() -> None:
    cleaned = redact_text(f"https://{expand('<h32>')}@o1.ingest.sentry.io/42")
    assert cleaned == "https://[REDACTED:url-token]@o1.ingest.sentry.io/42"


def test_escapes_before_a_key_stay() -> None:
    assert redact_text(f"a\\n{GITHUB} b%3D{GITHUB}") == (
        "a\\n[REDACTED:github] b%3D[REDACTED:github]"
    )


def test_strict_mode_leaves_embedded_images() -> None:
    image = base64.b64encode(bytes(range(140, 255))).decode()
    text = f"data:image/png;base64,{image}"
    assert redact_text(text, strict=True) == text


@pytest.mark.parametrize(
    "text",
    [
        "ghp_" + "x" * 36,
        "ghp_" + "aB3" * 14,
        "AKIAIOSFODNN7EXAMPLE",
        "hf_servingcellpriorityparameters",
        "hf_ServingCellPriorityParametersX",
    ],
)
def test_vendor_shapes_that_are_masks_or_identifiers_stay(text: str) -> None:
    assert redact_text(text) == text


def test_vendor_key_without_a_digit_goes_when_it_is_mixed() -> None:
    key = "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"
    assert redact_text(key) == "[REDACTED:huggingface]"


def test_lone_surrogates_pass_through() -> None:
    assert redact_text(f"a \ud800 {GITHUB}") == "a \ud800 [REDACTED:github]"


def test_broken_engine_closes_every_string(broken_engine: None) -> None:
    assert redact_text("anything") == UNAVAILABLE
    assert redact_value({"a": ["x y", 1]}) == {"a": [UNAVAILABLE, 1]}
    assert redact_record({"id": "not an id", "n": 2}) == {"id": UNAVAILABLE, "n": 2}
    message = redact_message({"role": "a b", "content": "c d"}, include_content=True, pii=False)
    assert message == {"role": UNAVAILABLE, "content": UNAVAILABLE}


def test_missing_engine_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def no_re2(name: str, *args: object, **kw: object) -> object:
        if name == "re2":
            raise ImportError(name)
        return real_import(name, *args, **kw)  # type: ignore[arg-type]  # passed through as given

    monkeypatch.setattr(redact, "_engine", redact._Engine())
    monkeypatch.setattr(builtins, "__import__", no_re2)
    assert redact_text("anything at all") == UNAVAILABLE


def test_text_that_never_settles_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def grow(data: bytes, matchers: object) -> tuple[bytes, list[tuple[int, int]]]:
        return data + b"!", [(0, 1)]

    monkeypatch.setattr(redact, "run_pass", grow)
    monkeypatch.setattr(redact, "_is_settled", lambda *_: False)
    assert redact_text("anything") == "[REDACTED:unstable]"
    assert redact_text("anything", strict=True) == "[REDACTED:unstable]"


def test_a_secret_that_another_hid_goes_with_the_next_look() -> None:
    # Both rules want the stroke between them, so that the first look finds only one.
    assert redact_text(f"x {GITHUB}/{GITHUB} y") == "x [REDACTED:github]/[REDACTED:github] y"


def test_a_forked_child_builds_its_own_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = redact._Engine()
    first = engine.matchers()
    monkeypatch.setattr("os.getpid", lambda: -1)
    assert engine.matchers() is not first
    assert engine._inherited == [first]


def test_threads_get_the_same_answer() -> None:
    answers: list[str] = []
    text = f"password={OPAQUE} and {GITHUB}"
    workers = [
        threading.Thread(target=lambda: answers.append(redact_text(text)), daemon=True)
        for _ in range(8)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(20)
    assert set(answers) == {redact_text(text)}
    assert len(answers) == 8


def test_import_is_standard_library_only() -> None:
    code = (
        "import sys, agent_client.contract.redact as r;"
        "print([m for m in ('re2', 'phonenumbers') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
