"""Erasing an install: nothing of it stays, nothing comes back, everybody else is untouched."""

from __future__ import annotations

import json
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.apps import apps
from django.contrib.auth.models import Permission, User
from django.core.management import CommandError, call_command
from django.db import connection
from django.http import HttpResponse
from django.test import Client

from agent_client.contract.tokens import parse_token
from fleet.audit import verify_chain
from fleet.enroll import EnrollRefused, enroll_install
from fleet.enroll.erasure import begin_erasure
from fleet.enroll.erasure_report import ReportError, open_report
from fleet.lib.clock import now
from fleet.models import ChangeRecord, Erasure, Install
from fleet.policy.signing import root_fingerprint
from telemetry.ingest.decode import IngestError
from telemetry.ingest.drain import drain
from telemetry.models import (
    ALL_GROUPS,
    EVENT_MODELS,
    FillState,
    FirstSeen,
    IngestBatch,
    InstallBoard,
    InstallCell,
    ReplacedRun,
    Run,
    RunsCell,
    SpooledBatch,
    ToolCall,
    TouchedHour,
    Unit,
)
from telemetry.pages import erase as erase_page
from telemetry.rollup.fill import fill_pending
from telemetry.rollup.verify import verify_cells
from telemetry.store import erase
from telemetry.store.erase import count_rows, erasable_models, erase_install, resume_erasures
from tests import builders as fleet
from tests.telemetry import builders as make
from tests.telemetry import content_rows as content
from tests.telemetry.test_ingest_summaries import push as push_summaries
from tests.telemetry.test_ingest_summaries import summary

pytestmark = [pytest.mark.django_db, pytest.mark.both_engines]
OTHER = UUID("01890000-0000-7000-8000-000000000002")
WHY = "asked for by its owner"


def filled(install_id: UUID = make.INSTALL, host: str = "doomed-host") -> str:
    """An install with a row in every table that can hold one; its credential."""
    _install, credential = fleet.enroll_one(install_id=install_id)
    Install.objects.filter(pk=install_id).update(hostname=host)
    who: dict[str, Any] = {"install_id": install_id}
    make.push(*make.one_of_each(make.recent_ns(7200)), b"{broken", **who)
    make.push(
        make.run(1, run_id="r"), make.run(2, run_id="s", start_ns=make.recent_ns(90_000)), **who
    )
    again = Run.objects.get(install_id=install_id, run_id="r")
    make.push(make.run(9, run_id="r", start_ns=again.start_ns, end_reason="failed"), **who)
    push_summaries(summary("a"), **who)
    content.push(content.session(), content.message(), **who)
    FirstSeen.objects.get_or_create(
        kind="model", value=f"m-{host}", defaults={"first_at": now(), "install_id": install_id}
    )
    fill_pending()
    return credential


def rows_of(install_id: UUID) -> dict[str, int]:
    return {table: count for table, count in count_rows(install_id).items() if count}


def own_rows(install_id: UUID) -> dict[str, int]:
    """Without the register of firsts: who is left becomes the first."""
    register = FirstSeen._meta.db_table
    return {table: count for table, count in rows_of(install_id).items() if table != register}


def everything() -> str:
    """Every row of the database but the audit trail and the tombstones, as text."""
    kept = {"changerecord", "erasure", "erasedcredential"}
    return str(
        [
            list(model._default_manager.values())
            for model in apps.get_models()
            if model._meta.app_label in {"fleet", "telemetry"}
            and model._meta.model_name not in kept
        ]
    )


def summed_runs() -> int:
    """Runs of all hours, as the cells have them."""
    cells = RunsCell.objects.filter(unit=Unit.HOUR, group_id=ALL_GROUPS)
    return sum(cells.values_list("run_count", flat=True))


def assert_exact() -> None:
    """The cells are what the rows say."""
    report = verify_cells(now() - timedelta(days=3), now() + timedelta(days=1))
    assert report.cell_count
    assert report.differences == []


def test_every_table_that_names_an_install_is_erased() -> None:
    names = {model.__name__ for model in erasable_models()}
    assert names >= {model.__name__ for model in EVENT_MODELS}
    assert names >= {"ContentMessage", "ContentSession", "AggregateRecord", "QuarantinedLine"}
    assert names >= {"IngestBatch", "InstallIntake", "InstallCell", "FirstSeen"}


