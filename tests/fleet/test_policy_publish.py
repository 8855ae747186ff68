"""publish and roll back: one transaction, immutable, guarded against a stale base."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable

import pytest
from django.db import connection

from agent_client.contract.canonical import sha256_hex
from fleet.audit import verify_chain
from fleet.enroll import move_installs
from fleet.models import (
    ChangeRecord,
    Pin,
    PolicyBundle,
    PolicyRevision,
    PolicyTarget,
    SyncState,
)
from fleet.policy.compile import PolicyError
from fleet.policy.plan import plan_publish
from fleet.policy.publish import BaseStale, publish_revision, roll_back_to
from tests.builders import enroll_one, make_group, make_install, make_pin, publish

pytestmark = [pytest.mark.django_db, pytest.mark.both_engines]


def test_publishing_makes_a_revision_its_bundles_and_one_audit_row() -> None:
    make_pin("telemetry.allow_aggregate", False)
    make_pin("model.default", "large", group=make_group("north"))
    revision = publish("first")
    assert (revision.version, revision.targets.count(), PolicyBundle.objects.count()) == (1, 2, 2)
    record = ChangeRecord.objects.get(action="publish")
    assert (record.actor, record.reason) == ("operator", "first")
    assert record.post == {
        "version": 1,
        "sha256": revision.sha256,
        "rollback_of": 0,
        "pins": {"telemetry.allow_aggregate": False, "north/model.default": "large"},
    }
    assert verify_chain() is None


def test_a_bundle_is_named_by_the_digest_of_its_bytes() -> None:
    make_pin()
    publish()
    bundle = PolicyBundle.objects.get()
    assert bundle.sha256 == sha256_hex(bundle.payload.encode())


def test_publishing_nothing_new_is_refused() -> None:
    make_pin()
    publish()
    with pytest.raises(PolicyError, match="Nothing has changed"):
        publish()


def test_the_first_publish_may_be_empty() -> None:
    assert publish().targets.get().bundle.payload


def test_a_stale_base_is_refused_and_stores_nothing() -> None:
    make_pin()
    plan = plan_publish()
    publish()
    make_pin("telemetry.local", True)
    with pytest.raises(BaseStale):
        publish_revision(actor="b", reason="late", base_version=plan.base_version)
    assert PolicyRevision.objects.count() == 1


def test_a_pin_that_no_agent_could_take_stops_the_publish() -> None:
    make_pin("telemetry.retention_days", 0)
    with pytest.raises(PolicyError, match="retention_days"):
        publish()
    assert not PolicyRevision.objects.exists()
    assert not ChangeRecord.objects.exists()


def test_a_failure_after_the_revision_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    make_pin()
    monkeypatch.setattr("fleet.policy.publish.record_change", _fail)
    with pytest.raises(ZeroDivisionError):
        publish()
    assert not PolicyRevision.objects.exists()
    assert not PolicyBundle.objects.exists()


def _fail(**_kwargs: object) -> None:
    raise ZeroDivisionError


def test_an_untouched_group_keeps_its_bundle() -> None:
    north, south = make_group(), make_group()
    make_pin("a.b", 1, group=north)
    pin = make_pin("a.b", 2, group=south)
    first = publish()
    pin.value = 3
    pin.save()
    second = publish()
    held = {t.group_number: t.bundle_id for t in PolicyTarget.objects.filter(revision=first)}
    new = {t.group_number: t.bundle_id for t in PolicyTarget.objects.filter(revision=second)}
    assert held[north.pk] == new[north.pk]
    assert held[south.pk] != new[south.pk]


def test_a_removed_pin_is_named_for_deletion() -> None:
    pin = make_pin("a.b", 1)
    publish()
    pin.delete()
    publish()
    payload = json.loads(PolicyBundle.objects.get(revision__version=2).payload)
    assert (payload["delete"], payload["mandatory"]) == (["a.b"], {})


def test_a_rollback_is_a_new_revision_and_restores_the_edited_pins() -> None:
    pin = make_pin("a.b", 1)
    first = publish()
    pin.value = 2
    pin.save()
    make_pin("c.d", True)
    publish()
    third = roll_back_to(first, actor="anna", reason="it broke")
    assert (third.version, third.rollback_of, third.base_version) == (3, first, 2)
    assert list(Pin.objects.values_list("key", "value")) == [("a.b", 1)]
    payload = json.loads(third.targets.get().bundle.payload)
    assert (payload["rollback_of"], payload["delete"]) == (1, ["c.d"])
    assert ChangeRecord.objects.filter(action="roll_back").count() == 1
    assert not plan_publish().has_changes


def test_a_pin_made_after_a_rollback_does_not_collide() -> None:
    pin = make_pin("a.b", 1)
    first = publish()
    pin.delete()
    publish()
    roll_back_to(first, actor="anna", reason="back")
    assert make_pin("c.d", 1).pk != Pin.objects.get(key="a.b").pk


def test_the_revision_in_force_cannot_be_rolled_back_to() -> None:
    make_pin()
    with pytest.raises(PolicyError, match="in force"):
        roll_back_to(publish(), actor="anna", reason="x")


def test_a_rollback_leaves_out_groups_that_are_gone() -> None:
    group = make_group()
    make_pin("a.b", 1, group=group)
    make_pin("c.d", 1)
    first = publish()
    group.delete()
    publish()
    roll_back_to(first, actor="anna", reason="x")
    assert list(Pin.objects.values_list("key", flat=True)) == ["c.d"]


def test_the_plan_shows_deletes_first_and_counts_installs() -> None:
    north = make_group("north")
    for _index in range(2):
        make_install(group=north)
    make_install()
    old = make_pin("a.b", 1)
    publish()
    old.delete()
    make_pin("c.d", 1, group=north)
    plan = plan_publish()
    everyone, group = plan.targets
    assert [(change.kind, change.key) for change in group.changes] == [
        ("delete", "a.b"),
        ("add", "c.d"),
    ]
    assert (everyone.install_count, group.install_count, plan.install_count) == (1, 2, 3)
    assert plan.base_version == 1


@pytest.mark.parametrize(
    ("key", "before", "after", "is_loosening"),
    [
        ("telemetry.consent_state", None, "aggregate", True),
        ("telemetry.consent_state", "local", "aggregate", True),
        ("telemetry.consent_state", "aggregate", "local", False),
        ("telemetry.consent_state", "local", None, True),
        ("telemetry.allow_aggregate", False, None, True),
        ("telemetry.allow_aggregate", False, True, True),
        ("telemetry.allow_aggregate", None, False, False),
        ("telemetry.trajectories.enabled", None, True, True),
        ("model.default", "a", "b", False),
    ],
)
def test_the_plan_names_what_opens_a_plane(
    key: str, before: object, after: object, is_loosening: bool
) -> None:
    if before is not None:
        make_pin(key, before)
    publish()
    Pin.objects.all().delete()
    if after is not None:
        make_pin(key, after)
    assert bool(plan_publish().loosenings) is is_loosening


def test_the_plan_says_what_forbids_it() -> None:
    make_pin("a", {"x": 1})
    make_pin("a.b", 1)
    assert "a.b" in plan_publish().faults[0]


def test_after_a_publish_an_install_in_sync_is_pending() -> None:
    install = make_install()
    install.sync_state = SyncState.IN_SYNC
    install.save()
    make_pin()
    publish()
    install.refresh_from_db()
    assert install.sync_state == SyncState.PENDING


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_publishing_moving_and_enrolling_at_once_neither_deadlock_nor_break_the_chain() -> None:
    groups = [make_group(), make_group()]
    installs = [make_install(group=groups[0]) for _index in range(6)]
    errors: list[Exception] = []

    def run(act: Callable[[int], object]) -> None:
        try:
            for number in range(6):
                act(number)
        except Exception as error:  # noqa: BLE001  # a thread's failure is the test's verdict
            errors.append(error)
        finally:
            connection.close()

    def change_and_publish(number: int) -> None:
        Pin.objects.filter(key="a.b").delete()
        make_pin("a.b", number)
        publish()

    acts: list[Callable[[int], object]] = [
        change_and_publish,
        lambda number: move_installs(installs, groups[number % 2], actor="anna"),
        lambda number: move_installs(installs[::-1], groups[(number + 1) % 2], actor="ben"),
        lambda _number: enroll_one(group=groups[0]),
    ]
    threads = [threading.Thread(target=run, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert errors == []
    assert verify_chain() is None
    assert PolicyRevision.objects.count() == 6
