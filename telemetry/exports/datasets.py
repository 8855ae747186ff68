"""What can be exported: each dataset with its plane, its permission, its schema and its order.

The names and columns are a promise to whoever reads the files: a column is added, never renamed nor
given another type (docs/exports.md lists them; a test holds the list).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from django.db.models import Model
from django.utils.translation import gettext_lazy as _

from agent_client.contract.tables import Table
from fleet.models import ChangeRecord, Install
from telemetry.exports.columns import Column, Kind, column, columns
from telemetry.models import (
    EVENT_MODELS,
    AggregateRecord,
    ContentMessage,
    ContentSession,
    CostsCell,
    ErrorsCell,
    HistogramCell,
    InstallCell,
    ModelCallsCell,
    RunsCell,
    ToolCallsCell,
    Unit,
)

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

EXPORT_CONTENT: Final = "telemetry.export_content"
PAGE_ROWS: Final = 5_000
"""About 8 MB as objects: more is no faster, less pays for more statements."""
CONTENT_PAGE_ROWS: Final = 200
"""Messages may be a megabyte each."""

type Dimension = str
"""group, install, model, tool or result: what a filter can name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """One table of the result.

    ``by_time``, ``by_key``: the table's columns that order it, with the time first and without it;
    ``arrived``: the column of its arrival, "" where a later copy replaces a row or there is none.
    ``follows``: the column that a filter's dimension narrows. ``constant``: what its rows have.
    """

    name: str
    title: StrOrPromise
    plane: str
    permission: str
    columns: tuple[Column, ...]
    table: str
    key: tuple[str, ...]
    time: str = ""
    arrived: str = ""
    follows: Mapping[Dimension, str] = field(default_factory=dict)
    constant: Mapping[str, object] = field(default_factory=dict)
    is_partitioned: bool = False
    is_strict: bool = False
    page_rows: int = PAGE_ROWS

    @property
    def is_content(self) -> bool:
        """Whether it holds what people and agents said."""
        return self.plane == "trajectories"


_KINDS: Final[Mapping[str, Kind]] = {
    "id": "id",
    "name": "text",
    "json": "json",
    "count": "int",
    "time": "int",
    "ms": "float",
    "usd": "float",
    "flag": "flag",
}
_RESULTS: Final = {
    "tel_runs": "end_reason",
    "tel_model_calls": "end_reason",
    "tel_tool_calls": "result_class",
}
_TITLES: Final[Mapping[str, StrOrPromise]] = {
    "tel_runs": _("Runs"),
    "tel_model_calls": _("Model calls"),
    "tel_tool_calls": _("Tool calls"),
    "tel_error_events": _("Errors"),
    "tel_spans": _("Spans"),
    "tel_gateway_events": _("Gateway events"),
    "tel_cron_events": _("Scheduled job events"),
    "tel_skill_events": _("Skill events"),
    "tel_memory_events": _("Memory events"),
    "tel_feedback_events": _("Feedback"),
}
_PLACE: Final = (
    column("install_id", "uuid"),
    column("group_id", "int"),
    column("start_at", "time"),
)
_ARRIVAL: Final = (
    column("seq", "int"),
    column("batch_id", "uuid"),
    column("received_at", "time"),
)


def _event(table: Table, model: type[Model]) -> Dataset:
    follows = {"group": "group_id", "install": "install_id"}
    names = set(table.column_names())
    follows |= {"model": "model"} if "model" in names else {}
    follows |= {"tool": "tool_name"} if "tool_name" in names else {}
    follows |= {"result": _RESULTS[table.name]} if table.name in _RESULTS else {}
    return Dataset(
        name=table.name.removeprefix("tel_"),
        title=_TITLES[table.name],
        plane="local",
        permission=_view(model),
        columns=(
            *_PLACE,
            *(column(one.name, _KINDS[one.kind]) for one in table.columns),
            *_ARRIVAL,
        ),
        table=model._meta.db_table,
        key=("install_id", "start_at", table.key),
        time="start_at",
        # A later copy of a run replaces the earlier one and its arrival: to ask for it would leave
        # out the runs that went on after the export was ordered.
        arrived="" if table.merges else "received_at",
        follows=follows,
        is_partitioned=True,
    )


def _view(model: type[Model]) -> str:
    return f"{model._meta.app_label}.view_{model._meta.model_name}"


def _cells(
    name: str,
    title: StrOrPromise,
    model: type[Model],
    *texts: str,
    numbers: Sequence[str],
    follows: Mapping[str, str] | None = None,
) -> list[Dataset]:
    """A kind of cell, by hour and by day; ``group_id`` -1 is all groups together."""
    units: tuple[tuple[str, Unit, StrOrPromise], ...] = (
        ("hour", Unit.HOUR, _("by hour")),
        ("day", Unit.DAY, _("by day")),
    )
    return [
        Dataset(
            name=f"{name}_by_{word}",
            title=f"{title} {said}",
            plane="local",
            permission=_view(model),
            columns=(
                column("at", "time"),
                column("group_id", "int"),
                *columns("text", *texts),
                *columns("int", *numbers),
            ),
            table=model._meta.db_table,
            key=("group_id", "at", *texts),
            time="at",
            follows={"group": "group_id", **(follows or {})},
            constant={"unit": unit.value},
        )
        for word, unit, said in units
    ]


def _numbers(model: type[Model], *others: str) -> list[str]:
    """The counts and sums of a kind of cell."""
    left_out = {"id", "unit", "at", "group_id", *others}
    return [spec.name for spec in model._meta.concrete_fields if spec.name not in left_out]


