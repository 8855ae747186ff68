"""A console of the first release, with its days and rows, carried forward."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from uuid import UUID

import pytest
from django.core.management import call_command
from django.db import connection

from fleet.lib.clock import now, ns_to_datetime
from telemetry.models import EVENT_MODELS, Run
from telemetry.store.partitions import (
    PARENTS,
    Partition,
    create_partitions,
    existing_partitions,
    missing_days,
)
from tests.telemetry import builders as make

pytestmark = [pytest.mark.both_engines, pytest.mark.django_db(transaction=True)]
FIRST = PARENTS[:4]
OLD_NS = make.recent_ns(5 * 86_400)
OLD_DAY = ns_to_datetime(OLD_NS).date()


def in_sql(value: UUID) -> UUID | str:
    return value.hex if connection.vendor == "sqlite" else value


@pytest.fixture
def _first_release() -> Iterator[None]:
    """The database as 0001 left it: days of four tables, one run on an old one."""
    call_command("migrate", "telemetry", "0001", verbosity=0)
    if connection.vendor == "postgresql":
        days = {OLD_DAY, *(now().date() + timedelta(days=ahead) for ahead in range(-1, 8))}
        create_partitions(Partition(day, parent) for day in days for parent in FIRST)
    stamp = make.stamp()
    values = {
        "install_id": in_sql(stamp.install_id),
        "start_at": ns_to_datetime(OLD_NS),
        "run_id": "run-1",
        "start_ns": OLD_NS,
        "seq": 1,
        "batch_id": in_sql(stamp.batch_id),
        "received_at": stamp.received_at,
    }
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO telemetry_run ({', '.join(values)}) VALUES ({', '.join(['%s'] * 7)})",
            list(values.values()),
        )
    yield
    call_command("migrate", "telemetry", verbosity=0)


@pytest.mark.usefixtures("_first_release")
def test_rows_and_days_stay_and_the_new_tables_get_their_days() -> None:
    days_before = existing_partitions()
    call_command("migrate", "telemetry", verbosity=0)
    assert Run.objects.get().run_id == "run-1"
    if connection.vendor == "postgresql":
        assert now().date() in missing_days(7)  # and the system check says so
    call_command("telemetry_partitions", "apply", verbosity=0)
    assert missing_days(7) == []
    assert days_before <= existing_partitions()


@pytest.mark.usefixtures("_first_release")
def test_ingest_makes_what_an_old_day_lacks_before_any_maintenance() -> None:
    call_command("migrate", "telemetry", verbosity=0)
    outcome = make.push(*make.one_of_each(OLD_NS + make.S))
    assert outcome.receipt["accepted"] == {table.name: 1 for table in make.ALL_TABLES}
    assert [model.objects.count() for model in EVENT_MODELS] == [2] + [1] * 9
