"""Refusals that say nothing about the batch, and places that cannot be used."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent_client import push
from agent_client.contract.wire import PATH_TELEMETRY
from agent_client.credential import load_credential, save_credential
from agent_client.outbox import push_dir
from tests.agent_client.homes import configure, enrolled, record
from tests.agent_client.loopback_console import Fault, LoopbackConsole


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


def test_a_folder_that_cannot_be_written_fails_plainly(home: Path) -> None:
    push_dir(home).write_text("a file in the folder's place")
    assert push.push_once(home).exit_code == push.EXIT_FAILED


def test_enrolling_elsewhere_during_a_push_ends_it(home: Path, console: LoopbackConsole) -> None:
    credential = load_credential(home)
    assert credential is not None

    def move(result: push.PushResult) -> None:
        save_credential(home, replace(credential, fleet_id="another"))

    assert push.push_once(home, on_batch=move).reason == "enrolled_elsewhere"
