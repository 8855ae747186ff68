"""The valve: what opens it, what closes it, and that a spooled batch is as good as a stored one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest
import zstandard
from django.db import OperationalError, connection
from django.test import override_settings

from agent_client.contract.wire import Receipt
from telemetry.ingest import receive, valve
from telemetry.ingest.decode import IngestError
from telemetry.ingest.receive import Outcome, receive_batch
from telemetry.ingest.valve import HOLD_S, Valve, Ways, pass_batch
from telemetry.models import IngestBatch, QuarantinedLine, Run, SpooledBatch, TouchedHour
from telemetry.store.locks import install_transaction
from tests.telemetry import builders as make

both_engines = pytest.mark.both_engines
committed = pytest.mark.django_db(transaction=True)
spooling = override_settings(FLEET_VALVE="open")
TOKEN = "ghp_" + "x7Kq9ZtB2mWv4Rn8Lp3Yc6Hd1Fs5Gj0Aw2Ee"


@pytest.fixture(autouse=True)
def _own_valve(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test leaves an open valve to the next."""
    monkeypatch.setattr(valve._Process, "valve", Valve())


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tried(clock: Clock) -> Valve:
    return Valve(clock)


def test_one_slow_batch_opens_nothing_and_two_in_a_row_do(tried: Valve) -> None:
    for took_s in (9.0, 0.1, 9.0):
        tried.stored(took_s, row_count=1)
        assert tried.may_store()
    tried.stored(9.0, row_count=1)
    assert tried.is_open
    assert not tried.may_store()


def test_a_large_batch_may_take_longer(tried: Valve) -> None:
    for _ in range(5):
        tried.stored(9.0, row_count=50_000)
    assert not tried.is_open


def test_an_open_valve_lets_one_batch_through_after_a_while(tried: Valve, clock: Clock) -> None:
    tried.trip("lock")
    assert not tried.may_store()
    clock.now_s = HOLD_S
    assert [tried.may_store() for _ in range(3)] == [True, False, False]
    tried.stored(0.1, row_count=1)
    assert tried.may_store()
    assert not tried.is_open


def test_a_slow_try_keeps_it_open(tried: Valve, clock: Clock) -> None:
    tried.trip("lock")
    clock.now_s = HOLD_S
    assert tried.may_store()
    tried.stored(9.0, row_count=1)
    assert not tried.may_store()
    clock.now_s = 2 * HOLD_S
    assert tried.may_store()


def test_a_try_that_fails_for_its_own_reason_leaves_the_next_one_its_try(
    tried: Valve, clock: Clock
) -> None:
    tried.trip("lock")
    clock.now_s = HOLD_S
    assert tried.may_store()
    tried.failed()
    assert tried.is_open
    assert tried.may_store()


def ways(store: object = "stored", spool: object = "spooled") -> Ways[object]:
    def run(result: object) -> object:
        if isinstance(result, BaseException):
            raise result
        return result

    return Ways(lambda: run(store), lambda: run(spool), row_count=1)


@pytest.mark.parametrize(
    ("mode", "way"), [("auto", "stored"), ("shut", "stored"), ("open", "spooled")]
)
def test_the_operator_decides_where_he_says_so(mode: str, way: str) -> None:
    with override_settings(FLEET_VALVE=mode):
        assert pass_batch(ways()) == way


class LockTimeout(Exception):
    sqlstate = "55P03"


def lock_timeout() -> OperationalError:
    error = OperationalError()
    error.__cause__ = LockTimeout()
    return error


def test_a_batch_that_waited_too_long_for_a_lock_is_spooled_itself() -> None:
    assert pass_batch(ways(store=lock_timeout())) == "spooled"
    assert valve._Process.valve.is_open
    assert pass_batch(ways()) == "spooled"


@override_settings(FLEET_VALVE="shut")
def test_a_shut_valve_spools_nothing_whatever_happens() -> None:
    with pytest.raises(OperationalError):
        pass_batch(ways(store=lock_timeout()))


def test_a_database_that_is_away_is_not_spooled_to() -> None:
    with pytest.raises(OperationalError):
        pass_batch(ways(store=OperationalError("gone")))
    assert not valve._Process.valve.is_open


@pytest.fixture
def taken_turn() -> Iterator[None]:
    """The one turn of this process is somebody else's."""
    inside, done = threading.Event(), threading.Event()

    def hold() -> str:
        inside.set()
        done.wait(20)
        return "held"

    with override_settings(FLEET_VALVE_STORES=1, FLEET_VALVE_SLOW_MS=10):
        thread = threading.Thread(target=lambda: pass_batch(Ways(hold, hold, row_count=10**6)))
        thread.start()
        assert inside.wait(10)
        yield
        done.set()
        thread.join(20)


@pytest.mark.usefixtures("taken_turn")
def test_without_a_turn_in_time_a_batch_is_spooled() -> None:
    assert pass_batch(ways()) == "spooled"
    assert valve._Process.valve.is_open


@pytest.mark.usefixtures("taken_turn")
def test_without_a_turn_a_shut_valve_says_when_to_come_back() -> None:
    with override_settings(FLEET_VALVE="shut"), pytest.raises(IngestError) as refused:
        pass_batch(ways())
    assert (refused.value.code, refused.value.retry_after_s) == ("unavailable", 5)


# ------------------------------------------------------------------------- through the console


def receipt_of(outcome: Outcome) -> Receipt:
    return Receipt.from_dict(outcome.receipt)


