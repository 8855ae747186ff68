"""Schedules: each due time ordered once, missed ones as asked for, nothing silently left out."""

from __future__ import annotations

import itertools
import json
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.db import IntegrityError, connections, transaction

from fleet.audit import verify_chain
from fleet.lib.clock import now
from fleet.models import ChangeRecord
from telemetry.exports import schedules
from telemetry.exports.orders import MAX_OPEN
from telemetry.exports.schedules import (
    MAX_AT_ONCE,
    Ordered,
    delete_schedule,
    order_due,
    order_now,
    plan_due,
    save_schedule,
    switch_schedule,
    upcoming,
)
from telemetry.exports.tasks_schedule import order_scheduled
from telemetry.models import ExportDestination, ExportJob, ExportSchedule

pytestmark = [pytest.mark.django_db, pytest.mark.both_engines]
committed = pytest.mark.django_db(transaction=True)
START = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def make_owner(name: str = "olga", *codenames: str) -> User:
    owner = User.objects.create_user(name, is_staff=True)
    wanted = codenames or ("add_exportjob", "view_run")
    owner.user_permissions.set(Permission.objects.filter(codename__in=wanted))
    return owner


def make_schedule(moment: datetime = START, **values: Any) -> ExportSchedule:  # noqa: ANN401 -- columns
    """A saved daily schedule at 02:15 UTC without a wait, first due the day after START."""
    actor = values.pop("actor", None) or make_owner()
    fields: dict[str, Any] = {
        "name": "nightly",
        "datasets": ["runs"],
        "fmt": "ndjson",
        "settle_minutes": 0,
        **values,
    }
    return save_schedule(ExportSchedule(**fields), actor=actor, moment=moment)


def slots() -> list[str]:
    jobs = ExportJob.objects.order_by("slot_at")
    return [f"{job.slot_at:%m-%d %H:%M}" for job in jobs if job.slot_at]


def changes(action: str) -> list[dict[str, Any]]:
    found = ChangeRecord.objects.filter(action=action).order_by("id")
    return [json.loads(record.post_json) for record in found]


def test_a_new_schedule_begins_with_its_next_time_and_is_audited() -> None:
    schedule = make_schedule()
    assert schedule.next_at == datetime(2026, 3, 3, 2, 15, tzinfo=UTC)
    assert schedule.owner == "olga"
    record = ChangeRecord.objects.get(object_type="exportschedule", action="create")
    assert (record.actor, json.loads(record.post_json)["datasets"]) == ("olga", ["runs"])


def test_nothing_is_ordered_before_its_time() -> None:
    make_schedule()
    assert order_due(START + HOUR) == Ordered()
    assert not ExportJob.objects.exists()


def test_a_due_time_is_ordered_once_with_the_window_since_the_one_before() -> None:
    schedule = make_schedule(keep_days=3, reason="for the auditors", is_gzipped=True)
    due = datetime(2026, 3, 3, 2, 15, tzinfo=UTC)
    assert order_due(due) == Ordered(job_count=1)
    assert order_due(due + timedelta(seconds=30)) == Ordered()
    job = ExportJob.objects.get()
    assert (job.start_at, job.end_at, job.slot_at) == (due - DAY, due, due)
    assert (job.actor, job.schedule, job.keep_days) == ("olga", schedule, 3)
    assert (job.datasets, job.fmt, job.is_gzipped) == (["runs"], "ndjson", True)
    assert job.reason == "for the auditors"
    assert ExportSchedule.objects.get().next_at == due + DAY
    assert ChangeRecord.objects.filter(action="export.order", object_id=str(job.pk)).count() == 1


def test_it_waits_for_late_rows() -> None:
    make_schedule(settle_minutes=20)
    due = datetime(2026, 3, 3, 2, 15, tzinfo=UTC)
    assert order_due(due + timedelta(minutes=19)) == Ordered()
    assert order_due(due + timedelta(minutes=20)) == Ordered(job_count=1)
    assert ExportJob.objects.get().end_at == due


def test_windows_of_a_night_with_a_clock_change_join() -> None:
    make_schedule(
        datetime(2026, 3, 27, 12, 0, tzinfo=UTC),
        every="hour",
        at_minute=30,
        time_zone="Europe/Berlin",
    )
    order_due(datetime(2026, 3, 29, 6, 0, tzinfo=UTC))
    jobs = list(ExportJob.objects.order_by("slot_at"))
    assert len(jobs) > 40
    for before, after in itertools.pairwise(jobs):
        assert after.start_at == before.end_at


