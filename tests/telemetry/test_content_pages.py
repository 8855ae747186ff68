"""Reading content: a permission, a stated reason, and an audit row at each read."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import Permission, User
from django.http import HttpResponse
from django.test import Client

from fleet.audit import verify_chain
from fleet.models import ChangeRecord
from telemetry.pages import content as page
from tests import builders as fleet
from tests.telemetry import builders as make
from tests.telemetry.content_rows import SESSION, message, push, session

pytestmark = [pytest.mark.django_db, pytest.mark.both_engines]
PATH = f"/content/{make.INSTALL}/?session={SESSION}"
HOSTILE = '<script>alert("x")</script><img src=x onerror=alert(1)>'
REASON = "Incident 4711: why did the run fail?"


def client_of(*permissions: str, superuser: bool = False) -> Client:
    user = User.objects.create_user("reader", is_staff=True, is_superuser=superuser)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(user)
    return client


def with_content(*more: dict[str, object]) -> None:
    fleet.make_install(install_id=make.INSTALL)
    push(session(title="The secret of rivers"), message(content="Deep water"), *more)


def read(client: Client, **values: object) -> HttpResponse:
    answer = client.post(PATH, {"reason": REASON} | values)
    assert isinstance(answer, HttpResponse)
    return answer


def reads() -> list[ChangeRecord]:
    return list(ChangeRecord.objects.filter(action="read_content").order_by("id"))


def test_without_the_permission_content_is_refused_and_not_even_named() -> None:
    with_content()
    client = client_of("view_run", "view_install", "view_ingestbatch")
    assert client.get(PATH).status_code == read(client).status_code == 403
    install = client.get(f"/fleet/install/{make.INSTALL}/change/").content.decode()
    assert SESSION not in install
    assert not reads()


@pytest.mark.parametrize("superuser", [False, True])
def test_nothing_is_shown_before_a_reason_is_given(superuser: bool) -> None:
    with_content()
    client = client_of("view_trajectory", superuser=superuser)
    answers = [client.get(PATH), read(client, reason=""), read(client, reason="because  ")]
    for answer in answers:
        assert answer.status_code == 200
        assert isinstance(answer, HttpResponse)
        text = answer.content.decode()
        assert "Deep water" not in text
        assert "The secret of rivers" not in text
    assert not reads()


@pytest.mark.parametrize("superuser", [False, True])
def test_a_read_is_shown_and_is_in_the_audit_trail(superuser: bool) -> None:
    with_content()
    text = read(client_of("view_trajectory", superuser=superuser)).content.decode()
    assert "Deep water" in text
    assert "The secret of rivers" in text
    (row,) = reads()
    assert (row.actor, row.reason, row.object_id) == ("reader", REASON, str(make.INSTALL))
    assert row.post == {"session": SESSION, "after_message": 0}
    assert verify_chain() is None


def test_each_page_of_a_session_is_a_read_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "PAGE_MESSAGES", 2)
    with_content(message(2, content="Second"), message(3, content="Third"))
    client = client_of("view_trajectory")
    seen = [read(client, after=after).content.decode() for after in ("0", "2")]
    assert ["Deep water" in text for text in seen] == [True, False]
    assert ["Third" in text for text in seen] == [False, True]
    assert [row.post for row in reads()] == [
        {"session": SESSION, "after_message": 0},
        {"session": SESSION, "after_message": 2},
    ]


def test_hostile_content_is_shown_as_text() -> None:
    with_content(message(2, content=HOSTILE, role=HOSTILE, reasoning=HOSTILE))
    text = read(client_of("view_trajectory")).content.decode()
    assert HOSTILE not in text
    assert "&lt;script&gt;" in text


def test_no_cache_keeps_a_page_of_content() -> None:
    with_content()
    answer = read(client_of("view_trajectory"))
    assert "no-store" in answer["Cache-Control"]


def test_reads_are_bounded_by_the_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "READS_AN_HOUR", 2)
    with_content()
    client = client_of("view_trajectory")
    shown = ["Deep water" in read(client).content.decode() for _ in range(4)]
    assert shown == [True, True, False, False]
    assert len(reads()) == 2


def test_a_long_field_is_cut_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "SHOWN_CHARS", 10)
    with_content(message(2, content="a river, a lake " * 10))
    assert (
        "150 characters more are not shown" in read(client_of("view_trajectory")).content.decode()
    )


def test_an_unknown_session_is_not_found_and_leaves_no_row() -> None:
    fleet.make_install(install_id=make.INSTALL)
    assert read(client_of("view_trajectory")).status_code == 404
    assert not reads()


def test_a_withdrawal_is_shown_on_the_install_page() -> None:
    with_content()
    client = client_of("view_trajectory", "view_install", "view_ingestbatch")
    path = f"/fleet/install/{make.INSTALL}/change/"
    assert "Withdrawn" not in client.get(path).content.decode()
    make.push(make.run(), consent={"consent_state": "local", "trajectories": False})
    text = client.get(path).content.decode()
    assert "Withdrawn" in text
    assert SESSION in text


def test_the_page_of_a_run_leads_to_what_was_said_for_those_who_may_ask() -> None:
    with_content()
    make.push(make.run(run_id="r-1", session_id=SESSION), make.run(2, run_id="r-2"))
    path = f"/runs/{make.INSTALL}/?run="
    reader = client_of("view_run", "view_trajectory")
    assert "what was said" in reader.get(f"{path}r-1").content.decode()
    assert "what was said" not in reader.get(f"{path}r-2").content.decode()
    User.objects.get().user_permissions.set(Permission.objects.filter(codename="view_run"))
    assert "what was said" not in reader.get(f"{path}r-1").content.decode()
