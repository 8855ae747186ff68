from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent_client import outbox as outbox_module
from agent_client import push, push_send
from agent_client.config import install_id_path
from agent_client.contract.wire import PATH_TELEMETRY
from agent_client.credential import credential_path, load_credential, save_credential
from agent_client.files import exclusive_lock
from agent_client.outbox import new_batch_id, outbox_path, push_dir
from agent_client.progress import load_progress
from agent_client.store import Store, StoreError
from tests.agent_client.homes import configure, enrolled, record
from tests.agent_client.loopback_console import FLEET_ID, Fault, LoopbackConsole


class FakeTiming:
    """Records waits instead of waiting; time moves with them."""

    def __init__(self) -> None:
        self.now_ns = 1_800_000_000 * 10**9
        self.waits: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now_ns += int(seconds * 1e9)

    def timing(self) -> push.Timing:
        return push.Timing(lambda: self.now_ns, self.sleep, lambda: 1.0)


@pytest.fixture
def console() -> Iterator[LoopbackConsole]:
    with LoopbackConsole() as running:
        yield running


@pytest.fixture
def home(tmp_path: Path, console: LoopbackConsole) -> Path:
    record(tmp_path)
    enrolled(tmp_path, console)
    return tmp_path


def cursor_of(home: Path) -> int:
    with Store(home) as store:
        return load_progress(store, FLEET_ID).cursor


def last_seq_of(home: Path) -> int:
    with Store(home) as store:
        return store.last_seq()


def quick() -> push.Timing:
    return FakeTiming().timing()


def posts(console: LoopbackConsole) -> list[tuple[str, bytes]]:
    return [(r.headers["idempotency-key"], r.body) for r in console.sent(PATH_TELEMETRY)]


def test_every_recorded_row_arrives_once(home: Path, console: LoopbackConsole) -> None:
    result = push.push_once(home)
    assert (result.status, result.exit_code, result.rows) == ("pushed", 0, 3)
    assert len(console.rows) == 3
    assert cursor_of(home) == last_seq_of(home)
    assert not outbox_path(home).exists()


def test_a_second_push_has_nothing_to_send(home: Path, console: LoopbackConsole) -> None:
    push.push_once(home)
    assert push.push_once(home).status == "nothing"
    assert len(posts(console)) == 1


def test_headers_say_plane_sequence_consent_and_digest(
    home: Path, console: LoopbackConsole
) -> None:
    push.push_once(home)
    headers = console.sent(PATH_TELEMETRY)[0].headers
    assert headers["telemetry-plane"] == "local"
    assert headers["telemetry-sequence"] == f"1-{last_seq_of(home)}"
    assert json.loads(headers["telemetry-consent"])["consent_state"] == "unknown"
    assert headers["content-encoding"] == "gzip"
    assert headers["content-digest"].startswith("sha-256=:")


def test_nothing_leaves_before_enrollment(tmp_path: Path) -> None:
    record(tmp_path)
    assert push.push_once(tmp_path).exit_code == push.EXIT_CREDENTIAL


@pytest.mark.parametrize(
    "setting", ["local: false", 'local: "off"', "export: {console: {enabled: false}}"]
)
def test_a_closed_plane_is_refused_on_the_machine(
    home: Path, console: LoopbackConsole, setting: str
) -> None:
    configure(home, f"telemetry:\n  {setting}\n")
    assert push.push_once(home).exit_code == push.EXIT_CLOSED
    assert posts(console) == []


