"""Alerts: a row when something begins and when it is over, told once, whoever looks how often."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta
from unittest import mock

import pytest
from django.db import connection
from django.test import override_settings

from fleet.health import Probe, register_probe
from fleet.lib.clock import now
from fleet.models import InstallStatus
from telemetry.models import (
    AlertEvent,
    AlertWatch,
    ExportJob,
    ExportSchedule,
    FeedEntry,
    RelayCursor,
    RelayDestination,
    Stream,
)
from telemetry.relay.cursor import Window
from telemetry.streams import alerts, states
from telemetry.streams.alerts import Round, decide, prune_alerts, settle
from telemetry.streams.states import Found
from telemetry.streams.tasks import look_for_alerts
from tests import builders
from tests.telemetry import builders as make

pytestmark = [pytest.mark.django_db, pytest.mark.both_engines]
MINUTE = timedelta(minutes=1)
START = now()
BAD = Found("disk", "bad", "The disk is full")


def rounds(*found: Found | None, first: datetime = START) -> list[str]:
    """One round a minute with what it finds; the states that were written, in order."""
    for number, each in enumerate(found):
        settle({each.key: each} if each else {}, first + number * MINUTE)
    return list(AlertEvent.objects.order_by("pk").values_list("state", flat=True))


def quarantined_install() -> None:
    install = builders.make_install(hostname="a")
    install.status = InstallStatus.QUARANTINED
    install.save()


def keys_found(moment: datetime | None = None, raised: frozenset[str] = frozenset()) -> set[str]:
    return {each.key for each in states.look(moment or now(), raised)}


def test_a_state_that_holds_two_rounds_is_raised_once() -> None:
    assert rounds(BAD) == []
    assert rounds(BAD, BAD, BAD, first=START + MINUTE) == ["raised"]
    event = AlertEvent.objects.get()
    assert (event.key, event.severity, event.text) == ("disk", "bad", "The disk is full")
    assert not AlertWatch.objects.exists()


def test_what_flickers_tells_nobody() -> None:
    assert rounds(BAD, None, BAD, None, BAD, None) == []
    assert rounds(BAD, BAD, None, BAD, None, BAD, first=START + 6 * MINUTE) == ["raised"]


def test_what_is_over_for_two_rounds_is_cleared_once_and_may_come_again() -> None:
    assert rounds(BAD, BAD, None, None, None) == ["raised", "cleared"]
    assert AlertEvent.objects.order_by("pk")[1].text == "Over: The disk is full"
    assert rounds(BAD, BAD, first=START + 9 * MINUTE) == ["raised", "cleared", "raised"]


def test_what_becomes_worse_is_told_again_and_never_raised_twice_in_a_row() -> None:
    warn = Found("disk", "warn", "The disk fills up")
    assert rounds(warn, warn, BAD, BAD, BAD) == ["raised", "cleared", "raised"]
    severities = AlertEvent.objects.order_by("pk").values_list("severity", flat=True)
    assert list(severities) == ["warn", "warn", "bad"]


def test_two_looks_at_the_same_time_are_one_round() -> None:
    for offset_s in (0, 1, 44):
        settle({"disk": BAD}, START + timedelta(seconds=offset_s))
    assert not AlertEvent.objects.exists()
    settle({"disk": BAD}, START + MINUTE)
    settle({"disk": BAD}, START + MINUTE + timedelta(seconds=1))
    assert AlertEvent.objects.count() == 1


def test_a_look_that_comes_late_changes_nothing() -> None:
    rounds(BAD, BAD)
    settle({}, START - MINUTE)
    settle({"disk": BAD}, START + 2 * MINUTE)
    assert AlertEvent.objects.get().state == "raised"


def test_a_round_that_dies_while_it_writes_leaves_all_of_it_to_the_next() -> None:
    more = Found("queue", "warn", "It waits")
    settle({"disk": BAD, "queue": more}, START)
    real = AlertEvent.objects.create
    with (
        mock.patch.object(
            AlertEvent.objects, "create", side_effect=[real(key="x", at=START), MemoryError]
        ),
        pytest.raises(MemoryError),
    ):
        settle({"disk": BAD, "queue": more}, START + MINUTE)
    AlertEvent.objects.filter(key="x").delete()
    assert AlertWatch.objects.count() == 2
    settle({"disk": BAD, "queue": more}, START + 2 * MINUTE)
    assert AlertEvent.objects.count() == 2


def test_a_look_that_fails_clears_nothing() -> None:
    rounds(BAD, BAD)
    with mock.patch.object(alerts, "look", side_effect=RuntimeError), pytest.raises(RuntimeError):
        alerts.run_round()
    assert set(alerts.raised_keys()) == {"disk"}
    assert not AlertWatch.objects.exists()


def test_the_plan_of_one_key_is_settled_when_nothing_differs() -> None:
    step = decide(stands="bad", found="bad", watch_present=False, watched_since=START, moment=START)
    assert (step.events, step.is_settled) == ((), True)


def test_installs_that_need_a_person_have_a_key_that_does_not_change() -> None:
    quarantined_install()
    assert "install_quarantined" in keys_found()
    with override_settings(LANGUAGE_CODE="de"):
        assert "install_quarantined" in keys_found()


def test_a_probe_that_is_not_in_order_is_found_with_its_mend() -> None:
    probe = Probe("sums", "Sums", "down", "Three hours behind", "Start the worker.")
    with mock.patch.dict("fleet.health._more", {}):
        register_probe("sums", lambda: probe)
        (found,) = [each for each in states.look(now(), frozenset()) if each.key == "probe:sums"]
    assert (found.severity, found.text) == ("bad", "Sums: Three hours behind. Start the worker.")


def job(state: str, *, schedule: ExportSchedule | None = None, age: timedelta = MINUTE) -> None:
    ExportJob.objects.create(
        schedule=schedule,
        state=state,
        start_at=START,
        end_at=START,
        created_at=START - age,
        finished_at=START - age,
        actor="somebody",
        last_error="The bucket is gone",
        fmt="csv",
    )


def test_a_schedule_is_bad_while_its_last_export_failed() -> None:
    schedule = ExportSchedule.objects.create(name="nightly", owner="ann", fmt="csv")
    job("failed", schedule=schedule, age=2 * MINUTE)
    key = f"export_schedule:{schedule.pk}"
    (found,) = [each for each in states.exports(START) if each.key == key]
    assert found.text == "The scheduled export nightly failed: The bucket is gone"
    job("done", schedule=schedule)
    assert key not in keys_found(START)


def test_an_export_by_hand_that_failed_is_told_for_a_day() -> None:
    job("failed")
    job("failed", age=timedelta(hours=25))
    (found,) = [each for each in states.exports(START) if each.key == "export_failed"]
    assert found.count == 1
    assert "export_failed" not in keys_found(START + timedelta(hours=24))


def collector(**values: object) -> RelayCursor:
    destination = RelayDestination.objects.create(
        name="Grafana", endpoint="https://otlp.example.com", since_at=START
    )
    return RelayCursor.objects.create(destination=destination, signal="traces", **values)


def test_a_collector_that_takes_nothing_is_found_between_two_tries_too() -> None:
    cursor = collector(failure_count=5, last_error="connection refused")
    (found,) = states.collectors(frozenset())
    assert (found.severity, found.text) == (
        "bad",
        "Grafana (Traces) takes nothing: connection refused",
    )
    RelayDestination.objects.filter(pk=cursor.destination_id).update(is_enabled=False)
    assert not list(states.collectors(frozenset()))


def test_a_lag_is_raised_above_its_threshold_and_cleared_well_below_it() -> None:
    since = Window(first=1, since=START.isoformat())
    cursor = collector(sending=since.to_json())
    key = f"relay:{cursor.destination_id}:traces"
    entry = FeedEntry(install_id=make.INSTALL, batch_id=make.INSTALL, row_count=1)
    for lag_s, from_none, from_raised in ((600, [], [key]), (1000, [key], [key]), (400, [], [])):
        entry.received_at = now() - timedelta(seconds=lag_s)
        entry.save()
        assert [each.key for each in states.collectors(frozenset())] == from_none
        assert [each.key for each in states.collectors(frozenset({key}))] == from_raised


def test_a_stream_is_found_when_it_fails_or_is_behind() -> None:
    stream = Stream.objects.create(name="SIEM", kind="webhook", endpoint="https://siem.example.com")
    AlertEvent.objects.create(key="x", state="raised", severity="bad", text="x", at=START)
    assert not list(states.streams(START, frozenset()))
    (found,) = states.streams(START + timedelta(minutes=20), frozenset())
    assert found.text.startswith("SIEM is")
    stream.failure_count = 7
    stream.save()
    assert next(states.streams(START, frozenset())).severity == "bad"


def test_the_task_raises_what_is_there_and_says_so() -> None:
    quarantined_install()
    with mock.patch.object(states, "gather") as probes:
        probes.return_value.probes = ()
        with mock.patch.object(alerts, "now", return_value=START):
            assert look_for_alerts() == "raised 0, cleared 0, pruned 0"
        with mock.patch.object(alerts, "now", return_value=START + MINUTE):
            assert look_for_alerts() == "raised 1, cleared 0, pruned 0"
    event = AlertEvent.objects.get()
    assert (event.key, event.severity, event.count) == ("install_quarantined", "bad", 1)


def test_old_alerts_go_and_what_is_still_raised_stays() -> None:
    long_ago = START - timedelta(days=500)
    rounds(BAD, BAD, None, None, BAD, BAD, first=long_ago)
    assert prune_alerts(START) == 2
    assert AlertEvent.objects.get().state == "raised"


def test_open_alerts_come_worst_first() -> None:
    for at in (START, START + MINUTE):
        settle({"a": Found("a", "info", "a"), "b": Found("b", "bad", "b")}, at)
    assert [event.key for event in alerts.open_alerts()] == ["b", "a"]


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_six_workers_at_once_write_one_row() -> None:
    settle({"disk": BAD}, START)
    gate, done = threading.Barrier(6), list[Round]()

    def work() -> None:
        gate.wait(10)
        done.append(settle({"disk": BAD}, START + MINUTE))
        connection.close()

    threads = [threading.Thread(target=work) for _number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(each.raised for each in done) == [0, 0, 0, 0, 0, 1]
    assert AlertEvent.objects.count() == 1
