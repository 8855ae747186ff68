"""Hourly rollup cells, and the state of each hour's filling.

A page's cost depends on cells, never on rows. Cells are derived: ``rollup.fill`` deletes and
re-makes a whole hour, so late, duplicate and merged rows leave them exact.
"""

from __future__ import annotations

from typing import Final

from django.db import models

NO_GROUP: Final = 0
"""``group_id`` of an install that has no group, or is not known (any more)."""


def _count() -> models.BigIntegerField[int, int]:
    return models.BigIntegerField(default=0)


class TouchedHour(models.Model):
    """One batch touched one hour: written with the rows, removed by the fill that counted them.

    A row for each batch and hour, not a counter for each hour: two batches of the same hour
    would wait for each other's commit. ``batch_id``: the batch whose rows are not in the cells yet,
    received at ``touched_at`` as they were; None: the hour as a whole is to be made again.
    """

    hour = models.DateTimeField(db_index=True)
    touched_at = models.DateTimeField()
    install_id = models.UUIDField(null=True)
    batch_id = models.UUIDField(null=True)

    def __str__(self) -> str:
        return f"{self.hour:%Y-%m-%d %H}h"


class FillState(models.Model):
    """How far an hour's cells are: STARTED is committed before the work, DONE with it.

    A STARTED one that nobody works on was left by a worker that died: its transaction undid the
    half-made cells, the next fill makes them anew. EXPIRED: the rows are gone by retention, the
    cells stay and must not be re-made from nothing.
    """

    class State(models.TextChoices):
        """Where the fill of an hour stands."""

        STARTED = "started", "Started"
        DONE = "done", "Done"
        EXPIRED = "expired", "Expired"

    hour = models.DateTimeField(unique=True)
    state = models.CharField(max_length=8, choices=State.choices)
    started_at = models.DateTimeField()
    filled_at = models.DateTimeField(null=True, db_index=True)
    fill_count = models.IntegerField(default=0)

    class Meta:
        ordering = ["-hour"]

    def __str__(self) -> str:
        return f"{self.hour:%Y-%m-%d %H}h {self.state}"


class Cell(models.Model):
    """What every cell has: its UTC hour and the install group at the time of the fill."""

    hour = models.DateTimeField()
    group_id = models.BigIntegerField(default=NO_GROUP)

    class Meta:
        abstract = True


class RunCell(Cell):
    """Runs that began in the hour, by entrypoint and agent version.

    Shape: run_count is the sum of the end-reason counts, ``open_count`` (no end yet) and
    ``other_count``. Units: durations in milliseconds; ``duration_hist`` is rollup.histogram's
    JSON form and counts closed runs only. ``priced_count`` runs had a cost: the coverage of
    ``cost_usd``. The agent reconciles a run's cost from its host's accounting, auxiliary calls
    included, so the run is where a cost is complete.
    """

    entrypoint = models.TextField(blank=True)
    agent_version = models.TextField(blank=True)
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
    cost_usd = models.FloatField(default=0.0)
    duration_sum_ms = models.FloatField(default=0.0)
    duration_hist = models.JSONField(default=dict)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["hour", "group_id", "entrypoint", "agent_version"],
                name="telemetry_runcell_once",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.hour:%Y-%m-%d %H}h {self.entrypoint} {self.agent_version}"


class ModelCell(Cell):
    """Model calls that began in the hour, by provider and model.

    Shape: ``priced_count`` of ``call_count`` calls had a cost: the coverage of ``cost_usd``.
    ``failed_count``: calls with an end_reason that is not a good one.
    """

    provider = models.TextField(blank=True)
    model = models.TextField(blank=True)
    call_count = _count()
    failed_count = _count()
    priced_count = _count()
    retry_count = _count()
    input_tokens = _count()
    output_tokens = _count()
    cache_read_tokens = _count()
    cache_write_tokens = _count()
    reasoning_tokens = _count()
    cost_usd = models.FloatField(default=0.0)
    latency_sum_ms = models.FloatField(default=0.0)
    latency_hist = models.JSONField(default=dict)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["hour", "group_id", "provider", "model"], name="telemetry_modelcell_once"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.hour:%Y-%m-%d %H}h {self.provider} {self.model}"


class ToolCell(Cell):
    """Tool calls that began in the hour, by tool.

    Shape: call_count = ok + error + timeout + blocked + other; ``denied_count`` is those a person
    or a rule denied, whatever their result class says.
    """

    tool_name = models.TextField(blank=True)
    call_count = _count()
    ok_count = _count()
    error_count = _count()
    timeout_count = _count()
    blocked_count = _count()
    other_count = _count()
    denied_count = _count()
    duration_sum_ms = models.FloatField(default=0.0)
    duration_hist = models.JSONField(default=dict)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["hour", "group_id", "tool_name"], name="telemetry_toolcell_once"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.hour:%Y-%m-%d %H}h {self.tool_name}"


class ErrorCell(Cell):
    """Errors of the hour, by class and subsystem; ``given_up_count`` had no recovery."""

    error_class = models.TextField(blank=True)
    subsystem = models.TextField(blank=True)
    error_count = _count()
    given_up_count = _count()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["hour", "group_id", "error_class", "subsystem"],
                name="telemetry_errorcell_once",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.hour:%Y-%m-%d %H}h {self.error_class}"


class InstallHour(Cell):
    """One install's hour: for active installs, top installs and the install page."""

    install_id = models.UUIDField()
    run_count = _count()
    failed_run_count = _count()
    model_call_count = _count()
    tool_call_count = _count()
    tool_failure_count = _count()
    error_count = _count()
    priced_run_count = _count()
    cost_usd = models.FloatField(default=0.0)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["hour", "install_id"], name="telemetry_installhour_once"
            ),
        ]
        indexes = [
            models.Index(fields=["install_id", "hour"], name="telemetry_installhour_install"),
        ]

    def __str__(self) -> str:
        return f"{self.hour:%Y-%m-%d %H}h {self.install_id}"


CELL_MODELS: tuple[
    type[RunCell | ModelCell | ToolCell | ErrorCell | InstallHour],
    ...,
] = (RunCell, ModelCell, ToolCell, ErrorCell, InstallHour)