def test_a_managed_pin_closes_the_gate_whatever_the_user_says(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    managed = tmp_path / "managed"
    managed.mkdir()
    configure(managed, "telemetry: {export: {console: {enabled: false}}}\n")
    configure(home, "telemetry: {export: {console: {enabled: true}}}\n")
    monkeypatch.setenv("HERMES_MANAGED_DIR", str(managed))
    result = push.push_once(home)
    assert result.exit_code == push.EXIT_CLOSED
    assert "(managed)" in result.detail


def test_a_cleared_install_id_stops_the_push(home: Path, console: LoopbackConsole) -> None:
    install_id_path(home).write_text("")
    assert push.push_once(home).reason == "install_id_changed"
    assert posts(console) == []


@pytest.mark.parametrize("kind", ["drop", "truncate", "reset"])
def test_a_lost_answer_is_asked_for_again_with_the_same_bytes_and_id(
    home: Path, console: LoopbackConsole, kind: str
) -> None:
    console.faults.append(Fault(PATH_TELEMETRY, kind))
    result = push.push_once(home, timing=quick())
    assert result.status == "pushed"
    first, second = posts(console)
    assert first == second
    assert len(console.batches) == 1
    assert cursor_of(home) == last_seq_of(home)


def test_an_answer_lost_for_good_keeps_the_batch_for_the_next_push(
    home: Path, console: LoopbackConsole
) -> None:
    console.faults.extend(Fault(PATH_TELEMETRY, "drop") for _ in range(push_send.MAX_ATTEMPTS))
    assert push.push_once(home, timing=quick()).exit_code == push.EXIT_LATER
    assert cursor_of(home) == 0
    record(home)
    assert push.push_once(home).status == "pushed"
    sent = posts(console)
    assert len(set(sent[: push_send.MAX_ATTEMPTS + 1])) == 1
    assert len(console.rows) == 6


def test_a_death_before_the_send_repeats_the_kept_batch(
    home: Path, console: LoopbackConsole, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*args: object, **kw: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(push_send.PlanePush, "_send", die)
        with pytest.raises(KeyboardInterrupt):
            push.push_once(home)
    kept = outbox_module.read_outbox(home)
    assert kept is not None
    push.push_once(home)
    assert posts(console) == [(kept.batch_id, kept.body)]


def test_a_death_before_the_cursor_moves_repeats_the_batch_and_stores_nothing_twice(
    home: Path, console: LoopbackConsole, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(self: Store, values: object) -> None:
        raise StoreError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "state_set", die)
        assert push.push_once(home).exit_code == push.EXIT_FAILED
    assert push.push_once(home).status == "pushed"
    first, second = posts(console)
    assert first == second
    assert len(console.rows) == 3


def test_a_death_after_the_cursor_moved_sends_nothing_again(
    home: Path, console: LoopbackConsole, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(home: Path, plane: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(push_send, "clear_outbox", die)
        with pytest.raises(KeyboardInterrupt):
            push.push_once(home)
    assert push.push_once(home).status == "nothing"
    assert len(posts(console)) == 1
    assert not outbox_path(home).exists()


KILLED_BEFORE_THE_CURSOR = """
import os, signal, sys
from pathlib import Path
from agent_client import push, push_send
from agent_client.store import Store
Store.state_set = lambda self, values: os.kill(os.getpid(), signal.SIGKILL)
push.push_once(Path(sys.argv[1]))
"""
KILLED_BY_THE_CONSOLE = """
import sys
from pathlib import Path
from agent_client import push, push_send
push.push_once(Path(sys.argv[1]))
"""


def run_child(program: str, home: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", program, str(home)])


def test_sigkill_before_the_cursor_moves_loses_and_doubles_nothing(
    home: Path, console: LoopbackConsole
) -> None:
    child = run_child(KILLED_BEFORE_THE_CURSOR, home)
    assert child.wait(30) == -signal.SIGKILL
    assert cursor_of(home) == 0
    assert push.push_once(home).status == "pushed"
    first, second = posts(console)
    assert first == second
    assert (len(console.batches), len(console.rows)) == (1, 3)


def test_sigkill_while_the_console_answers_loses_and_doubles_nothing(
    home: Path, console: LoopbackConsole
) -> None:
    children: list[subprocess.Popen[bytes]] = []
    fault = Fault(PATH_TELEMETRY, "drop")
    fault.action = lambda: os.kill(children[0].pid, signal.SIGKILL)
    console.faults.append(fault)
    children.append(run_child(KILLED_BY_THE_CONSOLE, home))
    assert children[0].wait(30) == -signal.SIGKILL
    assert push.push_once(home).status == "pushed"
    first, second = posts(console)
    assert first == second
    assert (len(console.batches), len(console.rows)) == (1, 3)


def wrong_receipt(home: Path, **changes: object) -> dict[str, object]:
    right: dict[str, object] = {
        "batch_id": "x",
        "received": 3,
        "accepted": {"tel_runs": 1, "tel_model_calls": 2},
        "duplicates": 0,
        "rejected_counts": {},
    }
    return {**right, **changes}


@pytest.mark.parametrize(
    "changes",
    [
        {"batch_id": "0198c0de-0000-7000-8000-000000000000"},
        {"received": 2},
        {"accepted": {"tel_runs": 1}},
        {"duplicates": -1, "received": 2},
        {"accepted": "three"},
        {"rejected": [1]},
    ],
)
def test_a_receipt_that_does_not_fit_moves_nothing(
    home: Path, console: LoopbackConsole, changes: dict[str, object]
) -> None:
    console.faults.append(Fault(PATH_TELEMETRY, "reply", reply=wrong_receipt(home, **changes)))
    assert push.push_once(home).reason == "bad_receipt"
    assert cursor_of(home) == 0
    assert push.push_once(home).status == "pushed"
    first, second = posts(console)
    assert first == second


def test_retry_after_is_obeyed_within_a_push(home: Path, console: LoopbackConsole) -> None:
    fake = FakeTiming()
    wait = Fault(PATH_TELEMETRY, "status", 429, "rate_limited", {"Retry-After": "7"})
    console.faults.append(wait)
    assert push.push_once(home, timing=fake.timing()).status == "pushed"
    assert fake.waits == [7.0]


def test_a_long_retry_after_ends_the_push_and_holds_the_next(
    home: Path, console: LoopbackConsole
) -> None:
    fake = FakeTiming()
    wait = Fault(PATH_TELEMETRY, "status", 503, "unavailable", {"Retry-After": "900"})
    console.faults.append(wait)
    result = push.push_once(home, timing=fake.timing())
    assert (result.exit_code, result.retry_after_s) == (push.EXIT_LATER, 900.0)
    assert push.push_once(home, timing=fake.timing()).reason == "asked_to_wait"
    assert len(posts(console)) == 1
    fake.now_ns += 901 * 10**9
    assert push.push_once(home, timing=fake.timing()).status == "pushed"


def test_force_does_not_keep_to_a_wait(home: Path, console: LoopbackConsole) -> None:
    wait = Fault(PATH_TELEMETRY, "status", 503, "unavailable", {"Retry-After": "900"})
    console.faults.append(wait)
    push.push_once(home)
    assert push.push_once(home, force=True).status == "pushed"


def test_back_off_grows_with_full_jitter(home: Path, console: LoopbackConsole) -> None:
    fake = FakeTiming()
    console.faults.extend(
        Fault(PATH_TELEMETRY, "status", 500) for _ in range(push_send.MAX_ATTEMPTS)
    )
    timing = replace(fake.timing(), chance=lambda: 0.5)
    assert push.push_once(home, timing=timing).exit_code == push.EXIT_LATER
    assert fake.waits == [0.5, 1.0, 2.0, 4.0]


def test_a_refused_credential_stops_with_its_own_exit_code(
    home: Path, console: LoopbackConsole
) -> None:
    console.credential_is_good = False
    result = push.push_once(home)
    assert (result.status, result.exit_code) == ("rejected", push.EXIT_CREDENTIAL)
    assert outbox_path(home).exists()


def test_a_plane_closed_by_the_console_stops_with_its_own_exit_code(
    home: Path, console: LoopbackConsole
) -> None:
    console.faults.append(Fault(PATH_TELEMETRY, "status", 403, "plane_closed"))
    assert push.push_once(home).exit_code == push.EXIT_CLOSED


def test_a_refused_batch_is_kept_and_not_sent_in_a_loop(
    home: Path, console: LoopbackConsole
) -> None:
    fake = FakeTiming()
    console.faults.append(Fault(PATH_TELEMETRY, "status", 422, "invalid"))
    assert push.push_once(home, timing=fake.timing()).status == "blocked"
    assert push.push_once(home, timing=fake.timing()).status == "blocked"
    assert len(posts(console)) == 1
    assert outbox_path(home).exists()
    fake.now_ns += int(push_send.BLOCKED_RETRY_S * 1e9)
    assert push.push_once(home, timing=fake.timing()).status == "pushed"


def test_too_large_a_batch_is_halved_until_it_fits(home: Path, console: LoopbackConsole) -> None:
    record(home, runs=3)
    console.max_lines = 3
    result = push.push_once(home)
    assert (result.status, result.rows) == ("pushed", 12)
    assert len(console.rows) == 12


def test_a_foreign_batch_under_our_id_gets_a_new_id_and_leaves_evidence(
    home: Path, console: LoopbackConsole
) -> None:
    console.faults.append(Fault(PATH_TELEMETRY, "status", 409, "batch_mismatch"))
    assert push.push_once(home).status == "pushed"
    first, second = posts(console)
    assert first[0] != second[0]
    assert [path.name for path in push_dir(home).glob("outbox.mismatch*")] == ["outbox.mismatch"]


def test_a_second_mismatch_ends_the_push(home: Path, console: LoopbackConsole) -> None:
    console.faults.extend(Fault(PATH_TELEMETRY, "status", 409, "batch_mismatch") for _ in "12")
    assert push.push_once(home).exit_code == push.EXIT_FAILED


def test_refused_lines_make_the_push_partial(home: Path, console: LoopbackConsole) -> None:
    console.refused_lines = 1
    result = push.push_once(home)
    assert (result.exit_code, result.rejected_counts) == (push.EXIT_PARTIAL, {"wrong_type": 1})
    assert cursor_of(home) == last_seq_of(home)


def test_only_one_push_runs_at_a_time(home: Path, console: LoopbackConsole) -> None:
    with exclusive_lock(push_dir(home) / "lock") as is_held:
        assert is_held
        assert push.push_once(home).status == "busy"
    assert posts(console) == []


def test_a_damaged_outbox_is_set_aside_and_its_rows_still_go(
    home: Path, console: LoopbackConsole
) -> None:
    push_dir(home).mkdir(parents=True)
    outbox_path(home).write_bytes(b'{"sha256": "x"}\nhalf')
    assert push.push_once(home).rows == 3
    assert (push_dir(home) / "outbox.damaged").exists()


def test_a_wrong_digit_in_a_kept_batch_moves_no_cursor_past_rows_that_never_left(
    home: Path, console: LoopbackConsole
) -> None:
    console.faults.append(Fault(PATH_TELEMETRY, "status", 422, "invalid"))
    push.push_once(home)
    kept = outbox_path(home).read_bytes()
    outbox_path(home).write_bytes(kept.replace(b'"last_seq":3,', b'"last_seq":9,'))
    assert push.push_once(home, force=True).rows == 3
    assert (push_dir(home) / "outbox.damaged").exists()
    assert cursor_of(home) == last_seq_of(home)


def test_a_batch_kept_for_another_fleet_is_set_aside(home: Path, console: LoopbackConsole) -> None:
    console.faults.append(Fault(PATH_TELEMETRY, "status", 422, "invalid"))
    push.push_once(home)
    credential = load_credential(home)
    assert credential is not None
    save_credential(home, replace(credential, fleet_id="another"))
    assert push.push_once(home).status == "pushed"
    assert (push_dir(home) / "outbox.other-install").exists()


def test_a_gate_that_closes_during_a_push_ends_it(
    home: Path, console: LoopbackConsole, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(home, runs=2)
    monkeypatch.setitem(push_send.MAX_ROWS, "local", 3)

    def close(result: push.PushResult) -> None:
        configure(home, "telemetry: {local: false}\n")

    result = push.push_once(home, on_batch=close)
    assert (result.exit_code, result.batches, result.pending) == (push.EXIT_CLOSED, 1, 6)


def test_losses_are_reported_once(home: Path, console: LoopbackConsole) -> None:
    with Store(home) as store:
        store.state_set({"loss.overflow": "4"})
    push.push_once(home)
    record(home)
    push.push_once(home)
    losses = [json.loads(r.headers["telemetry-losses"]) for r in console.sent(PATH_TELEMETRY)]
    assert losses == [{"overflow": 4}, {}]


def test_max_batches_leaves_the_rest_pending(
    home: Path, console: LoopbackConsole, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(push_send.MAX_ROWS, "local", 1)
    result = push.push_once(home, max_batches=2)
    assert (result.batches, result.pending) == (2, 1)


def test_a_preview_shows_the_bytes_that_a_push_then_sends(
    home: Path, console: LoopbackConsole
) -> None:
    found = push.preview_push(home)
    assert isinstance(found, list)
    (preview,) = found
    assert not outbox_path(home).exists()
    assert posts(console) == []
    push.push_once(home)
    assert gzip.decompress(posts(console)[0][1]) == preview.body


def test_a_batch_id_is_a_uuid_of_version_seven_that_sorts_by_time() -> None:
    early, late = new_batch_id(10**18), new_batch_id(2 * 10**18)
    assert (early[14], early[19] in "89ab", early < late) == ("7", True, True)


def test_credential_and_outbox_are_private(home: Path, console: LoopbackConsole) -> None:
    console.faults.append(Fault(PATH_TELEMETRY, "status", 422, "invalid"))
    push.push_once(home)
    for path in (credential_path(home), outbox_path(home)):
        assert path.stat().st_mode & 0o777 == 0o600
