"""Filters: each narrows its datasets, and what is not known is refused in words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from agent_client.contract.tables import EVENT_TABLES
from fleet.audit import first_fault
from fleet.models import ChangeRecord
from telemetry.exports.choice import Choice, ChoiceRefused, datasets_of
from telemetry.exports.datasets import DATASETS
from telemetry.models import FirstSeen, RunsCell
from telemetry.rollup.fill import fill_pending
from tests import builders
from tests.telemetry import builders as make
from tests.telemetry import export_jobs as exports
from tests.telemetry.export_jobs import Settings
from tests.telemetry.test_ingest_summaries import push as push_summaries
from tests.telemetry.test_ingest_summaries import summary

pytestmark = [pytest.mark.django_db, pytest.mark.both_engines]
OTHER = "01890000-0000-7000-8000-000000000002"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, settings: Settings) -> None:
    settings.FLEET_HOME = tmp_path / "home"


def filled() -> int:
    """Two installs, one of them in a group; calls of two models and two tools; the group's id."""
    group = builders.make_group("night shift")
    builders.make_install(install_id=make.INSTALL, group=group)
    builders.make_install(install_id=UUID(OTHER))
    rows = [
        make.run(1, run_id="a"),
        make.run(2, run_id="b", end_reason="failed"),
        make.model_call(3, model="m-1"),
        make.model_call(4, model="m-2"),
        make.tool_call(5, tool_name="terminal"),
        make.tool_call(6, tool_name="browser", result_class="error"),
    ]
    make.push(*rows, group_id=group.pk)
    make.push(*rows, install_id=UUID(OTHER))
    fill_pending()
    return group.pk


def count(dataset: str, **chosen: object) -> int:
    return len(exports.read(exports.finished(dataset, chosen=chosen)))


@pytest.mark.parametrize(
    ("dataset", "chosen", "expected"),
    [
        ("runs", {}, 4),
        ("runs", {"groups": ["night shift"]}, 2),
        ("runs", {"groups": ["none"]}, 2),
        ("runs", {"groups": ["none", "night shift"]}, 4),
        ("runs", {"installs": [OTHER]}, 2),
        ("runs", {"results": ["failed"]}, 2),
        ("model_calls", {"models": ["m-2"]}, 2),
        ("model_calls", {"models": ["m-2"], "installs": [OTHER]}, 1),
        ("tool_calls", {"tools": ["browser", "terminal"]}, 4),
        ("tool_calls", {"results": ["error"]}, 2),
        ("installs", {"groups": ["night shift"]}, 1),
        ("installs", {"groups": ["none"]}, 1),
        ("models_by_day", {"models": ["m-1"]}, 1),
        ("models_by_day", {"groups": ["night shift"]}, 2),
        ("installs_by_day", {"installs": [OTHER]}, 1),
    ],
)
def test_a_filter_narrows_what_it_names(
    dataset: str, chosen: dict[str, Any], expected: int
) -> None:
    filled()
    assert count(dataset, **chosen) == expected


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({"colour": ["red"]}, "no filter named 'colour'"),
        ({"groups": ["nobody"]}, "no group 'nobody'"),
        ({"groups": [4711]}, "no group '4711'"),
        ({"installs": ["nonsense"]}, "not an install's id"),
        ({"installs": ["01890000-0000-7000-8000-0000000000ff"]}, "no install"),
        ({"models": ["gpt-typo"]}, "no model 'gpt-typo'"),
        ({"tools": ["x" * 201]}, "1 to 200 characters"),
        ({"tools": ["a\x00b"]}, "1 to 200 characters"),
        ({"tools": "terminal"}, "takes a list"),
        ({"tools": [["terminal"]]}, "texts or numbers"),
        ({"tools": [str(n) for n in range(501)]}, "at most 500"),
    ],
)
def test_a_name_that_is_not_known_is_refused_in_words(chosen: dict[str, Any], words: str) -> None:
    filled()
    with pytest.raises(ChoiceRefused, match=re.escape(words)):
        Choice.from_dict(chosen).check([DATASETS["runs"]] if "colour" in chosen else [])


def test_a_filter_that_a_dataset_cannot_follow_is_refused() -> None:
    filled()
    with pytest.raises(ValueError, match="Audit trail cannot be narrowed by groups"):
        exports.order("audit", chosen={"groups": ["night shift"]})


def test_a_full_register_of_names_refuses_none(monkeypatch: pytest.MonkeyPatch) -> None:
    filled()
    monkeypatch.setattr("telemetry.exports.choice.MAX_FIRST_SEEN", FirstSeen.objects.count() - 9)
    Choice(models=("a-model-beyond",)).check([DATASETS["model_calls"]])


def test_a_filter_survives_its_order_row() -> None:
    filled()
    choice = Choice.from_dict(
        {"groups": ["night shift"], "installs": [OTHER], "tools": ["browser"]}
    )
    assert Choice.from_dict(choice.to_dict()) == choice


def test_datasets_are_named_once_and_known() -> None:
    assert [one.name for one in datasets_of(["runs", "runs", "audit"])] == ["runs", "audit"]
    for wrong in ([], ["nothing"], [3]):
        with pytest.raises(ChoiceRefused):
            datasets_of(wrong)


def test_every_column_of_the_contract_is_exported_under_its_name() -> None:
    for table in EVENT_TABLES:
        names = [column.name for column in DATASETS[table.name.removeprefix("tel_")].columns]
        assert set(table.column_names()) <= set(names)


@pytest.mark.parametrize("name", DATASETS)
def test_every_dataset_can_be_read(name: str, settings: Settings) -> None:
    settings.FLEET_TRAJECTORIES = True
    filled()
    push_summaries(summary("a"))
    exports.finished(name, reason="an incident of last week")


def test_insights_say_what_the_cells_say() -> None:
    filled()
    (row,) = exports.read(exports.finished("runs_by_day"))
    cell = RunsCell.objects.get(unit="d", group_id=-1)
    assert (row["run_count"], row["failed_count"]) == (cell.run_count, cell.failed_count) == (4, 2)
    durations = exports.read(exports.finished("durations_by_hour"))
    assert json_counts(durations) >= 2


def json_counts(rows: list[dict[str, Any]]) -> int:  # Any: JSON
    import json

    return sum(sum(json.loads(row["counts_json"]).values()) for row in rows)


def test_the_audit_trail_can_be_checked_from_its_export() -> None:
    from datetime import datetime

    filled()
    for _ in range(3):
        exports.order()
    rows = exports.read(exports.finished("audit"))
    assert len(rows) >= 3
    names = {field.name for field in ChangeRecord._meta.concrete_fields}
    records = [ChangeRecord(**(row | {"at": datetime.fromisoformat(row["at"])})) for row in rows]
    assert set(rows[0]) == names
    assert first_fault(records) is None
    records[1].reason = "changed"
    assert first_fault(records) is not None