def _insights() -> list[Dataset]:
    runs = ("entrypoint", "platform", "agent_version")
    models, tools = ("provider", "model"), ("tool_name",)
    errors = ("error_class", "subsystem")
    found = [
        *_cells("runs", _("Runs"), RunsCell, *runs, numbers=_numbers(RunsCell, *runs)),
        *_cells(
            "costs",
            _("Costs"),
            CostsCell,
            "cost_status",
            numbers=_numbers(CostsCell, "cost_status"),
        ),
        *_cells(
            "models",
            _("Models"),
            ModelCallsCell,
            *models,
            numbers=_numbers(ModelCallsCell, *models),
            follows={"model": "model"},
        ),
        *_cells(
            "tools",
            _("Tools"),
            ToolCallsCell,
            *tools,
            numbers=_numbers(ToolCallsCell, *tools),
            follows={"tool": "tool_name"},
        ),
        *_cells("errors", _("Errors"), ErrorsCell, *errors, numbers=_numbers(ErrorsCell, *errors)),
    ]
    durations = _cells(
        "durations", _("Durations"), HistogramCell, "kind", "name", "detail", numbers=()
    )
    found += [_with(one, column("counts_json", "json", "counts")) for one in durations]
    installs = _cells(
        "installs",
        _("Activity of installs"),
        InstallCell,
        numbers=_numbers(InstallCell, "install_id"),
        follows={"install": "install_id"},
    )
    key = ("install_id", "at")
    return found + [_with(one, column("install_id", "uuid"), key=key) for one in installs]


def _with(dataset: Dataset, more: Column, *, key: tuple[str, ...] = ()) -> Dataset:
    return replace(dataset, columns=(*dataset.columns, more), key=key or dataset.key)


def _others() -> list[Dataset]:
    return [
        Dataset(
            name="summaries",
            title=_("Aggregate summaries"),
            plane="aggregate",
            permission=_view(AggregateRecord),
            columns=(
                column("id", "int"),
                column("install_id", "uuid"),
                column("kind", "text"),
                column("record_id", "id"),
                column("seq", "int"),
                column("occurred_at", "time"),
                column("data_json", "json", "data"),
                column("batch_id", "uuid"),
                column("received_at", "time"),
            ),
            table=AggregateRecord._meta.db_table,
            key=("occurred_at", "id"),
            time="occurred_at",
            follows={"install": "install_id"},
        ),
        Dataset(
            name="installs",
            title=_("Installs"),
            plane="fleet",
            permission=_view(Install),
            columns=(
                column("id", "uuid"),
                *columns("text", "label", "status", "hostname", "os_family", "os_version", "arch"),
                *columns("text", "client_version", "host_version", "python_version"),
                column("group_id", "int"),
                column("consent_state", "text"),
                column("sync_state", "text"),
                *columns("time", "enrolled_at", "last_seen_at", "last_checkin_at", "last_push_at"),
            ),
            table=Install._meta.db_table,
            key=("id",),
            arrived="enrolled_at",
            follows={"group": "group_id", "install": "id"},
        ),
        Dataset(
            name="audit",
            title=_("Audit trail"),
            plane="audit",
            permission=_view(ChangeRecord),
            columns=(
                column("id", "int"),
                column("at", "time"),
                *columns("text", "actor", "action", "object_type"),
                column("object_id", "id"),
                *columns("text", "object_label", "reason"),
                column("request_id", "id"),
                column("pre_json", "json"),
                column("post_json", "json"),
                column("prev_sha256", "digest"),
                column("sha256", "digest"),
            ),
            table=ChangeRecord._meta.db_table,
            key=("id",),
            time="at",
            arrived="at",
        ),
        Dataset(
            name="content_sessions",
            title=_("Content: sessions"),
            plane="trajectories",
            permission=EXPORT_CONTENT,
            columns=(
                column("install_id", "uuid"),
                column("start_at", "time"),
                column("session_id", "id"),
                column("seq", "int"),
                *columns("text", "source", "model", "title"),
                column("ended_at", "time"),
                *columns("int", "message_count", "tool_call_count"),
                column("batch_id", "uuid"),
                column("received_at", "time"),
            ),
            table=ContentSession._meta.db_table,
            key=("install_id", "start_at", "session_id"),
            time="start_at",
            follows={"install": "install_id", "model": "model"},
            is_partitioned=True,
            is_strict=True,
            page_rows=CONTENT_PAGE_ROWS,
        ),
        Dataset(
            name="content_messages",
            title=_("Content: messages"),
            plane="trajectories",
            permission=EXPORT_CONTENT,
            columns=(
                column("install_id", "uuid"),
                column("start_at", "time"),
                column("session_id", "id"),
                column("message_id", "int"),
                *columns("text", "role", "name", "tool_name"),
                column("tool_call_id", "id"),
                column("finish_reason", "text"),
                column("token_count", "int"),
                *columns("json", "content_json", "reasoning_json", "tool_calls_json"),
                column("batch_id", "uuid"),
                column("received_at", "time"),
            ),
            table=ContentMessage._meta.db_table,
            key=("install_id", "start_at", "session_id", "message_id"),
            time="start_at",
            arrived="received_at",
            follows={"install": "install_id", "tool": "tool_name"},
            is_partitioned=True,
            is_strict=True,
            page_rows=CONTENT_PAGE_ROWS,
        ),
    ]


DATASETS: Final[Mapping[str, Dataset]] = {
    dataset.name: dataset
    for dataset in (
        *(_event(model.CONTRACT, model) for model in EVENT_MODELS),
        *_insights(),
        *_others(),
    )
}
"""Every dataset by its name, in the order in which they are offered."""
