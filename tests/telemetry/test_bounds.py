"""Nothing only ever grows: each table has a bound, and the ledger forgets what cannot come back."""

from __future__ import annotations

from datetime import date, timedelta
from io import StringIO
from typing import Any
from uuid import uuid4

import pytest
import time_machine
from axes.models import AccessLog
from django.apps import apps
from django.contrib.sessions.models import Session
from django.core.management import call_command
from hypothesis import given
from hypothesis import strategies as st

from agent_client.contract.tokens import parse_token
from agent_client.contract.wire import Receipt
from fleet.enroll import enroll_install
from fleet.lib.clock import now
from fleet.models import EnrollmentRequest
from fleet.tasks import forget_stale
from telemetry.models import IngestBatch, ReplacedRun, Run, SpooledBatch, TouchedHour
from telemetry.rollup.fill import fill_pending, fill_round
from telemetry.store import bounds
from telemetry.store.bounds import BOUNDS, LEDGER_MARGIN, ledger_kept_from, prune_books
from telemetry.store.retention import accepted_from, maintain, unfinished_days
from tests import builders as fleet
from tests.telemetry import builders as make
from tests.telemetry.recount import counted, stored

both_engines = pytest.mark.both_engines
pytestmark = pytest.mark.django_db


def test_every_model_has_a_retention_a_bound_or_a_reason() -> None:
    ours = {model._meta.label for model in apps.get_models()}
    assert ours - set(BOUNDS) == set(), "say in store/bounds.py what keeps it from growing for ever"
    assert set(BOUNDS) - ours == set()


@both_engines
def test_the_plan_prints_what_bounds_each_table() -> None:
    said = StringIO()
    call_command("telemetry_partitions", "plan", stdout=said)
    for label in BOUNDS:
        assert apps.get_model(label)._meta.db_table in said.getvalue()


def test_sessions_requests_and_sign_ins_are_forgotten() -> None:
    for model, values in (
        (Session, {"session_key": "k", "session_data": "", "expire_date": now()}),
        (AccessLog, {"attempt_time": now()}),
    ):
        model._default_manager.create(**values)
    _row, text = fleet.make_token(approval="manual")
    token = parse_token(text)
    assert token is not None
    enroll_install(token, fleet.make_applicant())
    assert forget_stale() == 1  # the session has ended
    with days_later(40):
        assert forget_stale() == 2
    assert not EnrollmentRequest.objects.exists()


def days_later(count: float) -> Any:  # noqa: ANN401 -- a context manager of time_machine
    return time_machine.travel(now() + timedelta(days=count), tick=True)


@both_engines
def test_a_repeat_is_answered_with_its_receipt_as_long_as_a_row_of_it_could_be_stored(
    settings: Any,  # noqa: ANN401 -- pytest-django's
) -> None:
    settings.FLEET_RETENTION_DAYS = 3
    batch_id, row = uuid4(), make.run(start_ns=make.recent_ns(-80_000))
    first = make.push(row, batch_id=batch_id)
    fill_pending()
    for count in (1, 3, 4, 10):
        with days_later(count):
            maintain()
            assert make.push(row, batch_id=batch_id).receipt == first.receipt


@both_engines
def test_a_repeat_that_the_ledger_has_forgotten_stores_nothing(
    settings: Any,  # noqa: ANN401 -- pytest-django's
) -> None:
    settings.FLEET_RETENTION_DAYS = 3
    batch_id, row = uuid4(), make.run(start_ns=make.recent_ns(-80_000))
    make.push(row, batch_id=batch_id)
    fill_pending()
    with days_later(12):
        maintain()
        assert not IngestBatch.objects.exists()
        again = Receipt.from_dict(make.push(row, batch_id=batch_id).receipt)
    assert again.rejected_counts == {"time_too_old": 1}
    assert not Run.objects.exists()


@given(st.integers(0, 90 * 24), st.integers(-24, 90 * 24))
def test_a_forgotten_batch_has_no_row_that_could_be_taken_in(
    age_hours: int, row_age_hours: int
) -> None:
    """Of any batch and any row that it could hold: forgotten means too old."""
    moment = now()
    received_at = ledger_kept_from(moment) - timedelta(hours=age_hours, seconds=1)
    start_at = received_at - timedelta(hours=row_age_hours)
    assert start_at < accepted_from(moment)


@both_engines
def test_the_ledger_keeps_the_batches_of_a_day_that_is_held(
    settings: Any,  # noqa: ANN401 -- pytest-django's
) -> None:
    settings.FLEET_RETENTION_DAYS = 3
    make.push(make.run())
    assert TouchedHour.objects.exists()
    with days_later(40):
        maintain()
    assert Run.objects.get().batch_id == IngestBatch.objects.get().batch_id


@both_engines
def test_the_ledger_keeps_what_waits_in_the_spool(settings: Any) -> None:  # noqa: ANN401 -- pytest-django's
    settings.FLEET_RETENTION_DAYS = 3
    settings.FLEET_VALVE = "open"
    make.push(make.run())
    with days_later(40):
        prune_books(frozenset())
    assert (SpooledBatch.objects.count(), IngestBatch.objects.count()) == (1, 1)


@both_engines
def test_replaced_runs_that_were_left_over_go(settings: Any) -> None:  # noqa: ANN401 -- pytest-django's
    settings.FLEET_RETENTION_DAYS = 3
    row = make.run(run_id="r")
    make.push(row)
    make.push(row | {"seq": 9})
    assert ReplacedRun.objects.count() == 1
    prune_books(frozenset())
    assert ReplacedRun.objects.count() == 1
    with days_later(40):
        prune_books(frozenset())
    assert not ReplacedRun.objects.exists()


@both_engines
def test_a_replaced_run_stays_while_its_day_is_held(settings: Any) -> None:  # noqa: ANN401 -- pytest-django's
    settings.FLEET_RETENTION_DAYS = 3
    row = make.run(run_id="r")
    make.push(row)
    TouchedHour.objects.update(failed_at=now())
    make.push(row | {"seq": 9, "end_reason": "failed"})
    fill_round()
    with days_later(40):
        prune_books(unfinished_days())
    fill_pending()
    assert stored() == counted() != {}


@both_engines
def test_a_large_ledger_goes_in_steps(
    monkeypatch: pytest.MonkeyPatch,
    settings: Any,  # noqa: ANN401 -- pytest-django's
) -> None:
    settings.FLEET_RETENTION_DAYS = 3
    monkeypatch.setattr(bounds, "CHUNK", 2)
    monkeypatch.setattr(bounds, "MAX_CHUNKS", 2)
    for seq in range(5):
        make.push(make.error(seq))
    with days_later(40):
        assert prune_books(frozenset()) == 4
        assert prune_books(frozenset()) == 1


def test_a_held_day_moves_the_ledgers_end() -> None:
    moment = now()
    held = (moment - timedelta(days=200)).date()
    assert ledger_kept_from(moment, frozenset({held})).date() == held - timedelta(days=1)
    young = frozenset[date]({moment.date()})
    assert ledger_kept_from(moment, young) == ledger_kept_from(moment)
    assert timedelta(days=1) < LEDGER_MARGIN