@both_engines
@pytest.mark.django_db
@spooling
def test_a_spooled_batch_is_acknowledged_in_the_ledger_and_in_no_event_table() -> None:
    receipt = receipt_of(make.push(make.run(), make.tool_call(2), b"{", losses={"full": 2}))
    assert receipt.spooled
    assert (receipt.accepted, receipt.duplicates) == ({"tel_runs": 1, "tel_tool_calls": 1}, 0)
    batch, spooled = IngestBatch.objects.get(), SpooledBatch.objects.get()
    assert (batch.received_count, batch.spooled_count, batch.rejected_count) == (3, 2, 1)
    assert (spooled.row_count, spooled.batch_id) == (2, batch.batch_id)
    assert not Run.objects.exists()
    assert not TouchedHour.objects.exists()


@both_engines
@pytest.mark.django_db
@spooling
def test_a_repeat_of_a_spooled_batch_gets_the_same_receipt() -> None:
    header, body = make.header(), make.body(make.run())
    first, again = receive_batch(header, body), receive_batch(header, body)
    assert (again.receipt, again.is_replay) == (first.receipt, True)
    with override_settings(FLEET_VALVE="shut"):
        assert receive_batch(header, body).receipt == first.receipt
    assert SpooledBatch.objects.count() == 1


@both_engines
@pytest.mark.django_db
@spooling
def test_other_content_under_a_spooled_batch_id_is_a_mismatch() -> None:
    header = make.header()
    receive_batch(header, make.body(make.run()))
    with pytest.raises(IngestError) as refused:
        receive_batch(header, make.body(make.run(2)))
    assert refused.value.code == "batch_mismatch"


@both_engines
@committed
@spooling
def test_twenty_parallel_repeats_are_spooled_once() -> None:
    header, body = make.header(), make.body(make.run())

    def push_once(_: int) -> Outcome:
        try:
            return receive_batch(header, body)
        finally:
            connection.close()

    with ThreadPoolExecutor(20) as pool:
        outcomes = list(pool.map(push_once, range(20)))
    assert sum(not outcome.is_replay for outcome in outcomes) == 1
    assert len({str(outcome.receipt) for outcome in outcomes}) == 1
    assert (IngestBatch.objects.count(), SpooledBatch.objects.count()) == (1, 1)


@both_engines
@pytest.mark.django_db
@spooling
def test_nothing_in_the_spool_was_not_scrubbed() -> None:
    make.push(make.tool_call(1, tool_name=f"token {TOKEN}"), b'{"x":"' + TOKEN.encode() + b'"')
    payload = zstandard.decompress(bytes(SpooledBatch.objects.get().payload))
    assert b"[REDACTED:" in payload
    assert TOKEN.encode() not in payload


@both_engines
@pytest.mark.django_db
@spooling
@pytest.mark.parametrize("bound", [{"FLEET_SPOOL_MAX_ROWS": 3}, {"FLEET_SPOOL_MAX_BYTES": 2000}])
def test_a_full_spool_refuses_with_a_wait_and_keeps_nothing(bound: dict[str, int]) -> None:
    def fill() -> None:
        for _ in range(50):
            make.push(make.run(), make.run(2, run_id="b"))

    with override_settings(**bound), pytest.raises(IngestError) as refused:
        fill()
    assert refused.value.code == "unavailable"
    assert (refused.value.retry_after_s or 0) >= 1
    assert IngestBatch.objects.count() == SpooledBatch.objects.count() < 50


@pytest.mark.postgres
@committed
@override_settings(FLEET_VALVE_SLOW_MS=100)
def test_a_batch_behind_a_held_lock_is_spooled_and_not_kept_waiting() -> None:
    install_id, held, done = uuid4(), threading.Event(), threading.Event()

    def hold() -> None:
        with install_transaction(install_id):
            held.set()
            done.wait(20)
        connection.close()

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(10)
    receipt = receipt_of(make.push(make.run(), install_id=install_id))
    done.set()
    thread.join(20)
    assert receipt.spooled
    assert SpooledBatch.objects.get().install_id == install_id


@both_engines
@pytest.mark.django_db
@spooling
def test_a_file_is_loaded_straight_whatever_the_valve_says() -> None:
    make.push(make.run(), source=IngestBatch.Source.FILE)
    assert Run.objects.exists()


@both_engines
@committed
@spooling
def test_a_failure_while_spooling_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("killed here")

    monkeypatch.setattr(receive, "_pushed", fail)
    with pytest.raises(RuntimeError):
        make.push(make.run(), b"{")
    for model in (IngestBatch, SpooledBatch, QuarantinedLine):
        assert not model._default_manager.exists()


@pytest.mark.postgres
@committed
@override_settings(FLEET_VALVE="shut")
def test_a_batch_whose_twin_was_spooled_meanwhile_is_answered_with_its_receipt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    header, body = make.header(), make.body(make.run())
    load = receive._load

    def spool_twin() -> Outcome:
        try:
            with override_settings(FLEET_VALVE="open"):
                return receive_batch(header, body)
        finally:
            connection.close()

    def load_after_the_twin(*arguments: Any) -> Any:  # noqa: ANN401 -- passed on as they are
        with ThreadPoolExecutor(1) as pool:
            twins.append(pool.submit(spool_twin).result())
        return load(*arguments)

    twins: list[Outcome] = []
    monkeypatch.setattr(receive, "_load", load_after_the_twin)
    outcome = receive_batch(header, body)
    assert (outcome.receipt, outcome.is_replay) == (twins[0].receipt, True)
    assert (SpooledBatch.objects.count(), Run.objects.count()) == (1, 0)