def test_nothing_of_the_install_is_left_and_nothing_of_another_is_touched() -> None:
    filled()
    filled(OTHER, "other-host")
    InstallBoard.objects.create(
        window_hours=24,
        group_id=ALL_GROUPS,
        end_at=now(),
        counted_at=now(),
        tops={"runs": [[str(make.INSTALL), 3]]},
    )
    before, theirs = rows_of(make.INSTALL), own_rows(OTHER)
    assert len(before) >= 18
    done = erase_install(make.INSTALL, actor="operator", reason=WHY)
    assert done.is_done
    assert rows_of(make.INSTALL) == {}
    assert own_rows(OTHER) == theirs
    text = everything()
    assert str(make.INSTALL) not in text
    assert make.INSTALL.hex not in text
    assert "doomed-host" not in text
    assert "other-host" in text


def test_the_hours_it_had_rows_in_are_summed_anew_and_exact() -> None:
    filled()
    filled(OTHER, "other-host")
    done = erase_install(make.INSTALL, actor="operator", reason=WHY)
    assert len(done.hours) >= 3
    assert TouchedHour.objects.filter(batch_id=None).count() >= 3
    fill_pending()
    assert not InstallCell.objects.filter(install_id=make.INSTALL).exists()
    assert_exact()
    assert summed_runs() == Run.objects.count()


def test_an_hour_without_rows_keeps_its_sums_and_the_report_says_so() -> None:
    filled()
    FillState.objects.update(state=FillState.State.EXPIRED)
    runs = summed_runs()
    done = erase_install(make.INSTALL, actor="operator", reason=WHY)
    assert len(done.frozen_hours) >= 3
    assert done.hours == []
    fill_pending()
    assert summed_runs() == runs
    assert not InstallCell.objects.exists()


def test_a_value_that_another_install_has_keeps_its_place_in_the_register() -> None:
    for install_id, ago_s in ((make.INSTALL, 9000.0), (OTHER, 4000.0)):
        make.push(
            make.model_call(model="m-both", start_ns=make.recent_ns(ago_s)), install_id=install_id
        )
    make.push(make.model_call(2, model="m-own"))
    FirstSeen.objects.all().delete()
    for value in ("m-both", "m-own"):
        FirstSeen.objects.create(kind="model", value=value, first_at=now(), install_id=make.INSTALL)
    fleet.make_install(install_id=make.INSTALL)
    erase_install(make.INSTALL, actor="operator", reason=WHY)
    left = FirstSeen.objects.get()
    assert (left.value, left.install_id) == ("m-both", OTHER)


def test_twice_is_the_same_report() -> None:
    filled()
    first = erase_install(make.INSTALL, actor="operator", reason=WHY)
    again = erase_install(make.INSTALL, actor="somebody else", reason="again")
    assert (again.report, again.finished_at) == (first.report, first.finished_at)
    assert ChangeRecord.objects.filter(action__in=("erase", "erased")).count() == 2
    assert verify_chain() is None


# ------------------------------------------------------------------------- nothing comes back


def refused_code(call: Any) -> str:  # noqa: ANN401 -- any call
    try:
        call()
    except (IngestError, EnrollRefused) as refused:
        return refused.code
    return ""


def test_a_late_batch_a_replay_and_a_summary_are_refused() -> None:
    batch_id = uuid4()
    filled()
    make.push(make.run(5), batch_id=batch_id)
    erase_install(make.INSTALL, actor="operator", reason=WHY)
    for push in (make.push, push_summaries, content.push):
        assert (
            refused_code(lambda push=push: push(make.run(5), batch_id=batch_id)) == "install_erased"
        )
    assert rows_of(make.INSTALL) == {}


def test_a_replay_is_refused_while_the_ledger_still_stands() -> None:
    batch_id, row = uuid4(), make.run(5)
    filled()
    make.push(row, batch_id=batch_id)
    begin_erasure(make.INSTALL, actor="operator", reason=WHY)
    assert refused_code(lambda: make.push(row, batch_id=batch_id)) == "install_erased"


def test_its_credential_is_told_why_it_is_refused() -> None:
    credential = filled()
    erase_install(make.INSTALL, actor="operator", reason=WHY)
    answer = fleet.agent_client_of(credential).post(
        "/api/v1/checkin", {"seq": 1, "status": "applied"}, content_type="application/json"
    )
    assert (answer.status_code, answer.json()["code"]) == (403, "install_erased")
    assert "--new-id" in answer.json()["detail"]


