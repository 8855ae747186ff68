"""The aggregate plane on its way out: only under consent, each run once, gone when withdrawn."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_client import config, preview, push, push_planes, push_send
from agent_client.contract.wire import PATH_TELEMETRY
from agent_client.policy.posture import resolve
from agent_client.store import Store, database_path
from tests.agent_client.homes import configure, enrolled
from tests.agent_client.loopback_console import LoopbackConsole
from tests.agent_client.summaries import (
    CONSENT,
    NO_CONSENT,
    SECOND_NS,
    aggregate_posts,
    run_of,
    summed_up,
)


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


# ----------------------------------------------------------------------------- what is sent


def test_a_run_under_consent_is_summed_up_once_beside_its_rows(
    home: Path, console: LoopbackConsole
) -> None:
    run_of(home, 1)
    result = push.push_once(home)
    assert (result.status, result.rows) == ("pushed", 3)
    assert result.planes["local"].accepted == 2
    assert result.planes["aggregate"].accepted == 1
    assert result.planes["trajectories"].status == "closed"
    assert summed_up(console) == ["run-1"]
    assert push.push_once(home).status == "nothing"


def test_its_headers_name_plane_and_consent_and_no_losses(
    home: Path, console: LoopbackConsole
) -> None:
    with Store(home) as store:
        store.state_set({"loss.overflow": "4"})
    run_of(home, 1)
    push.push_once(home)
    headers = console.sent(PATH_TELEMETRY)[-1].headers
    assert headers["telemetry-plane"] == "aggregate"
    assert json.loads(headers["telemetry-consent"])["consent_state"] == "aggregate"
    assert headers["telemetry-losses"] == "{}"


def test_the_preview_shows_the_bytes_that_are_then_sent(
    home: Path, console: LoopbackConsole
) -> None:
    run_of(home, 1, platform="telegram", estimated_cost_usd=0.1)
    run_of(home, 2)
    events = preview.preview(database_path(home))
    dry = push.preview_push(home)
    assert isinstance(dry, list)
    push.push_once(home)
    sent = gzip.decompress(aggregate_posts(console)[-1][1])
    assert [json.loads(line) for line in sent.splitlines()] == events
    lines = (json.dumps(event, separators=(",", ":")).encode() + b"\n" for event in events)
    assert sent == b"".join(lines) == dry[-1].body


def test_a_run_whose_cost_comes_later_is_sent_again_as_the_same_record(
    home: Path, console: LoopbackConsole
) -> None:
    run_of(home, 1)
    push.push_once(home)
    run_of(home, 1, start_ns=time.time_ns(), estimated_cost_usd=0.25, cost_status="actual")
    push.push_once(home)
    assert summed_up(console) == ["run-1"]
    assert console.summaries["workflow_completed", "run-1"]["estimated_cost_usd"] == 0.25


def test_a_run_in_progress_waits_for_its_end(home: Path, console: LoopbackConsole) -> None:
    start_ns = time.time_ns()
    run_of(home, 1, start_ns=start_ns, end_ns=None, end_reason=None)
    run_of(home, 2)
    push.push_once(home)
    assert summed_up(console) == ["run-2"]
    run_of(home, 1, start_ns=start_ns)
    push.push_once(home)
    assert summed_up(console) == ["run-1", "run-2"]


def test_a_heartbeat_goes_out_once_a_day_and_at_a_new_version(
    home: Path, console: LoopbackConsole, monkeypatch: pytest.MonkeyPatch
) -> None:
    def beats() -> int:
        return sum(kind == "heartbeat" for kind, _ in console.summaries)

    assert beats() == 1  # the fixture's push
    push.push_once(home)
    assert beats() == 1
    monkeypatch.setattr(preview, "host_version", lambda: "99.0")
    push.push_once(home)
    push.push_once(home)
    assert beats() == 2
    tomorrow_ns = time.time_ns() + 86_400 * SECOND_NS
    push.push_once(home, timing=push.Timing(clock_ns=lambda: tomorrow_ns))
    assert beats() == 3


def test_many_runs_go_in_batches(
    home: Path, console: LoopbackConsole, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        run_of(home, number)
    monkeypatch.setitem(push_send.MAX_ROWS, "aggregate", 2)
    assert push.push_once(home).planes["aggregate"].batches == 3
    assert len(summed_up(console)) == 5


def test_a_batch_ends_before_it_is_too_large(
    home: Path, console: LoopbackConsole, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        run_of(home, number)
    monkeypatch.setattr(push_planes, "MAX_BATCH_BYTES", 900)
    assert push.push_once(home).planes["aggregate"].batches > 1
    assert len(summed_up(console)) == 3


def test_a_dry_run_before_the_first_push_shows_no_past_and_begins_nothing(
    tmp_path: Path, console: LoopbackConsole
) -> None:
    enrolled(tmp_path, console)
    run_of(tmp_path, 1)
    push.push_once(tmp_path)
    configure(tmp_path, CONSENT)
    found = push.preview_push(tmp_path)
    assert isinstance(found, list)
    assert [preview.counts for preview in found] == [{"heartbeat": 1}]
    with Store(tmp_path) as store:
        assert store.state_keys("push.aggregate.since_ns") == []
    assert aggregate_posts(console) == []


def test_a_dry_run_with_nothing_to_send_says_so(home: Path) -> None:
    assert push.preview_push(home) == push.PushResult("nothing", 0)


# ----------------------------------------------------------------------------- gates


@pytest.mark.parametrize(
    "text",
    [
        "",
        NO_CONSENT,
        "telemetry: {consent_state: AGGREGATE}\n",
        "telemetry: {consent_state: aggregate, allow_aggregate: false}\n",
        "telemetry: {consent_state: aggregate, allow_aggregate: perhaps}\n",
    ],
)
def test_without_consent_or_against_the_gate_no_summary_leaves(
    tmp_path: Path, console: LoopbackConsole, text: str
) -> None:
    enrolled(tmp_path, console)
    configure(tmp_path, text)
    run_of(tmp_path, 1)
    result = push.push_once(tmp_path)
    assert (result.status, result.planes["aggregate"].status) == ("pushed", "closed")
    assert result.planes["aggregate"].detail.startswith("telemetry.")
    assert aggregate_posts(console) == []


def test_a_pin_closes_the_gate_whatever_the_user_says(
    home: Path, console: LoopbackConsole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    managed = tmp_path / "managed"
    managed.mkdir()
    configure(managed, "telemetry: {allow_aggregate: false}\n")
    monkeypatch.setenv("HERMES_MANAGED_DIR", str(managed))
    run_of(home, 1)
    closed = push.push_once(home).planes["aggregate"]
    assert closed.detail == "telemetry.allow_aggregate is off (managed)"
    assert summed_up(console) == []


def test_nothing_leaves_without_an_enrollment(tmp_path: Path) -> None:
    configure(tmp_path, CONSENT)
    run_of(tmp_path, 1)
    assert push.push_once(tmp_path).exit_code == push.EXIT_CREDENTIAL


def test_what_happened_before_the_consent_is_never_sent(
    tmp_path: Path, console: LoopbackConsole
) -> None:
    enrolled(tmp_path, console)
    run_of(tmp_path, 1)
    push.push_once(tmp_path)
    run_of(tmp_path, 2)
    configure(tmp_path, CONSENT)
    push.push_once(tmp_path)
    run_of(tmp_path, 3)
    # A cost that comes late touches the old run's row, and with it its place in the queue.
    before_ns = time.time_ns() - 3600 * SECOND_NS
    run_of(tmp_path, 1, start_ns=before_ns, end_ns=before_ns + 1, estimated_cost_usd=1.0)
    push.push_once(tmp_path)
    assert summed_up(console) == ["run-3"]


def test_what_happened_while_it_was_withdrawn_is_never_sent(
    home: Path, console: LoopbackConsole
) -> None:
    run_of(home, 1)
    push.push_once(home)
    configure(home, NO_CONSENT)
    push.push_once(home)
    run_of(home, 2)
    configure(home, CONSENT)
    push.push_once(home)
    run_of(home, 3)
    push.push_once(home)
    assert summed_up(console) == ["run-1", "run-3"]


def test_local_rows_stay_when_only_summaries_may_leave(
    home: Path, console: LoopbackConsole
) -> None:
    run_of(home, 1)
    configure(home, "telemetry: {local: false, consent_state: aggregate}\n")
    result = push.push_once(home)
    assert (result.status, result.planes["local"].status) == ("pushed", "closed")
    assert (summed_up(console), console.rows) == (["run-1"], {})


def test_where_every_plane_is_shut_a_push_writes_nothing(
    tmp_path: Path, console: LoopbackConsole
) -> None:
    enrolled(tmp_path, console)
    configure(tmp_path, "telemetry: {local: false}\n")
    result = push.push_once(tmp_path)
    assert (result.exit_code, set(result.planes)) == (
        push.EXIT_CLOSED,
        {"local", "aggregate", "trajectories"},
    )
    assert push.preview_push(tmp_path) == result
    assert not database_path(tmp_path).exists()


def test_trajectories_have_a_gate_and_it_is_shut(home: Path) -> None:
    configure(home, "telemetry: {trajectories: {enabled: true}, consent_state: aggregate}\n")
    assert not resolve(config.load(home)).may_upload_trajectories()
    assert push.push_once(home).planes["trajectories"].exit_code == push.EXIT_CLOSED
