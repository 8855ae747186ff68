"""The aggregate plane's records: closed types of words from lists, numbers and bounded identifiers.

The wall is the type, not a filter: no field can hold a sentence, and a field that is not listed
here is refused on both sides. Nothing that knows content is imported.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import ClassVar, Final, Self

from agent_client.contract.events import COST_STATUSES, END_REASONS, ENTRYPOINTS
from agent_client.contract.tables import COUNT_MAX, MS_MAX, TIME_MAX_NS, USD_MAX

OS_FAMILIES: Final = ("linux", "macos", "windows", "other")
MAX_MODELS: Final = 50
"""Models of one run; a run that uses more says its busiest ones."""
MAX_TOOLS: Final = 200
IDENTIFIER_MAX_CHARS: Final = 120
"""``accounts/vendor/models/name:tag`` has 60; a sentence without a blank in it is hostile."""
UNKNOWN: Final = "unknown"
OTHER: Final = "other"
"""Stands for a name that is no identifier: the run counts, the name stays on the machine."""
_IDENTIFIER: Final = re.compile(
    r"[A-Za-z0-9_][A-Za-z0-9_.:/@+-]*|\[REDACTED:[a-z0-9_-]{1,60}\]", re.ASCII
)
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)

Check = Callable[[object], str]
"""Why a value may not stand in a field, as a code of ``wire.LINE_CODES``; "" when it may."""


class RecordFault(ValueError):
    """A record that is not one; ``code`` is of ``wire.LINE_CODES``, ``field`` a name or ""."""

    def __init__(self, field: str, code: str) -> None:
        super().__init__(f"{field}: {code}")
        self.field = field
        self.code = code


def as_identifier(value: object) -> str:
    """A name as this plane may say it: itself, ``unknown`` without one, else ``other``."""
    if value is None or value == "":
        return UNKNOWN
    text = str(value)
    return OTHER if _identifier(text) else text


def _identifier(value: object) -> str:
    if not isinstance(value, str):
        return "wrong_type"
    if not value:
        return "missing_field"
    if len(value) > IDENTIFIER_MAX_CHARS:
        return "too_long"
    return "" if _IDENTIFIER.fullmatch(value) else "invalid_value"


def _one_of(words: Collection[str]) -> Check:
    def check(value: object) -> str:
        if not isinstance(value, str):
            return "wrong_type"
        return "" if value in words else "invalid_value"

    return check


def _whole(most: int) -> Check:
    def check(value: object) -> str:
        if isinstance(value, bool) or not isinstance(value, int):
            return "wrong_type"
        return "" if 0 <= value <= most else "out_of_range"

    return check


def _number(most: float) -> Check:
    def check(value: object) -> str:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return "wrong_type"
        return "" if 0 <= value <= most else "out_of_range"  # NaN is neither

    return check


def _uuid(value: object) -> str:
    if not isinstance(value, str):
        return "wrong_type"
    return "" if _UUID.fullmatch(value) else "invalid_value"


def _maybe(check: Check) -> Check:
    return lambda value: "" if value is None else check(value)


def _list_of(check: Check, most: int) -> Check:
    def each(value: object) -> str:
        if not isinstance(value, list | tuple):
            return "wrong_type"
        if len(value) > most:
            return "too_long"
        return next((code for item in value if (code := check(item))), "")

    return each


_COUNT: Final = _whole(COUNT_MAX)
_TIME: Final = _whole(TIME_MAX_NS)


@dataclass(frozen=True, slots=True)
class ModelUse:
    """One model of a run. ``tokens``: input, output and cached ones together."""

    provider: str
    model: str
    calls: int
    tokens: int


_MODEL_USE: Final[Mapping[str, Check]] = {
    "provider": _identifier,
    "model": _identifier,
    "calls": _COUNT,
    "tokens": _COUNT,
}


def _model_use(value: object) -> str:
    if isinstance(value, ModelUse):
        value = {name: getattr(value, name) for name in _MODEL_USE}
    if not isinstance(value, Mapping):
        return "wrong_type"
    if value.keys() != _MODEL_USE.keys():
        return "unknown_field" if value.keys() - _MODEL_USE.keys() else "missing_field"
    return next((code for name, check in _MODEL_USE.items() if (code := check(value[name]))), "")


class _Record:
    """What both kinds share; a record that exists keeps its bounds, however it was made.

    ``record_id`` identifies it within an install and kind; of two the higher ``seq`` stands.
    """

    __slots__ = ()
    KIND: ClassVar[str]
    CHECKS: ClassVar[Mapping[str, Check]]
    occurred_ns: int
    record_id: str
    seq: int

    def __post_init__(self) -> None:
        for name, check in self.CHECKS.items():
            code = check(getattr(self, name))
            if code:
                raise RecordFault(name, code)

    def to_dict(self) -> dict[str, object]:
        """``{"_kind": <kind>, <every field>}``, as JSON has it."""
        return {"_kind": self.KIND, **{name: _plain(getattr(self, name)) for name in self.CHECKS}}

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Self:
        """The record of a dictionary, strictly. Errors: RecordFault."""
        values = {name: value for name, value in data.items() if name != "_kind"}
        odd = values.keys() - cls.CHECKS.keys()
        if odd:
            # Not its name: that is the sender's text.
            raise RecordFault("", "unknown_field")
        for spec in fields(cls):  # type: ignore[arg-type]  # both kinds are dataclasses
            if spec.name not in values and spec.default is MISSING:
                raise RecordFault(spec.name, "missing_field")
        for name, value in values.items():
            code = cls.CHECKS[name](value)  # before the lists are opened
            if code:
                raise RecordFault(name, code)
        return cls(**{name: _closed(value) for name, value in values.items()})


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, ModelUse):
        return {name: getattr(value, name) for name in _MODEL_USE}
    return value


def _closed(value: object) -> object:
    if isinstance(value, list | tuple):
        return tuple(_closed(item) for item in value)
    return ModelUse(**value) if isinstance(value, Mapping) else value


@dataclass(frozen=True, slots=True)
class WorkflowCompleted(_Record):
    """One run that has ended. ``record_id`` is its run_id, ``occurred_ns`` its end.

    Units: ``duration_ms`` with one decimal. ``models_used`` and ``tools_used``: most calls first.
    """

    KIND: ClassVar[str] = "workflow_completed"
    CHECKS: ClassVar[Mapping[str, Check]] = {
        "record_id": _identifier,
        "seq": _TIME,
        "occurred_ns": _TIME,
        "end_reason": _one_of(END_REASONS),
        "duration_ms": _number(MS_MAX),
        "models_used": _list_of(_model_use, MAX_MODELS),
        "tools_used": _list_of(_identifier, MAX_TOOLS),
        "model_call_count": _COUNT,
        "tool_call_count": _COUNT,
        "error_count": _COUNT,
        "turn_count": _COUNT,
        "input_tokens": _COUNT,
        "output_tokens": _COUNT,
        "cache_read_tokens": _COUNT,
        "cache_write_tokens": _COUNT,
        "reasoning_tokens": _COUNT,
        "cost_status": _one_of(COST_STATUSES),
        "estimated_cost_usd": _maybe(_number(USD_MAX)),
        "entrypoint": _one_of(ENTRYPOINTS),
        "platform": _maybe(_identifier),
    }

    record_id: str
    seq: int
    occurred_ns: int
    end_reason: str
    duration_ms: float
    models_used: tuple[ModelUse, ...]
    tools_used: tuple[str, ...]
    model_call_count: int
    tool_call_count: int
    error_count: int
    turn_count: int
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    cost_status: str
    estimated_cost_usd: float | None = None
    entrypoint: str = "cli"
    platform: str | None = None


@dataclass(frozen=True, slots=True)
class Heartbeat(_Record):
    """An install that is there. ``record_id`` names the day and the versions: one of each."""

    KIND: ClassVar[str] = "heartbeat"
    CHECKS: ClassVar[Mapping[str, Check]] = {
        "record_id": _identifier,
        "seq": _TIME,
        "occurred_ns": _TIME,
        "install_id": _uuid,
        "client_version": _identifier,
        "agent_version": _identifier,
        "python_version": _identifier,
        "os_family": _one_of(OS_FAMILIES),
        "entrypoint": _one_of(ENTRYPOINTS),
    }

    record_id: str
    seq: int
    occurred_ns: int
    install_id: str
    client_version: str
    agent_version: str
    python_version: str
    os_family: str
    entrypoint: str = "cli"


AggregateRecord = WorkflowCompleted | Heartbeat
AGGREGATE_KINDS: Final[Mapping[str, type[AggregateRecord]]] = {
    WorkflowCompleted.KIND: WorkflowCompleted,
    Heartbeat.KIND: Heartbeat,
}


def record_of(data: Mapping[str, object]) -> AggregateRecord:
    """The record of a JSON object by its ``_kind``. Errors: RecordFault."""
    kind = data.get("_kind")
    known = AGGREGATE_KINDS.get(kind) if isinstance(kind, str) else None
    if known is None:
        raise RecordFault("", "unknown_kind")
    return known.from_dict(data)