@pytest.mark.parametrize("approval", ["auto", "manual"])
def test_its_id_cannot_be_enrolled_again(approval: str) -> None:
    filled()
    erase_install(make.INSTALL, actor="operator", reason=WHY)
    _row, text = fleet.make_token(approval=approval)
    token = parse_token(text)
    assert token is not None
    applicant = fleet.make_applicant(install_id=make.INSTALL)
    assert refused_code(lambda: enroll_install(token, applicant)) == "install_erased"
    assert not Install.objects.exists()


def test_a_file_of_it_is_not_loaded(tmp_path: Path) -> None:
    filled()
    erase_install(make.INSTALL, actor="operator", reason=WHY)
    file = tmp_path / "rows.ndjson"
    file.write_bytes(make.ndjson(make.run()))
    with pytest.raises(CommandError, match="was erased"):
        call_command("telemetry_load", str(file), install=make.INSTALL)


def test_what_waits_in_the_spool_is_erased_and_never_stored(settings: Any) -> None:  # noqa: ANN401 -- pytest-django's
    filled()
    settings.FLEET_VALVE = "open"
    make.push(make.run(50, run_id="spooled"))
    assert SpooledBatch.objects.count() == 1
    done = erase_install(make.INSTALL, actor="operator", reason=WHY)
    assert (done.counts_before or {})["telemetry_spooledbatch"] == 1
    drain()
    assert refused_code(lambda: make.push(make.run(51))) == "install_erased"
    assert rows_of(make.INSTALL) == {}


# ------------------------------------------------------------------------------- ended half-way


class Ended(BaseException):
    """The process ends here, as far as this test can do it."""


def erase_until_ended() -> None:
    """Past the last point it starts over, and finds the erasure done."""
    while True:
        erase_install(make.INSTALL, actor="operator", reason=WHY)


@pytest.mark.parametrize("last", range(7))
def test_an_erasure_that_was_ended_anywhere_is_finished_by_the_next_run(
    monkeypatch: pytest.MonkeyPatch, last: int
) -> None:
    filled()
    filled(OTHER, "other-host")
    before, theirs = rows_of(make.INSTALL), own_rows(OTHER)
    passed: list[str] = []

    def reached(point: str) -> None:
        passed.append(point)
        if len(passed) > last:
            raise Ended

    monkeypatch.setattr(erase, "_reached", reached)
    with pytest.raises(Ended):
        erase_until_ended()
    assert refused_code(lambda: make.push(make.run(7))) == "install_erased"
    monkeypatch.undo()
    resume_erasures()
    done = Erasure.objects.get()
    assert done.is_done
    assert rows_of(make.INSTALL) == {}
    assert own_rows(OTHER) == theirs
    assert (done.counts_before or {}).items() >= before.items()
    fill_pending()
    assert_exact()


# --------------------------------------------------------------------------------- the report


def test_the_report_is_signed_and_says_what_went() -> None:
    filled()
    before = rows_of(make.INSTALL)
    done = erase_install(make.INSTALL, actor="operator", reason=WHY)
    report = open_report(done.report.encode(), fingerprint=root_fingerprint())
    assert (report["install_id"], report["requested_by"]) == (str(make.INSTALL), "operator")
    assert report["reason"] == WHY
    tables: Any = report["tables"]
    assert {one["table"]: one["rows_before"] for one in tables}.items() >= before.items()
    assert all(one["rows_after"] == 0 for one in tables)
    assert report["hours_summed_anew_count"] == len(done.hours)


def test_a_report_that_was_changed_or_is_another_fleets_is_refused() -> None:
    filled()
    text = erase_install(make.INSTALL, actor="operator", reason=WHY).report
    fingerprint = root_fingerprint()
    data = json.loads(text)
    data["report"]["payload"] = data["root"]["payload"]
    for file, key in ((json.dumps(data), fingerprint), (text, "0" * 64), ("{}", fingerprint)):
        with pytest.raises(ReportError):
            open_report(file.encode(), fingerprint=key)


