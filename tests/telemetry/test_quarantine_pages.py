"""The quarantine's pages: reasons in words, hostile text as text, a count before anything."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client, override_settings

from agent_client.contract.wire import LINE_CODES
from fleet.models import ChangeRecord
from telemetry.admin import quarantine as pages
from telemetry.admin.reasons import REASONS, reason_for
from telemetry.models import QuarantinedLine, QuarantineJob, ToolCall
from tests import builders
from tests.telemetry import builders as make

pytestmark = [pytest.mark.django_db, pytest.mark.both_engines]
LIST = "/telemetry/quarantinedline/"
ALL = ("view_quarantinedline", "replay_quarantinedline", "purge_quarantinedline")
HOSTILE = b'{"x":"<script>alert(1)</script>"'
OLD_S = 60 * 86_400.0


@pytest.fixture(autouse=True)
def install_id() -> UUID:
    return builders.make_install(install_id=make.INSTALL, hostname="desk-7").pk


def refuse(*records: dict[str, object] | bytes, **values: object) -> None:
    with override_settings(FLEET_RETENTION_DAYS=30):
        make.push(*records, **values)


def too_old(number: int) -> dict[str, object]:
    return make.tool_call(number, start_ns=make.recent_ns(OLD_S))


def client_of(*codenames: str) -> Client:
    user = User.objects.create_user("somebody", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
    client = Client()
    client.force_login(user)
    return client


def text_of(client: Client, path: str) -> str:
    answer = client.get(path, follow=True)
    assert answer.status_code == 200
    return str(answer.content.decode())


def act(client: Client, action: str, *ids: int, query: str = "", **data: str) -> tuple[int, str]:
    values = {"action": action, "_selected_action": [str(pk) for pk in ids], "index": "0"}
    answer = client.post(LIST + query, values | data, follow=True)
    return answer.status_code, str(answer.content.decode())


def test_every_line_code_has_its_reason_and_mend() -> None:
    assert set(REASONS) == set(LINE_CODES)
    assert all(str(reason.text) and str(reason.mend) for reason in REASONS.values())
    assert str(reason_for("of_long_ago").mend)


def test_the_list_counts_by_reason_and_column_and_narrows() -> None:
    refuse(too_old(1), too_old(2), b"{")
    client = client_of(*ALL)
    shown = text_of(client, LIST)
    assert "?code=time_too_old&amp;detail=start_ns" in shown
    assert "3 lines in quarantine" in " ".join(shown.split())
    assert "desk-7" in shown
    narrowed = text_of(client, f"{LIST}?code=malformed_line&detail=-")
    assert narrowed.count('name="_selected_action"') == 1
    day = f"{QuarantinedLine.objects.latest('pk').received_at:%Y-%m-%d}"
    for query in (f"install={make.INSTALL}", f"day={day}", "replayable=yes", f"q={make.INSTALL}"):
        assert text_of(client, f"{LIST}?{query}").count('name="_selected_action"') == 3
    assert 'name="_selected_action"' not in text_of(client, f"{LIST}?install={uuid4()}")


def test_hostile_text_is_text_on_every_page() -> None:
    refuse(HOSTILE)
    client, line = client_of(*ALL), QuarantinedLine.objects.get()
    for path in (LIST, f"{LIST}{line.pk}/change/"):
        shown = text_of(client, path)
        assert "&lt;script&gt;alert(1)" in shown
        assert "<script>alert(1)" not in shown


def test_a_line_s_page_says_why_and_what_to_do() -> None:
    refuse(too_old(1), too_old(2))
    line = QuarantinedLine.objects.order_by("pk")[0]
    shown = text_of(client_of(*ALL), f"{LIST}{line.pk}/change/")
    assert str(REASONS["time_too_old"].mend) in shown
    assert "2 lines with this reason" in " ".join(shown.split())
    assert "Replay…" in shown
    assert "cannot be replayed" not in shown


def test_a_line_that_was_cut_says_so_and_offers_no_replay() -> None:
    refuse(b"{" + b"x" * 9000)
    line = QuarantinedLine.objects.get()
    shown = text_of(client_of(*ALL), f"{LIST}{line.pk}/change/")
    assert "cannot be replayed" in shown
    assert "Replay…" not in shown


def test_whoever_may_only_look_is_offered_nothing_and_can_do_nothing() -> None:
    refuse(too_old(1))
    client, line = client_of("view_quarantinedline"), QuarantinedLine.objects.get()
    shown = text_of(client, f"{LIST}{line.pk}/change/")
    assert "Replay…" not in shown
    assert "Discard…" not in shown
    for action in ("replay", "purge"):
        act(client, action, line.pk, confirmed="yes", reason="x")
    assert (QuarantinedLine.objects.count(), QuarantineJob.objects.count()) == (1, 0)


def test_a_replay_asks_first_with_what_would_happen() -> None:
    refuse(too_old(1), too_old(2), b"{", b"{" + b"x" * 9000)
    ids = QuarantinedLine.objects.values_list("pk", flat=True)
    _status, shown = act(client_of(*ALL), "replay", *ids)
    assert "Replay 3 lines?" in shown
    assert "accept 2 of them" in shown
    assert "1 more were not kept" in shown
    assert not ToolCall.objects.exists()


def test_a_confirmed_replay_is_done_shown_and_audited() -> None:
    refuse(too_old(1), b"{")
    client = client_of(*ALL)
    ids = QuarantinedLine.objects.values_list("pk", flat=True)
    _status, shown = act(client, "replay", *ids, confirmed="yes", reason="Retention raised")
    assert "Retention raised" in shown
    assert (ToolCall.objects.count(), QuarantinedLine.objects.count()) == (1, 1)
    assert ChangeRecord.objects.filter(action="quarantine.replay", actor="somebody").exists()
    assert "1 stored, 1 stay in quarantine" in text_of(client, "/telemetry/quarantinejob/")


def test_all_of_a_filter_means_all_of_it_and_no_more() -> None:
    refuse(too_old(1), *[b"{"] * 60)
    client, first = client_of(*ALL), QuarantinedLine.objects.filter(code="malformed_line")[0]
    query = "?code=malformed_line"
    _status, shown = act(client, "purge", first.pk, query=query, select_across="1")
    assert "Discard 60 lines?" in shown
    act(client, "purge", first.pk, query=query, select_across="1", confirmed="yes", reason="Noise")
    assert QuarantinedLine.objects.get().code == "time_too_old"
    assert QuarantineJob.objects.get().chosen == {"code": "malformed_line"}


def test_many_lines_are_left_to_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "INLINE_LINES", 1)
    refuse(too_old(1), too_old(2))
    client, ids = client_of(*ALL), QuarantinedLine.objects.values_list("pk", flat=True)
    _status, shown = act(client, "replay", *ids, confirmed="yes", reason="Retention raised")
    assert "goes on by itself" in shown
    assert QuarantineJob.objects.get().state == QuarantineJob.State.WAITING
    assert "is under way" in text_of(client, LIST)


def test_lines_that_cannot_be_replayed_make_no_order() -> None:
    refuse(b"{" + b"x" * 9000)
    line = QuarantinedLine.objects.get()
    _status, shown = act(client_of(*ALL), "replay", line.pk, confirmed="yes", reason="x")
    assert "None of them can be replayed" in shown
    assert not QuarantineJob.objects.exists()


def test_a_list_is_narrowed_by_nothing_that_an_action_does_not_follow() -> None:
    refuse(too_old(1), b"{")
    client = client_of(*ALL)
    every = {"select_across": "1", "confirmed": "yes", "reason": "old"}
    line = QuarantinedLine.objects.earliest("pk")
    status, _text = act(client, "purge", line.pk, query=f"?line={line.line}", **every)
    assert (status, QuarantinedLine.objects.count()) == (400, 2)


@pytest.mark.parametrize("query", ["?code=%00", "?plane=%00", "?q=%00"])
def test_a_nul_in_an_address_or_a_reason_is_no_error_of_ours(query: str) -> None:
    refuse(b"{")
    client = client_of(*ALL)
    assert client.get(LIST + query).status_code == 400
    line = QuarantinedLine.objects.get()
    assert act(client, "purge", line.pk, confirmed="yes", reason="\0old\0")[0] == 200
    assert ChangeRecord.objects.filter(action="quarantine.purge", reason="old").exists()
