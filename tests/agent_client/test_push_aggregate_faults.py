"""The aggregate plane withdrawn, killed and refused: nothing doubled, nothing let out."""

from __future__ import annotations

import gzip
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent_client import push, push_planes
from agent_client.contract.wire import PATH_TELEMETRY
from agent_client.credential import load_credential, save_credential
from agent_client.outbox import outbox_path, push_dir
from agent_client.progress import load_progress
from agent_client.store import Store, StoreError
from tests.agent_client.homes import configure, enrolled
from tests.agent_client.loopback_console import FLEET_ID, Fault, LoopbackConsole
from tests.agent_client.summaries import (
    CONSENT,
    NO_CONSENT,
    aggregate_posts,
    hold_a_batch,
    only_summaries,
    quick,
    run_of,
    summed_up,
)
from tests.agent_client.test_push import run_child


@pytest.fixture
def console() -> Iterator[LoopbackConsole]:
    with LoopbackConsole() as running:
        yield running


@pytest.fixture
def home(tmp_path: Path, console: LoopbackConsole) -> Path:
    """Enrolled, with consent that one push has seen."""
    enrolled(tmp_path, console)
    configure(tmp_path, CONSENT)
    assert push.push_once(tmp_path).exit_code == 0
    return tmp_path


# ----------------------------------------------------------------------------- withdrawal


@pytest.mark.parametrize(
    "text", [NO_CONSENT, "telemetry: {export: {console: {enabled: false}}}\n", None]
)
def test_a_withdrawal_deletes_what_waits_before_anything_is_sent(
    home: Path, console: LoopbackConsole, text: str | None
) -> None:
    hold_a_batch(home, console)
    (push_dir(home) / ".outbox-aggregate.77.tmp").write_bytes(b"half")
    (push_dir(home) / "outbox-aggregate.damaged").write_bytes(b"evidence")
    if text is None:  # not enrolled any more, and withdrawn
        (home / "telemetry" / "credential").unlink()
    configure(home, text or NO_CONSENT)
    sent = len(aggregate_posts(console))
    push.push_once(home)
    assert list(push_dir(home).glob("*outbox-aggregate*")) == []
    configure(home, CONSENT)
    push.push_once(home)
    assert summed_up(console) == ["run-1"]
    assert not any(b"run-2" in gzip.decompress(body) for _, body in aggregate_posts(console)[sent:])