def test_all_missed_times_get_their_jobs_in_order() -> None:
    make_schedule(catch_up="all")
    assert order_due(START + 3 * DAY) == Ordered(job_count=3)
    assert slots() == ["03-03 02:15", "03-04 02:15", "03-05 02:15"]
    assert ExportSchedule.objects.get().left_out_count == 0


def test_only_the_last_missed_time_is_ordered_when_that_was_chosen_and_the_rest_is_said() -> None:
    make_schedule(catch_up="last")
    assert order_due(START + 3 * DAY) == Ordered(job_count=1, left_out_count=2)
    assert slots() == ["03-05 02:15"]
    schedule = ExportSchedule.objects.get()
    assert schedule.left_out_count == 2
    assert schedule.left_out_at == datetime(2026, 3, 4, 2, 15, tzinfo=UTC)
    assert changes("exportschedule.left_out") == [
        {
            "times": 2,
            "first": "2026-03-03T02:15:00+00:00",
            "last": "2026-03-04T02:15:00+00:00",
        }
    ]


def test_missed_times_are_left_out_when_that_was_chosen_and_one_in_time_is_not() -> None:
    make_schedule(catch_up="none")
    assert order_due(START + 3 * DAY) == Ordered(left_out_count=3)
    assert slots() == []
    on_time = datetime(2026, 3, 6, 2, 15, 30, tzinfo=UTC)
    assert order_due(on_time) == Ordered(job_count=1)
    assert slots() == ["03-06 02:15"]
    assert ExportSchedule.objects.get().left_out_count == 3


def test_a_long_outage_makes_a_bounded_number_of_jobs_the_newest_and_says_how_many_it_left() -> (
    None
):
    make_schedule(every="hour", catch_up="all")
    done = order_due(START + timedelta(hours=MAX_AT_ONCE + 40))
    assert done == Ordered(job_count=MAX_AT_ONCE, left_out_count=40)
    assert ExportJob.objects.count() == MAX_AT_ONCE
    newest = ExportJob.objects.latest("slot_at").slot_at
    assert newest == START + timedelta(hours=MAX_AT_ONCE + 39, minutes=15)
    assert ExportSchedule.objects.get().left_out_count == 40


def test_a_clock_that_is_set_back_orders_nothing_twice() -> None:
    make_schedule()
    assert order_due(START + 2 * DAY).job_count == 2
    assert order_due(START + DAY) == Ordered()
    assert order_due(START + 2 * DAY) == Ordered()


def test_a_next_time_that_was_set_back_by_hand_orders_nothing_twice() -> None:
    make_schedule()
    order_due(START + 2 * DAY)
    ExportSchedule.objects.update(next_at=datetime(2026, 3, 3, 2, 15, tzinfo=UTC))
    assert order_due(START + 3 * DAY).job_count == 1
    assert slots() == ["03-03 02:15", "03-04 02:15", "03-05 02:15"]


def test_the_database_itself_refuses_a_second_job_of_a_slot() -> None:
    make_schedule()
    order_due(START + DAY)
    job = ExportJob.objects.get()
    job.pk, job.uid = None, "01890000-0000-7000-8000-0000000000ff"
    with pytest.raises(IntegrityError), transaction.atomic():
        job.save(force_insert=True)


def gone(owner: User) -> None:
    owner.delete()


def locked_out(owner: User) -> None:
    User.objects.filter(pk=owner.pk).update(is_active=False)


def powerless(owner: User) -> None:
    owner.user_permissions.set(Permission.objects.filter(codename="add_exportjob"))


def may_not_order(owner: User) -> None:
    owner.user_permissions.set(Permission.objects.filter(codename="view_run"))


