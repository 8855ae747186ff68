"""Models: what the database itself refuses, and the querysets."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction

from fleet.lib.clock import now
from fleet.models import EnrollmentToken, Fleet, Install, InstallStatus, Pin
from tests.builders import make_group, make_install, make_pin, make_token, minutes_ago

pytestmark = [pytest.mark.django_db, pytest.mark.both_engines]


@pytest.mark.parametrize(
    ("key", "value", "field"),
    [
        ("model", "x", "key"),
        ("telemetry.nothing", 1, "key"),
        ("telemetry.retention_days", "many", "value"),
        ("a.b", "${HOME}", "value"),
    ],
)
def test_a_pin_no_agent_could_take_is_refused_by_the_form(
    key: str, value: object, field: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        Pin(key=key, value=value, reason="r").full_clean()
    assert field in caught.value.message_dict


def test_the_database_holds_one_pin_per_key_and_scope() -> None:
    group = make_group()
    make_pin("a.b", 1)
    make_pin("a.b", 2, group=group)
    for scope in (None, group):
        with pytest.raises(IntegrityError), transaction.atomic():
            make_pin("a.b", 3, group=scope)


def test_the_database_refuses_a_locked_group_pin() -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        make_pin(group=make_group(), is_locked=True)


def test_there_is_one_fleet() -> None:
    assert Fleet.current() == Fleet.current()
    with pytest.raises(IntegrityError), transaction.atomic():
        Fleet.objects.create(id=2)


def test_installs_are_found_by_silence_status_and_group() -> None:
    group = make_group()
    seen = make_install(last_seen_at=minutes_ago(1), group=group)
    silent = make_install(last_seen_at=minutes_ago(60))
    never = make_install()
    Install.objects.filter(pk=never.pk).update(status=InstallStatus.REVOKED)
    limit = minutes_ago(10)
    assert list(Install.objects.seen_since(limit)) == [seen]
    assert list(Install.objects.silent_since(limit)) == [silent]
    assert list(Install.objects.in_group(group)) == [seen]
    assert seen.is_active
    assert not Install.objects.get(pk=never.pk).is_active


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({}, "active"),
        ({"revoked_at": now()}, "revoked"),
        ({"expires_at": now() - timedelta(days=1)}, "expired"),
        ({"max_uses": 2, "uses": 2}, "exhausted"),
    ],
)
def test_a_token_knows_its_state_and_the_query_agrees(
    fields: dict[str, object], state: str
) -> None:
    row, _text = make_token()
    EnrollmentToken.objects.update(**fields)
    row.refresh_from_db()
    assert row.state(now()) == state
    assert EnrollmentToken.objects.usable(now()).exists() is (state == "active")
