"""Rollup cells: counts, sums and histograms of an hour or a day, which carry every page.

Every cell is kept for its install group and once more for all groups together, so that a question
reads the same few rows whether it is about a group or about the fleet. Sums are integers (tokens,
microseconds, nano-dollars): to add and to take away again leaves nothing behind.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from django.db import models

ALL_GROUPS: Final = -1
"""``group_id`` of the cells that hold every group together."""


class Unit(models.TextChoices):
    """The time a cell stands for, from its ``at`` on."""

    HOUR = "h", "Hour"
    DAY = "d", "Day"


if TYPE_CHECKING:
    _Text = models.TextField[dict[str, int], dict[str, int]]
else:
    _Text = models.TextField  # Django's own class takes no types


class CountsField(_Text):
    """A JSON object of counts, kept as text.

    Text, because a database that parses it on every fold spends three times as much on it, and
    nobody asks for one bucket of it.
    """

    def from_db_value(self, value: str | None, *_: object) -> dict[str, int]:
        """The object; what is stored is ours."""
        counts: dict[str, int] = json.loads(value or "{}")
        return counts

    def to_python(self, value: object) -> dict[str, int]:
        """The object, from either form."""
        if isinstance(value, str):
            return self.from_db_value(value)
        assert isinstance(value, dict)  # noqa: S101 -- the other of the two forms
        return value

    def get_prep_value(self, value: object) -> str:
        """The text that is stored."""
        return json.dumps(value, separators=(",", ":"))


def _count() -> models.BigIntegerField[int, int]:
    return models.BigIntegerField(default=0)


def _name() -> models.TextField[str, str]:
    return models.TextField(blank=True, default="")


class Cell(models.Model):
    """What every cell has. ``group_id``: the install's group when the row came in, or ALL_GROUPS.

    Shape: ``at`` is the start of a UTC hour or day. Units: ``_nusd`` billionths of a dollar,
    ``_us`` microseconds.
    """

    unit = models.CharField(max_length=1, choices=Unit.choices)
    at = models.DateTimeField()
    group_id = models.BigIntegerField()

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return f"{type(self).__name__} {self.unit} {self.at:%Y-%m-%d %H}h {self.group_id}"


def _once(name: str, *dimensions: str) -> list[models.BaseConstraint]:
    """A cell's key, led by what every question names."""
    return [
        models.UniqueConstraint(fields=["unit", "group_id", "at", *dimensions], name=f"{name}_once")
    ]


class RunsCell(Cell):
    """Runs that began then.

    Shape: run_count is the sum of the end-reason counts, ``open_count`` (no end yet) and
    ``other_count``. ``timed_count`` runs had both ends: the coverage of ``duration_sum_us``;
    ``priced_count`` had a cost: that of ``cost_nusd``. ``failed_cost_nusd`` is the part spent on
    runs that failed, timed out or ran out of iterations. The agent reconciles a run's cost from
    its host's accounting, auxiliary calls included, so the run is where a cost is complete.
    """

    entrypoint = _name()
    platform = _name()
    agent_version = _name()
    run_count = _count()
    completed_count = _count()
    interrupted_count = _count()
    failed_count = _count()
    max_iterations_count = _count()
    timeout_count = _count()
    abandoned_count = _count()
    open_count = _count()
    other_count = _count()
    priced_count = _count()
    timed_count = _count()
    cost_nusd = _count()
    failed_cost_nusd = _count()
    duration_sum_us = _count()
    model_call_count = _count()
    tool_call_count = _count()
    error_count = _count()
    turn_count = _count()

    class Meta:
        constraints = _once("telemetry_runscell", "entrypoint", "platform", "agent_version")


class CostsCell(Cell):
    """Runs and their cost by how the cost is known (``cost_status`` of the contract)."""

    cost_status = _name()
    run_count = _count()
    priced_count = _count()
    cost_nusd = _count()

    class Meta:
        constraints = _once("telemetry_costscell", "cost_status")


class ModelCallsCell(Cell):
    """Model calls that began then, by provider and model.

    Shape: ``failed_count``: calls with an end_reason that is not a good one. ``priced_count`` and
    ``timed_count``: the coverage of ``cost_nusd`` and ``latency_sum_us``.
    """

    provider = _name()
    model = _name()
    call_count = _count()
    failed_count = _count()
    priced_count = _count()
    timed_count = _count()
    retry_count = _count()
    input_tokens = _count()
    output_tokens = _count()
    cache_read_tokens = _count()
    cache_write_tokens = _count()
    reasoning_tokens = _count()
    cost_nusd = _count()
    latency_sum_us = _count()

    class Meta:
        constraints = _once("telemetry_modelcallscell", "provider", "model")