@pytest.mark.parametrize(
    ("happens", "said"),
    [
        (gone, "not a user any more"),
        (locked_out, "may not sign in any more"),
        (powerless, "Can view run"),
        (may_not_order, "Can add export"),
    ],
)
def test_an_owner_who_may_not_orders_nothing_it_is_said_once_and_mended_times_are_not_lost(
    happens: Any,  # noqa: ANN401 -- a function of the owner
    said: str,
) -> None:
    owner = make_owner()
    schedule = make_schedule(actor=owner)
    happens(owner)
    for _round in range(3):
        assert order_due(START + DAY) == Ordered(refused_count=1)
    schedule.refresh_from_db()
    assert said in schedule.last_error
    assert "answers for it" in schedule.last_error
    assert not ExportJob.objects.exists()
    assert len(changes("exportschedule.refused")) == 1
    save_schedule(schedule, actor=make_owner("otto"), moment=START + 2 * DAY)
    assert order_due(START + 2 * DAY) == Ordered(job_count=2)
    assert {job.actor for job in ExportJob.objects.all()} == {"otto"}
    assert ExportSchedule.objects.get().last_error == ""


def test_a_destination_that_is_off_a_zone_and_a_dataset_that_are_gone_are_said() -> None:
    place = ExportDestination.objects.create(name="archive", kind="folder", folder="/srv/x")
    schedule = make_schedule(destination=place)
    ExportDestination.objects.update(is_enabled=False)
    order_due(START + DAY)
    schedule.refresh_from_db()
    assert "archive is switched off" in schedule.last_error
    ExportSchedule.objects.update(destination=None, datasets=["of_long_ago"])
    order_due(START + DAY)
    schedule.refresh_from_db()
    assert "There is no dataset named 'of_long_ago'" in schedule.last_error
    ExportSchedule.objects.update(datasets=["runs"], time_zone="Atlantis/Sunken")
    order_due(START + DAY)
    schedule.refresh_from_db()
    assert "no time zone Atlantis/Sunken" in schedule.last_error
    assert not ExportJob.objects.exists()


def test_one_schedule_that_cannot_order_holds_up_no_other() -> None:
    owner = make_owner()
    make_schedule(actor=owner, name="a", every="hour")
    make_schedule(actor=make_owner("otto"), name="b")
    owner.delete()
    assert order_due(START + DAY) == Ordered(job_count=1, refused_count=1)


def test_a_full_queue_is_said_and_the_times_stay_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("telemetry.exports.orders.MAX_OPEN", 2)
    make_schedule(every="hour")
    assert order_due(START + 3 * HOUR) == Ordered(refused_count=1)
    assert not ExportJob.objects.exists()  # all of a round or none
    assert "wait already" in ExportSchedule.objects.get().last_error
    monkeypatch.setattr("telemetry.exports.orders.MAX_OPEN", MAX_OPEN)
    assert order_due(START + 3 * HOUR) == Ordered(job_count=3)


def test_what_is_off_orders_nothing_and_what_passed_meanwhile_is_not_missed() -> None:
    schedule = make_schedule()
    actor = make_owner("otto")
    assert switch_schedule(schedule, is_enabled=False, actor=actor, moment=START)
    assert not switch_schedule(schedule, is_enabled=False, actor=actor, moment=START)
    assert order_due(START + 5 * DAY) == Ordered()
    assert switch_schedule(schedule, is_enabled=True, actor=actor, moment=START + 5 * DAY)
    assert order_due(START + 5 * DAY) == Ordered()
    assert order_due(START + 6 * DAY) == Ordered(job_count=1)
    assert ChangeRecord.objects.filter(action="exportschedule.off", actor="otto").count() == 1


def test_a_change_of_name_keeps_due_times_and_another_rhythm_begins_anew() -> None:
    schedule = make_schedule()
    actor = make_owner("otto")
    due = schedule.next_at
    schedule.name = "renamed"
    save_schedule(schedule, actor=actor, moment=START + 3 * DAY)
    assert ExportSchedule.objects.get().next_at == due
    schedule.at_hour = 9
    save_schedule(schedule, actor=actor, moment=START + 3 * DAY)
    assert ExportSchedule.objects.get().next_at == datetime(2026, 3, 6, 9, 15, tzinfo=UTC)
    assert ExportSchedule.objects.get().owner == "otto"


def test_an_edit_that_was_read_before_a_round_does_not_undo_the_round() -> None:
    schedule = make_schedule(catch_up="last")
    order_due(START + 3 * DAY)
    schedule.name = "renamed"
    save_schedule(schedule, actor=make_owner("otto"), moment=START + 3 * DAY)
    held = ExportSchedule.objects.get()
    assert held.next_at == datetime(2026, 3, 6, 2, 15, tzinfo=UTC)
    assert (held.left_out_count, held.name) == (2, "renamed")


