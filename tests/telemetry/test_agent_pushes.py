"""The real client against the real console: both planes, from the home to the database."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from pytest_django.live_server_helper import LiveServer

from agent_client import enroll, preview, push
from agent_client.outbox import outbox_path
from agent_client.store import database_path
from fleet.enroll import mint_token
from telemetry.models import EVENT_MODELS, AggregateRecord, ClosedPlane, IngestBatch
from tests import builders
from tests.agent_client.builders import one_of_each, store_events
from tests.agent_client.homes import configure
from tests.agent_client.summaries import CONSENT, NO_CONSENT, run_of

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.both_engines]


@pytest.fixture
def home(tmp_path: Path, live_server: LiveServer) -> Path:
    """Enrolled with the console of this test, the consent seen by one push."""
    _, text = mint_token(actor="operator")
    enroll.enroll(tmp_path, live_server.url, text)
    configure(tmp_path, CONSENT)
    assert push.push_once(tmp_path).exit_code == 0
    return tmp_path


def stored(home: Path) -> list[dict[str, object]]:
    """The console's summaries in the form of the preview."""
    known = AggregateRecord.objects.of_kind("workflow_completed").order_by("seq")
    return [{"_kind": row.kind, **row.data} for row in known]


def test_every_kind_of_row_and_the_summary_of_its_run_arrive(home: Path) -> None:
    now_ns = time.time_ns()
    moved = [
        type(event).from_dict(
            {
                name: now_ns if name in {"start_ns", "end_ns", "ts_ns"} else value
                for name, value in event.to_dict().items()
                if name != "event"
            }
        )
        for event in one_of_each()
    ]
    store_events(home, *moved)
    result = push.push_once(home)
    assert (result.status, result.planes["aggregate"].accepted) == ("pushed", 1)
    assert [model.objects.count() for model in EVENT_MODELS] == [1] * len(EVENT_MODELS)
    assert stored(home) == preview.preview(database_path(home))
    batch = IngestBatch.objects.get(batch_id=AggregateRecord.objects.latest("pk").batch_id)
    assert batch.consent["consent_state"] == "aggregate"


def test_a_cost_that_comes_later_stands_in_the_one_record_of_its_run(home: Path) -> None:
    start_ns = time.time_ns()
    run_of(home, 1, start_ns=start_ns)
    push.push_once(home)
    run_of(home, 1, start_ns=start_ns, estimated_cost_usd=0.25, cost_status="actual")
    push.push_once(home)
    (record,) = stored(home)
    assert record["estimated_cost_usd"] == 0.25


def test_a_pin_on_the_console_closes_one_plane_and_the_other_goes_on(home: Path) -> None:
    builders.make_pin("telemetry.allow_aggregate", False)
    builders.publish()
    run_of(home, 1)
    result = push.push_once(home)
    assert (result.exit_code, result.planes["aggregate"].status) == (0, "closed")
    assert ClosedPlane.objects.get(plane="aggregate").refused_count == 1
    assert stored(home) == []
    configure(home, NO_CONSENT)
    push.push_once(home)
    assert not outbox_path(home, "aggregate").exists()


def test_a_withdrawal_reaches_the_console_with_the_next_rows(home: Path) -> None:
    run_of(home, 1)
    push.push_once(home)
    configure(home, NO_CONSENT)
    run_of(home, 2)
    push.push_once(home)
    assert [record["record_id"] for record in stored(home)] == ["run-1"]
    last = IngestBatch.objects.latest("received_at")
    assert (last.plane, last.consent["consent_state"]) == ("local", "local")