def test_a_death_during_a_withdrawal_lets_nothing_out(
    home: Path, console: LoopbackConsole, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold_a_batch(home, console)
    configure(home, NO_CONSENT)

    def die(home: Path, plane: str) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(push_planes, "purge_outbox", die)
        with pytest.raises(KeyboardInterrupt):
            push.push_once(home)
    assert outbox_path(home, "aggregate").exists()
    configure(home, CONSENT)
    push.push_once(home)
    assert summed_up(console) == ["run-1"]


def test_a_store_that_cannot_be_written_keeps_no_summary_back(
    home: Path, console: LoopbackConsole, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold_a_batch(home, console)
    configure(home, NO_CONSENT)

    def full(self: Store, values: object) -> None:
        raise StoreError("no space left")

    monkeypatch.setattr(Store, "state_set", full)
    assert push.push_once(home).exit_code == push.EXIT_FAILED
    assert not outbox_path(home, "aggregate").exists()


def test_summaries_kept_for_another_fleet_are_deleted(home: Path, console: LoopbackConsole) -> None:
    hold_a_batch(home, console)
    credential = load_credential(home)
    assert credential is not None
    save_credential(home, replace(credential, fleet_id="another"))
    push.push_once(home)
    assert list(push_dir(home).glob("outbox-aggregate*")) == []
    assert summed_up(console) == ["run-1"]


# ----------------------------------------------------------------------------- faults


def test_a_plane_that_the_console_closes_does_not_stop_the_other(
    home: Path, console: LoopbackConsole
) -> None:
    console.closed_planes.add("aggregate")
    run_of(home, 1)
    result = push.push_once(home)
    assert (result.exit_code, result.planes["aggregate"].exit_code) == (0, push.EXIT_CLOSED)
    knocks = len(aggregate_posts(console))
    run_of(home, 2)
    assert push.push_once(home).planes["local"].accepted == 2
    assert len(aggregate_posts(console)) == knocks  # asked again in an hour
    console.closed_planes.clear()
    push.push_once(home, force=True)
    assert summed_up(console) == ["run-1", "run-2"]


def test_a_local_plane_that_the_console_closes_does_not_stop_the_other(
    home: Path, console: LoopbackConsole
) -> None:
    console.closed_planes.add("local")
    run_of(home, 1)
    assert push.push_once(home).exit_code == push.EXIT_CLOSED
    assert summed_up(console) == ["run-1"]


def test_a_console_out_of_reach_is_not_asked_for_each_plane(
    home: Path, console: LoopbackConsole
) -> None:
    run_of(home, 1)
    console.faults.append(Fault(PATH_TELEMETRY, "status", 503, "unavailable"))
    result = push.push_once(home, timing=replace(quick(), max_attempts=1))
    assert (result.status, next(iter(result.planes))) == ("later", "local")
    assert result.planes.keys() == {"local", "trajectories"}


@pytest.mark.parametrize("kind", ["drop", "truncate", "reset"])
def test_a_lost_answer_is_asked_for_again_with_the_same_bytes(
    home: Path, console: LoopbackConsole, kind: str
) -> None:
    run_of(home, 1)
    only_summaries(home)
    console.faults.append(Fault(PATH_TELEMETRY, kind))
    before = len(aggregate_posts(console))
    assert push.push_once(home, timing=quick()).status == "pushed"
    first, second = aggregate_posts(console)[before:]
    assert first == second


def test_a_withdrawal_during_the_tries_ends_them_and_deletes_the_batch(
    home: Path, console: LoopbackConsole
) -> None:
    run_of(home, 1)
    only_summaries(home)
    console.faults.append(Fault(PATH_TELEMETRY, "status", 500))
    before = len(aggregate_posts(console))
    timing = push.Timing(sleep=lambda _seconds: configure(home, "telemetry: {local: false}\n"))
    result = push.push_once(home, timing=timing)
    assert (result.status, len(aggregate_posts(console)) - before) == ("closed", 1)
    assert not outbox_path(home, "aggregate").exists()


KILLED_BEFORE_THE_CURSOR = """
import os, signal, sys
from pathlib import Path
from agent_client import push, push_send
def die(*args, **kw):
    os.kill(os.getpid(), signal.SIGKILL)
push_send.receipt_state = die
push.push_once(Path(sys.argv[1]))
"""
KILLED_AFTER_THE_CURSOR = KILLED_BEFORE_THE_CURSOR.replace("receipt_state", "clear_outbox")
KILLED_BEFORE_THE_SEND = KILLED_BEFORE_THE_CURSOR.replace(
    "push_send.receipt_state", "push_send.PlanePush._send"
)


@pytest.mark.parametrize(
    ("program", "posts"),
    [(KILLED_BEFORE_THE_SEND, 1), (KILLED_BEFORE_THE_CURSOR, 2), (KILLED_AFTER_THE_CURSOR, 1)],
    ids=["before the send", "before the cursor", "after the cursor"],
)
def test_sigkill_at_each_step_sums_the_run_up_once(
    home: Path, console: LoopbackConsole, program: str, posts: int
) -> None:
    run_of(home, 1)
    only_summaries(home)
    before = len(aggregate_posts(console))
    assert run_child(program, home).wait(30) == -signal.SIGKILL
    assert push.push_once(home).exit_code == 0
    sent = aggregate_posts(console)[before:]
    assert (len(sent), len(set(sent))) == (posts, 1)
    assert summed_up(console) == ["run-1"]
    assert not outbox_path(home, "aggregate").exists()


def test_sigkill_while_the_console_answers_sums_the_run_up_once(
    home: Path, console: LoopbackConsole
) -> None:
    run_of(home, 1)
    only_summaries(home)
    children: list[Any] = []
    fault = Fault(PATH_TELEMETRY, "drop")
    fault.action = lambda: os.kill(children[0].pid, signal.SIGKILL)
    console.faults.append(fault)
    program = "import sys\nfrom pathlib import Path\nfrom agent_client import push\n"
    children.append(run_child(program + "push.push_once(Path(sys.argv[1]))\n", home))
    assert children[0].wait(30) == -signal.SIGKILL
    assert push.push_once(home).status == "pushed"
    assert summed_up(console) == ["run-1"]


def test_a_damaged_batch_is_made_anew(home: Path, console: LoopbackConsole) -> None:
    run_of(home, 1)
    outbox_path(home, "aggregate").write_bytes(b'{"sha256": "x"}\nhalf')
    push.push_once(home)
    assert summed_up(console) == ["run-1"]


def test_a_refused_batch_is_kept_for_an_hour_and_hinders_no_other_plane(
    home: Path, console: LoopbackConsole
) -> None:
    run_of(home, 1)
    only_summaries(home)
    console.faults.append(Fault(PATH_TELEMETRY, "status", 422, "invalid"))
    assert push.push_once(home).status == "blocked"
    configure(home, CONSENT)
    result = push.push_once(home)
    assert (result.status, result.planes["local"].accepted) == ("blocked", 2)
    assert push.push_once(home, force=True).planes["aggregate"].status == "pushed"


def test_each_plane_has_a_cursor_of_its_own(home: Path) -> None:
    run_of(home, 1)
    push.push_once(home)
    with Store(home) as store:
        planes = [load_progress(store, FLEET_ID, plane).cursor for plane in ("local", "aggregate")]
        assert planes == [store.last_seq(), store.last_seq() - 1]  # a call follows the run


def test_a_wait_that_the_console_asks_for_holds_every_plane(
    home: Path, console: LoopbackConsole
) -> None:
    run_of(home, 1)
    console.faults.append(
        Fault(PATH_TELEMETRY, "status", 503, "unavailable", {"Retry-After": "900"})
    )
    push.push_once(home)
    held = push.push_once(home)
    assert (held.reason, held.pending) == ("asked_to_wait", 3)
    assert summed_up(console) == []
