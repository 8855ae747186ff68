"""Retention by itself: once a day, beside the recording, and not because a clock has jumped."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent_client import emitter as emitter_module
from agent_client import pruner
from agent_client import upkeep as upkeep_module
from agent_client.emitter import Emitter
from agent_client.journal import Journal
from agent_client.pruner import Pruner
from agent_client.retention import prune
from agent_client.upkeep import DAY_NS, PROBATION_NS, Clock, upkeep
from tests.agent_client.builders import all_rows, call_ids, span_ids, store_events, wait_until
from tests.agent_client.retention_home import NEW_NS, NOW_NS, OLD_NS, call, fill


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emitter_module, "GATHER_S", 0.001)


def test_a_clock_that_goes_on_is_trusted_and_one_that_jumps_is_on_probation() -> None:
    clock = Clock(NOW_NS)
    assert clock.at(NOW_NS + DAY_NS) == Clock(NOW_NS + DAY_NS)
    assert clock.at(NOW_NS - DAY_NS // 24) == clock
    ahead_ns = NOW_NS + 365 * DAY_NS
    jumped = clock.at(ahead_ns)
    assert jumped.trusted_from_ns == ahead_ns + PROBATION_NS
    assert jumped.at(ahead_ns + DAY_NS).trusted_from_ns == jumped.trusted_from_ns
    # Set right again: on probation once more, by the right time.
    assert jumped.at(NOW_NS + DAY_NS).trusted_from_ns == NOW_NS + DAY_NS + PROBATION_NS


def seen(home: Path, now_ns: int) -> int:
    """A recording process looks, and prunes if it may; how many calls are left."""
    journal = Journal(home)
    for has_more in upkeep(journal, lambda: now_ns):
        if not has_more:
            break
    journal.close()
    return len(span_ids(home))


def test_a_clock_that_jumps_a_year_ahead_deletes_nothing_by_itself(tmp_path: Path) -> None:
    store_events(tmp_path, *(call(n, NEW_NS) for n in range(10)))
    assert seen(tmp_path, NOW_NS) == 10
    ahead_ns = NOW_NS + 365 * DAY_NS
    store_events(tmp_path, call(10, ahead_ns))
    assert seen(tmp_path, ahead_ns) == 11
    assert seen(tmp_path, ahead_ns + 2 * DAY_NS) == 11
    assert seen(tmp_path, NOW_NS + DAY_NS) == 11


def test_a_home_nobody_looked_at_before_takes_its_newest_record_for_the_clock(
    tmp_path: Path,
) -> None:
    store_events(tmp_path, *(call(n, NEW_NS) for n in range(10)))
    assert seen(tmp_path, NOW_NS + 365 * DAY_NS) == 10


def test_a_clock_that_goes_on_after_a_jump_is_believed(tmp_path: Path) -> None:
    store_events(tmp_path, *(call(n, NEW_NS) for n in range(10)))
    seen(tmp_path, NOW_NS)
    back_ns = NOW_NS + 200 * DAY_NS  # the machine was off
    assert seen(tmp_path, back_ns) == 10
    assert seen(tmp_path, back_ns + PROBATION_NS // 2) == 10
    assert seen(tmp_path, back_ns + PROBATION_NS) == 0


def test_a_person_is_asked_when_the_clock_has_jumped_and_may_insist(tmp_path: Path) -> None:
    store_events(tmp_path, *(call(n, NEW_NS) for n in range(10)))
    ahead_ns = NOW_NS + 365 * DAY_NS
    told = prune(tmp_path, now_ns=ahead_ns, dry_run=True)
    assert (told.hold, told.rows["tel_model_calls"]) == ("clock", 10)
    held = prune(tmp_path, now_ns=ahead_ns)
    assert (held.hold, sum(held.rows.values())) == ("clock", 0)
    assert len(span_ids(tmp_path)) == 10
    done = prune(tmp_path, now_ns=ahead_ns, force=True)
    assert (done.hold, done.rows["tel_model_calls"]) == ("", 10)


def test_a_clock_a_year_behind_deletes_nothing(tmp_path: Path) -> None:
    fill(tmp_path)
    rows = all_rows(tmp_path)
    prune(tmp_path, retention_days=30, now_ns=NOW_NS - 365 * DAY_NS, force=True)
    assert all_rows(tmp_path) == rows


def test_a_recorder_prunes_by_itself_once_a_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.yaml").write_text("telemetry: {retention_days: 30}\n")
    fill(tmp_path)
    recorder = Emitter(tmp_path)
    recorder.emit(call(40, NEW_NS))
    assert recorder.flush()
    wait_until(lambda: span_ids(tmp_path) == call_ids(20, 41))
    wait_until(lambda: not recorder._has_upkeep)
    store_events(tmp_path, call(41, OLD_NS))
    recorder.emit(call(42, NEW_NS))
    assert recorder.flush()
    recorder.close()
    assert span_ids(tmp_path) == call_ids(20, 43)
    assert seen(tmp_path, NOW_NS + 2 * DAY_NS) == 22


def test_events_are_stored_while_a_prune_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruner, "PAGE_ROWS", 3)
    (tmp_path / "config.yaml").write_text("telemetry: {retention_days: 30}\n")
    store_events(tmp_path, *(call(n, OLD_NS) for n in range(400)), call(400, NEW_NS))
    recorder = Emitter(tmp_path)
    recorder.emit(call(401, NEW_NS))
    assert recorder.flush()
    wait_until(lambda: recorder._has_upkeep and len(span_ids(tmp_path)) < 400)
    recorder.emit(call(402, NEW_NS))
    assert recorder.flush()
    assert len(span_ids(tmp_path)) > 3  # stored long before the prune is done
    recorder.close()
    prune(tmp_path, retention_days=30)
    assert span_ids(tmp_path) == call_ids(400, 403)


def test_upkeep_that_fails_is_tried_again_at_the_next_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "config.yaml").write_text("telemetry: {retention_days: 20}\n")
    fill(tmp_path)
    monkeypatch.setattr(upkeep_module, "LOOK_S", 0)
    working = upkeep(Journal(tmp_path), lambda: NOW_NS + 25 * DAY_NS)
    with monkeypatch.context() as patch:
        patch.setattr(Pruner, "steps", full)
        while next(working):
            pass
    assert len(span_ids(tmp_path)) == 40
    while next(working):
        pass
    assert span_ids(tmp_path) == []
