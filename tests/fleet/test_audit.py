"""The audit trail: append-only, chained, verifiable."""

from __future__ import annotations

import pytest
from django.db import DatabaseError, connection, transaction

from fleet.audit import ChainFault, record_change, snapshot, verify_chain
from fleet.models import ChangeRecord, PolicyRevision
from tests.append_only import drop_triggers, make_triggers
from tests.builders import make_group, make_install, make_pin, publish

pytestmark = [pytest.mark.django_db, pytest.mark.both_engines]


def _three_changes() -> list[ChangeRecord]:
    group = make_group()
    return [
        record_change(
            actor="anna", action="rename", target=group, pre={"n": number}, post={"n": number + 1}
        )
        for number in range(3)
    ]


def test_a_change_names_who_what_before_and_after() -> None:
    record = _three_changes()[0]
    assert (record.actor, record.action, record.pre, record.post) == (
        "anna",
        "rename",
        {"n": 0},
        {"n": 1},
    )


def test_the_chain_of_untouched_rows_is_whole() -> None:
    records = _three_changes()
    assert verify_chain() is None
    assert records[1].prev_sha256 == records[0].sha256


@pytest.mark.parametrize("statement", ["UPDATE {} SET actor = 'eve'", "DELETE FROM {}"])
def test_the_database_refuses_to_change_a_row(statement: str) -> None:
    _three_changes()
    with (
        pytest.raises(DatabaseError, match="append-only"),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute(statement.format("fleet_changerecord"))
    assert verify_chain() is None


@pytest.mark.parametrize(
    "table", ["fleet_policyrevision", "fleet_policybundle", "fleet_policytarget"]
)
def test_the_database_refuses_to_delete_what_was_published(table: str) -> None:
    make_pin()
    publish()
    with (
        pytest.raises(DatabaseError, match="append-only"),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute(f"DELETE FROM {table}")


def test_the_orm_cannot_change_a_revision_either() -> None:
    make_pin()
    revision = publish()
    revision.reason = "other"
    with pytest.raises(DatabaseError), transaction.atomic():
        revision.save()
    assert PolicyRevision.objects.get().reason == "test"


def test_a_change_that_is_rolled_back_leaves_no_record() -> None:
    def fail() -> None:
        with transaction.atomic():
            _three_changes()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not ChangeRecord.objects.exists()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("UPDATE fleet_changerecord SET actor = 'eve' WHERE id = %s", "altered"),
        ("DELETE FROM fleet_changerecord WHERE id = %s", "removed"),
    ],
)
def test_tampering_behind_the_trigger_is_found(statement: str, problem: str) -> None:
    records = _three_changes()
    drop_triggers()
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement, [records[1].pk])
        fault = verify_chain()
    finally:
        make_triggers()
    assert isinstance(fault, ChainFault)
    assert problem in fault.problem


def test_a_snapshot_holds_json_values_only() -> None:
    install = make_install(group=make_group("north"))
    taken = snapshot(install, ["id", "group", "enrolled_at", "last_seen_at", "capabilities"])
    assert taken["id"] == str(install.pk)
    assert (taken["group"], taken["last_seen_at"], taken["capabilities"]) == ("north", None, [])


def test_a_snapshot_refuses_what_has_no_json_form() -> None:
    group = make_group()
    group.name = b"x"  # type: ignore[assignment]
    with pytest.raises(TypeError, match="bytes"):
        snapshot(group, ["name"])
