"""What names of fields say, and how values are judged."""

from __future__ import annotations

import pytest

from agent_client.contract.redact import redact_text
from agent_client.contract.redact_names import name_class, words_of
from agent_client.contract.redact_values import (
    entropy_bits,
    is_basic_pair,
    is_opaque,
    is_password,
    is_placeholder,
    is_scrambled,
    is_strong,
)
from tests.contract.redact_examples import expand


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("DB_PASSWORD", "password"),
        ("dbpassword2", "password"),
        ("spring.datasource.password", "password"),
        ("secretAccessKey", "secret"),
        ("x-api-key", "secret"),
        ("githubTOKEN", "secret"),
        ("SLACK_TOKEN_PROD", "secret"),
        ("settleminttoken", "secret"),
        ("sonar.login", "secret"),
        ("cohere_key", "secret"),
        ("MERAKI_KEY", "secret"),
        ("flavour_key", "key"),
        ("github_oauth", "secret"),
        ("instrumentationKey", "secret"),
        ("NB_SETUP_KEY", "secret"),
        ("mj_apikey_private", "secret"),
        ("PublicKeyToken", None),
        ("prompt_tokens", None),
        ("token_type", None),
        ("next_page_token", None),
        ("public_key", None),
        ("primaryKey", None),
        ("PASSWORD_HASHERS", None),
        ("monkey_count", None),
        ("", None),
        ("--", None),
    ],
)
def test_name_says_what_it_holds(name: str, expected: str | None) -> None:
    assert name_class(name) == expected


def test_names_in_other_letters_are_cut_the_same_way() -> None:
    assert words_of("größeÜberID_v2") == ["größe", "über", "id", "v2"]
    assert words_of("ABCÜber") == ["abc", "über"]
    assert name_class("DB_ÜBER_PASSWORD") == "password"


@pytest.mark.parametrize("value", ["authentication", "12345678", "PBKDF2-hashed", "release_2024"])
def test_words_and_numbers_in_prose_are_no_password(value: str) -> None:
    assert not is_password(value)


@pytest.mark.parametrize("value", ["Summer2024!", "S3cr3t-x9Y", "a1B2c3D4"])
def test_mixed_values_in_prose_are_passwords(value: str) -> None:
    assert is_password(value)


def test_letters_that_change_case_like_dice_are_no_words() -> None:
    assert is_scrambled("KdjvssEzAkWJ")
    assert not is_scrambled("getPasswordFromEnvironment")
    assert not is_scrambled("XMLHttpRequest")


def test_names_are_cut_at_case_and_marks() -> None:
    assert words_of("AWSSecretAccessKey_v2-x") == ["aws", "secret", "access", "key", "v2", "x"]


@pytest.mark.parametrize(
    "value",
    [
        "",
        "***",
        "xxxxxxxx",
        "${X}",
        "$(pass x)",
        "{{ x }}",
        "$API_KEY",
        "<token>",
        "[PASSWORD]",
        "YOUR_API_KEY",
        "changeme",
        "None",
        "%PW%",
        "aaaaaaaaaaaa",
        "os.environ['X']",
        "[REDACTED:jwt]",
        "[redaction-unavailable]",
    ],
)
def test_placeholders_are_known(value: str) -> None:
    assert is_placeholder(value)


@pytest.mark.parametrize(
    "value", ["hunter2!", expand("<w32>"), expand("<l26>"), "444985139192495756175244"]
)
def test_generated_values_are_opaque(value: str) -> None:
    assert is_opaque(value)


@pytest.mark.parametrize(
    "value",
    [
        "short",
        "content-disposition",
        "/var/lib/x/y",
        "https://h/p",
        "config1.yaml",
        "1.2.3",
        "123456",
        "2026-01-01T00:00:00Z",
        "aaabbbcccdddaaabbbccc",
        "......",
    ],
)
def test_words_paths_and_numbers_are_not_opaque(value: str) -> None:
    assert not is_opaque(value)


@pytest.mark.parametrize(
    "value", [expand("<h40>"), "38558ef5-ae1f-4b9e-8216-43f43a7eb74c", "sha256:abc123def4567890xyz"]
)
def test_digests_and_uuids_are_not_strong(value: str) -> None:
    assert not is_strong(value)


def test_entropy_is_counted_in_bits() -> None:
    assert entropy_bits("") == 0
    assert entropy_bits("aaaa") == 0
    assert entropy_bits("abab") == 1


@pytest.mark.parametrize(("value", "expected"), [("dTpw", True), ("dXB3", False), ("d", False)])
def test_basic_pair_is_base64_with_a_colon(value: str, expected: bool) -> None:
    assert is_basic_pair(value) is expected


@pytest.mark.parametrize(
    "text",
    [
        'app.config["SECRET_KEY"] = "aKyZClg9hYbK6slvoxoxTO7o"',
        "password: Tr0ub4dor&3YY9K",
        "grant_type=password&password=UeGk0urEpqX9ej&scope=all",
        'System.setProperty("X_TOKEN", "8fj3kd02kfj3mm4kd93j")',
        'std::string secret("fj3kd02kfj3mm");',
        "api_key: `fj3kd02kfj3mm`",
        "password: 'it-is9x'",
        'var x_token string = "fj3kd02kfj3mm"',
        "API key:\n    DSLQ0jetinczELfj3kd02kfj3mm99\n",
        r"{\"env\": {\"DB_PASSWORD\": \"PYwpOmDLaaJ5\"",
        "HUNTER_PASSWORD=hunterhunter",
        "password=c1!x{yz",
        'password: "unclosed9 and more',
        "discordToken=444985139192495756175244",
    ],
)
def test_assignments_of_every_kind_are_found(text: str) -> None:
    cleaned = redact_text(text)
    assert "[REDACTED:" in cleaned
    assert not any(word in cleaned for word in ("fj3kd", "DSLQ", "PYwp", "UeGk", "unclosed9"))


@pytest.mark.parametrize(
    "text",
    [
        "token = get_token(request)",
        "password=[x for x in y1]",
        "key = filename, lineno",
        'token: "two words 1"',
        "secret:\n",
        "api key:\n  a: b\n",
        "password = (a1)",
        "password=%(pw)s",
        "the key: value",
        "print('token', 'x1y2')",
    ],
)
def test_code_and_prose_that_assign_nothing_secret_pass(text: str) -> None:
    assert redact_text(text) == text


def test_yaml_secret_of_kubernetes_loses_its_data_and_keeps_the_rest() -> None:
    text = (
        "a: 1\n---\nkind: Secret\ndata:\n  # note\n  x: YWI9\n  y: ${Y}\n"
        "\nmetadata:\n  name: abcdefgh\n"
    )
    assert redact_text(text) == text.replace("YWI9", "[REDACTED:k8s-secret]")


def test_yaml_of_another_kind_that_names_secrets_stays() -> None:
    text = "kind: Secret Santa\ndata:\n  x: YWI9\n"
    assert redact_text(text) == text


def test_vendor_prefix_inside_base64_is_chance() -> None:
    blob = "aB3" * 5 + "+AKIA" + expand("<A16>")
    assert redact_text(f"img {blob}") == f"img {blob}"