class ToolCallsCell(Cell):
    """Tool calls that began then, by tool.

    Shape: call_count = ok + error + timeout + blocked + other; ``denied_count`` is those a person
    or a rule denied, whatever their result class says.
    """

    tool_name = _name()
    call_count = _count()
    ok_count = _count()
    error_count = _count()
    timeout_count = _count()
    blocked_count = _count()
    other_count = _count()
    denied_count = _count()
    timed_count = _count()
    duration_sum_us = _count()

    class Meta:
        constraints = _once("telemetry_toolcallscell", "tool_name")


class ErrorsCell(Cell):
    """Errors by class and subsystem; ``given_up_count`` had no recovery."""

    error_class = _name()
    subsystem = _name()
    error_count = _count()
    given_up_count = _count()

    class Meta:
        constraints = _once("telemetry_errorscell", "error_class", "subsystem")


class HistogramCell(Cell):
    """A histogram of durations: ``counts`` is rollup.histogram's JSON form, milliseconds.

    Shape: ``kind`` says of what, ``name`` and ``detail`` of which: run ("", ""), run_version
    (agent version, ""), model and model_ttft (provider, model), tool (tool, "").
    """

    class Kind(models.TextChoices):
        """What is measured."""

        RUN = "run", "Run duration"
        RUN_VERSION = "run_version", "Run duration by agent version"
        MODEL = "model", "Model call latency"
        MODEL_TTFT = "model_ttft", "Time to first token"
        TOOL = "tool", "Tool call duration"

    kind = models.CharField(max_length=12, choices=Kind.choices)
    name = _name()
    detail = _name()
    counts = CountsField(default=dict)

    class Meta:
        constraints = _once("telemetry_histogramcell", "kind", "name", "detail")


class InstallCell(models.Model):
    """One install's hour or day: for active and top installs, its page and the silence map.

    ``group_id`` is that of the rows that came in last.
    """

    unit = models.CharField(max_length=1, choices=Unit.choices)
    at = models.DateTimeField()
    install_id = models.UUIDField()
    group_id = models.BigIntegerField(default=0)
    run_count = _count()
    completed_run_count = _count()
    failed_run_count = _count()
    priced_run_count = _count()
    cost_nusd = _count()
    model_call_count = _count()
    token_count = _count()
    tool_call_count = _count()
    tool_failure_count = _count()
    error_count = _count()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["install_id", "unit", "at"], name="telemetry_installcell_once"
            ),
        ]
        indexes = [models.Index(fields=["unit", "at"], name="telemetry_installcell_at")]

    def __str__(self) -> str:
        return f"{self.unit} {self.at:%Y-%m-%d %H}h {self.install_id}"


class FirstSeen(models.Model):
    """When the fleet first had a model, tool, version and so on, and on which install."""

    class Kind(models.TextChoices):
        """What was new."""

        MODEL = "model", "Model"
        PROVIDER = "provider", "Provider"
        ENDPOINT = "endpoint", "Endpoint"
        TOOL = "tool", "Tool"
        ERROR_CLASS = "error_class", "Error class"
        AGENT_VERSION = "agent_version", "Agent version"
        ENTRYPOINT = "entrypoint", "Entrypoint"

    kind = models.CharField(max_length=16, choices=Kind.choices)
    value = models.TextField()
    first_at = models.DateTimeField(db_index=True)
    install_id = models.UUIDField()

    class Meta:
        verbose_name = "first seen"
        verbose_name_plural = "first seen"
        constraints = [
            models.UniqueConstraint(fields=["kind", "value"], name="telemetry_firstseen_once"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.value}"


class ReplacedRun(models.Model):
    """What a run was before a later copy replaced it: a fold takes out what it had put in.

    Shape: the columns that cells are made of. ``batch_id`` brought the copy that is kept here,
    ``replaced_by`` the one that replaced it; it goes when the cells know of both.
    """

    install_id = models.UUIDField()
    start_at = models.DateTimeField()
    run_id = models.TextField()
    group_id = models.BigIntegerField()
    entrypoint = models.TextField(null=True)  # noqa: DJ001 -- as the run has it
    platform = models.TextField(null=True)  # noqa: DJ001 -- as the run has it
    agent_version = models.TextField(null=True)  # noqa: DJ001 -- as the run has it
    start_ns = models.BigIntegerField()
    end_ns = models.BigIntegerField(null=True)
    end_reason = models.TextField(null=True)  # noqa: DJ001 -- as the run has it
    model_call_count = models.BigIntegerField(null=True)
    tool_call_count = models.BigIntegerField(null=True)
    error_count = models.BigIntegerField(null=True)
    turn_count = models.BigIntegerField(null=True)
    estimated_cost_usd = models.FloatField(null=True)
    cost_status = models.TextField(null=True)  # noqa: DJ001 -- as the run has it
    batch_id = models.UUIDField(db_index=True)
    replaced_by = models.UUIDField(db_index=True)
    received_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.run_id} before {self.replaced_by}"


CELL_MODELS: Final = (
    RunsCell,
    CostsCell,
    ModelCallsCell,
    ToolCallsCell,
    ErrorsCell,
    HistogramCell,
    InstallCell,
)
"""Everything that folds and refills write."""
