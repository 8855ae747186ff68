"""What narrows a question, and which cells can follow it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

from django.db.models import Model

from telemetry.models import (
    ALL_GROUPS,
    CostsCell,
    ErrorsCell,
    ModelCallsCell,
    RunsCell,
    ToolCallsCell,
)

NONE: Final = "unknown"
"""Stands for a name that the agent did not send: cells hold an empty text."""


@dataclass(frozen=True, slots=True)
class Filters:
    """One value a dimension; "" is any, NONE is "the agent did not say"."""

    group_id: int | None = None
    entrypoint: str = ""
    platform: str = ""
    agent_version: str = ""
    provider: str = ""
    model: str = ""
    tool_name: str = ""

    @property
    def level(self) -> int:
        """The group level of the cells to read."""
        return ALL_GROUPS if self.group_id is None else self.group_id

    def chosen(self) -> dict[str, str]:
        """The dimensions that have a value."""
        values = {
            spec.name: getattr(self, spec.name) for spec in fields(self) if spec.name != "group_id"
        }
        return {name: value for name, value in values.items() if value}

    def on(self, model: type[Model]) -> dict[str, tuple[str, ...]]:
        """Those that a kind of cell carries, with the values its cells may have."""
        known = DIMENSIONS[model]
        return {name: stored(value) for name, value in self.chosen().items() if name in known}

    def beyond(self, *models: type[Model]) -> tuple[str, ...]:
        """Those that a kind of cell does not carry: its numbers are about all of them."""
        return tuple(
            name for name in self.chosen() if any(name not in DIMENSIONS[model] for model in models)
        )


def stored(value: str) -> tuple[str, ...]:
    """A shown name as cells may hold it."""
    return ("", NONE) if value == NONE else (value,)


DIMENSIONS: Final[dict[type[Model], tuple[str, ...]]] = {
    RunsCell: ("entrypoint", "platform", "agent_version"),
    CostsCell: (),
    ModelCallsCell: ("provider", "model"),
    ToolCallsCell: ("tool_name",),
    ErrorsCell: (),
}
