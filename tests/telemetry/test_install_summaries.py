"""The install page tells what the aggregate plane brought, to whoever may see it."""

from __future__ import annotations

from uuid import UUID

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client

from telemetry.ingest.gate import count_refusal
from tests import builders
from tests.telemetry import builders as make
from tests.telemetry.test_ingest_summaries import beat, push, summary

pytestmark = [pytest.mark.django_db, pytest.mark.both_engines]


def page_of(install_id: UUID, *permissions: str) -> str:
    user = User.objects.create_user("somebody", is_staff=True)
    names = ("view_install", *permissions)
    user.user_permissions.set(Permission.objects.filter(codename__in=names))
    client = Client()
    client.force_login(user)
    answer = client.get(f"/fleet/install/{install_id}/change/")
    assert answer.status_code == 200
    return answer.content.decode()


def test_consent_summaries_and_heartbeat_are_shown() -> None:
    install = builders.make_install()
    records = (summary("a"), summary("b"), beat(install_id=str(install.pk)))
    push(*records, install_id=install.pk)
    shown = " ".join(page_of(install.pk, "view_aggregaterecord").split())
    assert "<dt>Consent</dt><dd>Aggregate" in shown
    assert "<dt>Summaries</dt><dd>2 " in shown
    assert "<bdi>0.19.0</bdi>" in shown
    assert "linux" in shown


def test_after_a_withdrawal_the_last_consent_is_that_of_the_local_plane() -> None:
    install = builders.make_install()
    push(summary(), install_id=install.pk)
    make.push(make.run(), install_id=install.pk, consent={"consent_state": "local"})
    shown = " ".join(page_of(install.pk, "view_aggregaterecord").split())
    assert "<dt>Consent</dt><dd>Local" in shown
    assert "<dt>Summaries</dt><dd>1 " in shown


def test_refused_pushes_are_shown_where_nothing_ever_came_in() -> None:
    install = builders.make_install()
    count_refusal(install.pk, "aggregate")
    shown = page_of(install.pk, "view_aggregaterecord")
    assert "never said" in shown
    assert "1 push at the closed plane" in shown


def test_without_the_permission_there_is_no_panel() -> None:
    install = builders.make_install()
    push(summary(), install_id=install.pk)
    assert "Aggregate plane" not in page_of(install.pk)


def test_the_list_says_in_short_what_a_record_holds() -> None:
    push(summary(end_reason="max_iterations"), beat())
    User.objects.create_superuser("root")
    client = Client()
    client.force_login(User.objects.get())
    shown = client.get("/telemetry/aggregaterecord/").content.decode()
    assert "Max iterations · cli · 2.5\u202fs · 5 calls" in shown
    assert "0.1.0 · 0.19.0 · linux" in shown
