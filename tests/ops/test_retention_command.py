"""The dry run of retention says what the run then does."""

from __future__ import annotations

import json
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.test import override_settings

from fleet.lib.clock import now
from telemetry.models import FillState, Run, TouchedHour
from telemetry.rollup.fill import fill_pending
from tests.telemetry import builders as make

pytestmark = [pytest.mark.both_engines, pytest.mark.django_db(transaction=True)]


def run(*words: str) -> str:
    out = StringIO()
    call_command("retention", *words, stdout=out)
    return out.getvalue()


def push_old() -> None:
    make.push(make.run(1, start_ns=make.recent_ns(6 * 86_400)))
    make.push(make.run(2, run_id="new"))


def test_the_dry_run_names_what_goes_and_changes_nothing() -> None:
    push_old()
    fill_pending()
    assert "telemetry_run " not in run()
    with override_settings(FLEET_RETENTION_DAYS=3):
        text = run("--dry-run")
        items = [each for each in json.loads(run("--json")) if each["table"] == "telemetry_run"]
        assert [(each["fate"], each["row_count"]) for each in items] == [("goes", 1)]
        assert "FLEET_RETENTION_DAYS" in text
        assert Run.objects.count() == 2
        run("--apply")
        assert [row.run_id for row in Run.objects.all()] == ["new"]
        again = json.loads(run("--json"))
        assert [each for each in again if each["table"] == "telemetry_run"] == []


def test_a_day_whose_sums_are_not_made_is_held_with_its_reason() -> None:
    push_old()
    fill_pending()
    hour = FillState.objects.order_by("hour").values_list("hour", flat=True)[0]
    TouchedHour.objects.create(hour=hour, touched_at=now())
    with override_settings(FLEET_RETENTION_DAYS=3):
        held = [each for each in json.loads(run("--json")) if each["fate"] == "held"]
        assert [each["row_count"] for each in held if each["table"] == "telemetry_run"] == [1]
        assert "telemetry_rollup" in held[0]["why"]
        run("--apply")
        assert Run.objects.count() == 2


def test_it_looks_ahead() -> None:
    push_old()
    fill_pending()
    tables = {each["table"] for each in json.loads(run("--json", "--days", "90"))}
    assert "telemetry_run" in tables


@pytest.mark.parametrize("words", [("--days", "-1"), ("--apply", "--days", "3")])
def test_a_bad_option_changes_nothing(words: tuple[str, ...]) -> None:
    with pytest.raises(CommandError):
        run(*words)


def test_the_books_go_with_their_rows() -> None:
    push_old()
    fill_pending()
    with override_settings(FLEET_RETENTION_DAYS=3):
        ahead = json.loads(run("--json", "--days", "40"))
    assert {"telemetry_ingestbatch", "telemetry_run"} <= {each["table"] for each in ahead}