def test_the_command_erases_hands_out_the_report_and_verifies_it(tmp_path: Path) -> None:
    filled()
    file, said = tmp_path / "report.json", StringIO()
    call_command("fleet_erase", str(make.INSTALL), reason=WHY, yes=True, out=file, stderr=said)
    assert "erased" in said.getvalue()
    shown = StringIO()
    call_command("fleet_erase", verify=file, stdout=shown, stderr=StringIO())
    assert json.loads(shown.getvalue())["install_id"] == str(make.INSTALL)
    file.write_text(file.read_text().replace("A", "B", 1))
    with pytest.raises(CommandError):
        call_command("fleet_erase", verify=file)


def test_a_report_is_verified_without_a_database(tmp_path: Path) -> None:
    filled()
    file = tmp_path / "report.json"
    file.write_text(erase_install(make.INSTALL, actor="operator", reason=WHY).report)
    fingerprint = root_fingerprint()

    def no_query(*_: object) -> None:
        raise AssertionError("a query")

    with connection.execute_wrapper(no_query):
        call_command(
            "fleet_erase",
            verify=file,
            fingerprint=fingerprint,
            stdout=StringIO(),
            stderr=StringIO(),
        )


@pytest.mark.parametrize(
    ("given", "why"),
    [({}, "Name the install"), ({"install": str(OTHER)}, "--reason")],
)
def test_the_command_says_what_it_lacks(given: dict[str, str], why: str) -> None:
    with pytest.raises(CommandError, match=why):
        call_command("fleet_erase", *given.values())


def test_an_unknown_install_is_not_erased() -> None:
    with pytest.raises(CommandError, match="No such install"):
        call_command("fleet_erase", str(OTHER), reason=WHY, yes=True)
    assert not Erasure.objects.exists()


# ------------------------------------------------------------------------------------ the page

PATH = f"/erase/{make.INSTALL}/"


def client_of(*permissions: str) -> Client:
    user = User.objects.create_user("officer", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(user)
    return client


def test_the_page_counts_first_and_erases_only_by_name_and_reason() -> None:
    filled()
    client = client_of("add_erasure", "view_erasure")
    shown = client.get(PATH)
    assert isinstance(shown, HttpResponse)
    assert "telemetry_contentmessage" in shown.content.decode()
    for form in ({"name": "doomed", "reason": WHY}, {"name": "doomed-host", "reason": " "}):
        assert client.post(PATH, form).status_code == 200
    assert not Erasure.objects.exists()
    assert client.post(PATH, {"name": "doomed-host", "reason": WHY}).status_code == 302
    erasure = Erasure.objects.get()
    assert (erasure.is_done, erasure.requested_by) == (True, "officer")
    assert client.get(f"/fleet/erasure/{make.INSTALL}/change/").status_code == 200
    report = client.get(f"/fleet/erasure/{make.INSTALL}/report/")
    assert isinstance(report, HttpResponse)
    assert open_report(report.content, fingerprint=root_fingerprint())["reason"] == WHY


def test_a_large_install_is_left_to_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erase_page, "AT_ONCE_ROWS", 5)
    filled()
    client_of("add_erasure").post(PATH, {"name": "doomed-host", "reason": WHY})
    assert not Erasure.objects.get().is_done
    assert refused_code(lambda: make.push(make.run(7))) == "install_erased"
    assert resume_erasures() == 1
    assert Erasure.objects.get().is_done
    assert not IngestBatch.objects.exists()
    assert not ReplacedRun.objects.exists()


def test_the_page_is_refused_without_its_permission() -> None:
    filled()
    client = client_of("view_install", "change_install", "view_erasure")
    assert client.get(PATH).status_code == 403
    assert client.post(PATH, {"name": "doomed-host", "reason": WHY}).status_code == 403
    assert client.get(f"/fleet/erasure/{make.INSTALL}/report/").status_code == 302
    assert not Erasure.objects.exists()


def test_what_a_late_fill_saw_first_is_swept_behind_an_erasure() -> None:
    filled()
    filled(OTHER, "other-host")
    erase_install(make.INSTALL, actor="operator", reason=WHY)
    ToolCall.objects.update(tool_name="shared")
    theirs = "shared"
    FirstSeen.objects.filter(value=theirs).delete()
    for kind, value in (("endpoint", "https://only.theirs"), ("tool", theirs)):
        FirstSeen.objects.create(
            kind=kind, value=value, first_at=now() - timedelta(days=9), install_id=make.INSTALL
        )
    resume_erasures()
    assert not FirstSeen.objects.filter(install_id=make.INSTALL).exists()
    assert FirstSeen.objects.get(value=theirs).install_id == OTHER
