"""The ledger: every loss is told once."""

from __future__ import annotations

from pathlib import Path

from agent_client import health
from agent_client.emitter import Emitter
from agent_client.files import telemetry_dir
from agent_client.health import Snapshot
from agent_client.journal import Intake, Journal
from agent_client.spool import Chunk, Spool
from agent_client.store import Store
from tests.agent_client.builders import run_event, store_events


def lose(home: Path, *, overflow: int = 0, **refused: int) -> None:
    journal = Journal(home)
    journal.write([Intake(Chunk("p.0", (), 0, overflow), refused)])
    journal.close()


def test_losses_are_counted_by_reason_and_none_without_a_cause(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        assert health.losses(store) == {}
    lose(tmp_path, overflow=3, encode=1)
    with Store(tmp_path) as store:
        assert health.losses(store) == {"overflow": 3, "encode": 1}


def test_losses_a_receipt_covered_are_not_told_again(tmp_path: Path) -> None:
    lose(tmp_path, overflow=3)
    with Store(tmp_path) as store:
        health.mark_reported(store, {"overflow": 3})
        assert health.losses(store) == {}
    lose(tmp_path, overflow=5)
    with Store(tmp_path) as store:
        assert health.losses(store) == {"overflow": 2}
        health.mark_reported(store, {"overflow": 2})
        assert health.losses(store) == {}
        assert health.totals(store.connection) == {"overflow": 5}


def test_events_that_came_from_no_recorder_are_not_in_its_ledger(tmp_path: Path) -> None:
    store_events(tmp_path, run_event())
    with Store(tmp_path) as store:
        assert health.stored(store.connection) == 0


def test_a_snapshot_of_nothing_makes_nothing(tmp_path: Path) -> None:
    assert health.snapshot(tmp_path) == Snapshot(telemetry_dir(tmp_path), 0, 0, 0, 0, 0)
    assert list(tmp_path.iterdir()) == []


def test_a_snapshot_tells_the_living_from_the_dead(tmp_path: Path) -> None:
    Spool(telemetry_dir(tmp_path) / "spool", capacity=4096).abandon()
    living = Emitter(tmp_path)
    living._recover_others = lambda: None  # type: ignore[method-assign]  # the dead stay for us to see
    living.emit(run_event())
    found = health.snapshot(tmp_path)
    living.close()
    assert found.living_processes == 1
    assert found.spool_bytes > 0
    assert health.snapshot(tmp_path).database_bytes > 0
    assert health.snapshot(tmp_path).log_bytes > 0
