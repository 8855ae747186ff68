"""The spool is seen: on the health page, by the checks, on the command line, in its list."""

from __future__ import annotations

from datetime import timedelta
from io import StringIO

import pytest
from django.contrib.auth.models import Permission, User
from django.core.management import CommandError, call_command
from django.test import Client, override_settings

from fleet.lib.clock import now
from fleet.models import ChangeRecord
from telemetry import checks, health
from telemetry.models import Run, SpooledBatch
from tests.telemetry import builders as make

pytestmark = [pytest.mark.django_db, pytest.mark.both_engines]


def spool(*records: dict[str, object]) -> SpooledBatch:
    with override_settings(FLEET_VALVE="open"):
        make.push(*records)
    return SpooledBatch.objects.latest("pk")


def set_aside(batch: SpooledBatch) -> None:
    SpooledBatch.objects.filter(pk=batch.pk).update(
        set_aside_at=now(), attempts=5, last_error="DataError 22003"
    )


def ids_of_checks() -> list[str]:
    return [str(found.id) for found in checks.check_spool(None, databases=["default"])]


def run(*args: str) -> str:
    out = StringIO()
    call_command("telemetry_spool", *args, stdout=out)
    return out.getvalue()


def client_of(*codenames: str) -> Client:
    user = User.objects.create_user("somebody", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
    client = Client()
    client.force_login(user)
    return client


def test_an_empty_spool_is_in_order() -> None:
    assert (health.spool_probe().state, ids_of_checks()) == ("ok", [])


def test_a_spool_says_how_much_waits_and_since_when() -> None:
    spool(make.run(), make.tool_call(2))
    probe = health.spool_probe()
    assert probe.state == "ok"
    assert "1 batch waits, 2 rows" in probe.detail


def test_what_waits_too_long_is_a_warning_with_its_mend() -> None:
    spool(make.run())
    SpooledBatch.objects.update(received_at=now() - timedelta(minutes=11))
    probe = health.spool_probe()
    assert (probe.state, bool(probe.mend), ids_of_checks()) == ("warn", True, ["telemetry.W020"])


def test_what_was_set_aside_is_a_warning_of_its_own() -> None:
    set_aside(spool(make.run()))
    assert (health.spool_probe().state, ids_of_checks()) == ("warn", ["telemetry.W021"])


@override_settings(FLEET_VALVE="open")
def test_a_valve_that_was_left_open_is_a_warning() -> None:
    assert "FLEET_VALVE" in health.spool_probe().mend


def test_the_command_drains_and_says_what_is_left() -> None:
    spool(make.run())
    assert "1 batch waits" in run()
    assert "stored 1 batches, 1 rows" in run("drain")
    assert "Nothing waits" in run("status")
    assert Run.objects.exists()


def test_the_command_lists_what_was_set_aside_and_tries_it_again() -> None:
    set_aside(spool(make.run()))
    assert "set aside after 5 tries: DataError 22003" in run("status")
    assert "1 batches will be tried again" in run("retry")
    assert ChangeRecord.objects.get().action == "spool.retry"
    run("drain")
    assert Run.objects.exists()
    with pytest.raises(CommandError, match="No batch"):
        run("retry")


def retry(client: Client, batch: SpooledBatch, **data: str) -> int:
    values = {"action": "try_again", "_selected_action": str(batch.pk), "index": "0"}
    return client.post("/telemetry/spooledbatch/", values | data).status_code


def test_a_batch_that_was_set_aside_is_tried_again_with_a_reason_and_an_audit_row() -> None:
    batch = spool(make.run())
    set_aside(batch)
    client = client_of("view_spooledbatch", "retry_spooledbatch")
    assert "DataError 22003" in client.get("/telemetry/spooledbatch/").content.decode()
    assert retry(client, batch) == 200
    assert retry(client, batch, confirmed="yes", reason="Disk is larger now") == 302
    batch.refresh_from_db()
    assert (batch.set_aside_at, ChangeRecord.objects.get().reason) == (None, "Disk is larger now")


def test_whoever_may_only_look_cannot_try_again() -> None:
    batch = spool(make.run())
    set_aside(batch)
    retry(client_of("view_spooledbatch"), batch, confirmed="yes", reason="x")
    batch.refresh_from_db()
    assert batch.set_aside_at is not None