def test_run_now_covers_the_last_whole_window_in_the_name_of_who_asks() -> None:
    schedule = make_schedule()
    other = make_owner("otto")
    job = order_now(schedule, actor=other, moment=START)
    assert (job.actor, job.slot_at, job.schedule) == ("otto", None, schedule)
    end = datetime(2026, 3, 2, 2, 15, tzinfo=UTC)
    assert (job.start_at, job.end_at) == (end - DAY, end)
    assert order_due(START + DAY) == Ordered(job_count=1)


def test_a_deleted_schedule_leaves_its_exports_and_an_audit_row() -> None:
    schedule = make_schedule()
    order_due(START + DAY)
    delete_schedule(schedule, actor=make_owner("otto"), reason="over")
    assert not ExportSchedule.objects.exists()
    assert ExportJob.objects.get().schedule is None
    record = ChangeRecord.objects.get(action="delete", object_type="exportschedule")
    assert (record.reason, json.loads(record.pre_json)["name"]) == ("over", "nightly")


def test_the_preview_shows_windows_that_join() -> None:
    runs = list(upcoming(make_schedule(settle_minutes=10), START, 5))
    assert len(runs) == 5
    assert runs[0].slot_at == datetime(2026, 3, 3, 2, 15, tzinfo=UTC)
    assert runs[0].order_at - runs[0].slot_at == timedelta(minutes=10)
    assert [run.start_at for run in runs[1:]] == [run.slot_at for run in runs[:-1]]


def test_a_plan_of_ten_years_is_made_at_once() -> None:
    schedule = make_schedule(every="hour")
    plan = plan_due(schedule, START + timedelta(days=3650))
    assert len(plan.slots) == MAX_AT_ONCE
    assert plan.left_out_count > 87_000


def test_the_task_orders_what_is_due_now() -> None:
    make_schedule(now() - DAY)
    assert order_scheduled() == "ordered 1 exports, left out 0 times, refused 0 schedules"
    assert order_scheduled() == "ordered 0 exports, left out 0 times, refused 0 schedules"


@committed
@pytest.mark.postgres
def test_rounds_in_parallel_order_each_slot_once() -> None:
    make_schedule(every="hour")
    make_schedule(actor=make_owner("otto"), name="other", every="hour")
    moment, rounds = START + timedelta(hours=12), 4
    started = threading.Barrier(rounds)

    def work(_number: int) -> Ordered:
        try:
            started.wait()
            return order_due(moment)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(rounds) as pool:
        done = list(pool.map(work, range(rounds)))
    assert sum(one.job_count for one in done) == 24
    assert ExportJob.objects.count() == 24
    assert ExportJob.objects.values("schedule", "slot_at").distinct().count() == 24
    assert ChangeRecord.objects.filter(action="export.order").count() == 24
    assert verify_chain() is None


@committed
@pytest.mark.postgres
@pytest.mark.parametrize("orders_before", [0, 1, 2, 3])
def test_a_worker_killed_in_a_round_has_done_all_of_it_or_nothing(orders_before: int) -> None:
    make_schedule(every="hour")
    moment = START + timedelta(hours=3)
    connections.close_all()
    child = os.fork()
    if child == 0:  # pragma: no cover -- ends by its own signal
        try:
            die_after(orders_before)
            order_due(moment)
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    _pid, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    is_committed = orders_before == 3
    assert ExportJob.objects.count() == (3 if is_committed else 0)
    assert order_due(moment) == Ordered(job_count=0 if is_committed else 3)
    assert ExportJob.objects.count() == 3
    assert ChangeRecord.objects.filter(action="export.order").count() == 3
    assert verify_chain() is None


def die_after(orders: int) -> None:
    """From now on this process is killed when it is about to order once more."""
    real, count = vars(schedules)["order_job"], 0

    def order_or_die(*args: Any, **values: Any) -> Any:  # noqa: ANN401 -- what it wraps
        nonlocal count
        if count == orders:
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1
        return real(*args, **values)

    vars(schedules)["order_job"] = order_or_die
