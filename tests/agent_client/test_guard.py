"""The guard: nothing of ours reaches the host, and nothing of it goes uncounted."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from agent_client import guard
from agent_client.guard import faults, never_raise, note_fault
from tests.agent_client.builders import ROOT

SECRET = "CANARY"


@pytest.fixture(autouse=True)
def _own_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_faults", {})


@never_raise("place")
def fail(error: BaseException) -> object:
    raise error


@never_raise("place")
def succeed() -> object:
    return "a value the host would take for an answer"


@never_raise("place")
def fail_somehow() -> object:
    raise ValueError


def test_a_guarded_function_returns_none_whatever_it_does() -> None:
    results: list[object] = [guarded() for guarded in (succeed, fail_somehow)]
    assert results == [None, None]


def test_faults_are_counted_by_place_and_class() -> None:
    for error in (ValueError(), ValueError(), KeyError()):
        fail(error)
    assert faults() == {"place:KeyError": 1, "place:ValueError": 2}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit()])
def test_what_is_the_hosts_own_passes(error: BaseException) -> None:
    with pytest.raises(type(error)):
        fail(error)


def test_a_fault_is_logged_once_by_its_class_and_never_by_its_message(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for _ in range(3):
        fail(ValueError(SECRET))
    (record,) = caplog.records
    assert record.getMessage() == "telemetry fault in place: ValueError"
    assert SECRET not in caplog.text


def test_a_handler_that_raises_does_not_reach_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError("closed")

    monkeypatch.setattr(guard.logger, "warning", broken)
    fail(ValueError())
    assert faults() == {"place:ValueError": 1}


def test_kinds_of_faults_are_bounded() -> None:
    logging.getLogger("hermes_fleet")
    for number in range(guard.MAX_KINDS + 10):
        note_fault(f"place-{number}", ValueError())
    note_fault("place-0", ValueError())
    assert len(faults()) == guard.MAX_KINDS
    assert faults()["place-0:ValueError"] == 2


MODULES = (
    "guard spool journal recovery emitter store schema health export insights insights_text "
    "classify runs plugin"
).split()


def test_recording_loads_neither_a_server_nor_a_third_party() -> None:
    script = "import sys\n" + "".join(f"import agent_client.{name}\n" for name in MODULES)
    script += (
        "import sysconfig\n"
        "third = [n for n, m in sys.modules.items() "
        "if 'site-packages' in (getattr(m, '__file__', None) or '') and '.' not in n]\n"
        "bad = {'django', 'celery', 'yaml', 're2', 'phonenumbers', 'cryptography', 'requests'}\n"
        "print(sorted(bad & set(sys.modules)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout == "[]\n"
