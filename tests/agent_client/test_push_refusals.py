"""Refusals that say nothing about the batch, and places that cannot be used."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent_client import push
from agent_client.contract.wire import PATH_TELEMETRY, PROBLEM_CODES
from agent_client.credential import load_credential, save_credential
from agent_client.http import AddressError, connect_to
from agent_client.outbox import push_dir
from agent_client.store import Store
from tests.agent_client.homes import configure, enrolled, record
from tests.agent_client.loopback_console import (
    CREDENTIAL,
    Fault,
    LoopbackConsole,
)

GITHUB_KEY = "ghp_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"


@pytest.fixture
def console() -> Iterator[LoopbackConsole]:
    with LoopbackConsole() as running:
        yield running


@pytest.fixture
def home(tmp_path: Path, console: LoopbackConsole) -> Path:
    record(tmp_path)
    enrolled(tmp_path, console)
    return tmp_path


@pytest.mark.parametrize(
    ("status", "code", "exit_code"),
    [
        (404, "not_found", push.EXIT_FAILED),
        (426, "client_too_old", push.EXIT_FAILED),
        (403, "scope", push.EXIT_CREDENTIAL),
        (302, "redirect", push.EXIT_FAILED),
    ],
)
def test_a_refusal_that_is_not_about_the_batch_does_not_block_it(
    home: Path, console: LoopbackConsole, status: int, code: str, exit_code: int
) -> None:
    console.faults.append(Fault(PATH_TELEMETRY, "status", status, code))
    result = push.push_once(home)
    assert (result.reason, result.exit_code) == (code, exit_code)
    assert push.push_once(home).status == "pushed"


def test_damage_on_the_way_is_sent_again(home: Path, console: LoopbackConsole) -> None:
    console.faults.append(Fault(PATH_TELEMETRY, "status", 400, "digest_mismatch"))
    assert push.push_once(home, timing=push.Timing(sleep=lambda _seconds: None)).status == "pushed"


def test_an_endpoint_that_is_not_safe_is_not_spoken_to(
    home: Path, console: LoopbackConsole
) -> None:
    configure(home, "telemetry: {export: {console: {endpoint: 'http://far.example'}}}\n")
    assert push.push_once(home).reason == "address_refused"


@pytest.mark.parametrize(
    "endpoint", ["https://a..example", "https://far.example/ü", f"https://{'x' * 70}.example"]
)
def test_an_address_of_which_no_request_can_be_made_fails_plainly(
    home: Path, endpoint: str
) -> None:
    configure(home, f"telemetry: {{export: {{console: {{endpoint: '{endpoint}'}}}}}}\n")
    assert push.push_once(home).reason == "address_refused"


@pytest.mark.parametrize("proxy", ["http://proxy:port", "http://[::1"])
def test_a_proxy_that_is_none_fails_plainly(
    home: Path, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("https_proxy", proxy)
    configure(home, "telemetry: {export: {console: {endpoint: 'https://far.example'}}}\n")
    assert push.push_once(home).reason == "address_refused"


@pytest.mark.parametrize("end", ["\n", "\nx", "\u2028"])
def test_a_credential_that_no_header_may_hold_is_not_quoted(home: Path, end: str) -> None:
    credential = load_credential(home)
    assert credential is not None
    save_credential(home, replace(credential, credential=f"sesame{end}"))
    result = push.push_once(home)
    assert (result.status, result.reason) == ("failed", "address_refused")
    assert "sesame" not in result.detail


def test_a_refusal_that_echoes_the_credential_is_shown_without_it(
    home: Path, console: LoopbackConsole, monkeypatch: pytest.MonkeyPatch
) -> None:
    title = f"you sent Bearer {CREDENTIAL} and {GITHUB_KEY}"
    monkeypatch.setitem(PROBLEM_CODES, "malformed_body", (400, title))
    console.faults.append(Fault(PATH_TELEMETRY, "status", 400, "malformed_body"))
    result = push.push_once(home)
    assert result.status == "blocked"
    assert "you sent Bearer [" in result.detail
    assert CREDENTIAL not in result.detail
    assert GITHUB_KEY not in result.detail


@pytest.mark.parametrize("location", ["http://[bad", "https://a%1b[31m\x1b/", ""])
def test_a_redirect_to_nowhere_fails_plainly(
    home: Path, console: LoopbackConsole, location: str
) -> None:
    fault = Fault(PATH_TELEMETRY, "status", 302, "redirect", headers={"Location": location})
    console.faults.append(fault)
    result = push.push_once(home)
    assert (result.reason, result.detail.isprintable()) == ("redirect", True)


def test_a_receipt_whose_codes_are_no_codes_is_shown_without_them(
    home: Path, console: LoopbackConsole
) -> None:
    def lie() -> None:
        batch_id = console.requests[-1].headers["idempotency-key"]
        fault.reply |= {
            "batch_id": batch_id,
            "received": 3,
            "accepted": {},
            "rejected_counts": {f"Bearer {CREDENTIAL}": 1, "\x1b[2J": 1, "wrong_type": 1},
            "policy_etag": "x" * 1_000,
        }

    fault = Fault(PATH_TELEMETRY, "reply", action=lie)
    console.faults.append(fault)
    assert push.push_once(home).rejected_counts == {"other": 2, "wrong_type": 1}
    with Store(home) as store:
        kept = store.state_get("push.receipt") or ""
    assert CREDENTIAL not in kept
    assert len(kept) < 500


@pytest.mark.parametrize("layer", ["user", "managed"])
@pytest.mark.parametrize(
    "text", ["telemetry: {export: {console: {enabled: fal", "- a list", "a: &a [*a]"]
)
def test_a_configuration_that_cannot_be_read_lets_nothing_out(
    home: Path,
    console: LoopbackConsole,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    layer: str,
    text: str,
) -> None:
    managed = tmp_path_factory.mktemp("managed")
    monkeypatch.setenv("HERMES_MANAGED_DIR", str(managed))
    configure(home if layer == "user" else managed, text)
    result = push.push_once(home)
    assert (result.status, result.exit_code) == ("closed", push.EXIT_CLOSED)
    assert "config.yaml" in result.detail
    assert console.sent(PATH_TELEMETRY) == []


def test_an_address_that_cannot_be_read_is_not_quoted() -> None:
    with pytest.raises(AddressError) as caught:
        connect_to("https://user:sesame/more@host.example")
    assert "sesame" not in str(caught.value)


def test_a_folder_that_cannot_be_written_fails_plainly(home: Path) -> None:
    push_dir(home).write_text("a file in the folder's place")
    assert push.push_once(home).exit_code == push.EXIT_FAILED


def test_enrolling_elsewhere_during_a_push_ends_it(home: Path, console: LoopbackConsole) -> None:
    credential = load_credential(home)
    assert credential is not None

    def move(result: push.PushResult) -> None:
        save_credential(home, replace(credential, fleet_id="another"))

    assert push.push_once(home, on_batch=move).reason == "enrolled_elsewhere"
