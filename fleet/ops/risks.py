"""Whether a migration may run while the console works: read off its operations, or stated.

``online``: takes locks for moments, and processes of the release before go on working. ``window``:
rewrites or blocks a table that is written all the time, or takes away what they use. What cannot be
read (RunPython, RunSQL) is ``window`` until somebody states otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.contrib.postgres.operations import AddIndexConcurrently, RemoveIndexConcurrently
from django.db import migrations, models
from django.db.migrations.migration import Migration
from django.db.migrations.operations.base import Operation
from django.db.migrations.state import ProjectState

from fleet.ops import hooks
from fleet.ops.hooks import Risk

WORDS_ONLY = frozenset(
    "choices help_text verbose_name default editable validators blank error_messages "
    "related_name related_query_name limit_choices_to".split()
)
"""What of a field the database does not know."""
_HARMLESS = (
    migrations.AlterModelOptions,
    migrations.AlterModelManagers,
    migrations.RemoveConstraint,
    migrations.RemoveIndex,
    migrations.RenameIndex,
    RemoveIndexConcurrently,
)
_TAKES_AWAY = (
    migrations.RemoveField,
    migrations.DeleteModel,
    migrations.RenameField,
    migrations.RenameModel,
    migrations.AlterModelTable,
)


@dataclass(frozen=True, slots=True)
class Judged:
    """A migration's risk, with the reasons; none for what is harmless."""

    name: str
    risk: Risk
    reasons: tuple[str, ...] = ()


def models_made(migration: Migration) -> set[str]:
    """Models whose tables a migration makes, in lower case."""
    return {
        one.name_lower
        for operation in migration.operations
        for one in _of_database(operation)
        if isinstance(one, migrations.CreateModel)
    }


def judge(
    migration: Migration, before: ProjectState, new_models: frozenset[str] = frozenset()
) -> Judged:
    """The risk of a migration, from the state of the models before it. Pure.

    ``new_models``: models of its app that the release before does not know, because migrations
    that are pending together with this one make them; nobody uses their tables yet.
    """
    name = f"{migration.app_label}.{migration.name}"
    said = hooks.stated(name)
    if said is not None:
        return Judged(name, said.risk, (said.why,))
    state, made, reasons = before.clone(), set(new_models), list[str]()
    for operation in migration.operations:
        for one in _of_database(operation):
            if isinstance(one, migrations.CreateModel):
                made.add(one.name_lower)
                continue
            reason = _reason(one, migration, state, made)
            if reason:
                reasons.append(reason)
        operation.state_forwards(migration.app_label, state)
    return Judged(name, "window" if reasons else "online", tuple(reasons))


def _of_database(operation: Operation) -> Iterator[Operation]:
    if isinstance(operation, migrations.SeparateDatabaseAndState):
        for inner in operation.database_operations:
            yield from _of_database(inner)
    else:
        yield operation


def _reason(operation: Operation, migration: Migration, state: ProjectState, made: set[str]) -> str:
    """Why an operation needs a window; "" when it does not."""
    if isinstance(operation, _HARMLESS):
        return ""
    if isinstance(operation, migrations.RunPython | migrations.RunSQL):
        return f"{type(operation).__name__}: nobody has stated what it does to live tables"
    model = str(getattr(operation, "model_name", "") or getattr(operation, "name", "")).lower()
    if model in made:
        return ""
    if isinstance(operation, _TAKES_AWAY):
        return f"{operation.describe()}: processes of the release before use it"
    if isinstance(operation, AddIndexConcurrently):
        return "an index CONCURRENTLY needs atomic = False" if migration.atomic else ""
    return _reason_of_table(operation, migration, state, model)


def _reason_of_table(
    operation: Operation, migration: Migration, state: ProjectState, model: str
) -> str:
    held = state.models.get((migration.app_label, model))
    table = str((held.options.get("db_table") if held else "") or f"{migration.app_label}_{model}")
    is_live = table in hooks.live_tables()
    if isinstance(operation, migrations.AddField):
        return _reason_of_new_field(operation.field, table, is_live=is_live)
    if isinstance(operation, migrations.AlterField):
        old = held.fields.get(operation.name) if held else None
        if old is not None and _in_database(old) == _in_database(operation.field):
            return ""
        return (
            f"{operation.describe()}: the table is rewritten or looked through" if is_live else ""
        )
    if isinstance(operation, migrations.AddIndex):
        return f"an index on {table} that is not CONCURRENTLY stops its writers" if is_live else ""
    return f"{operation.describe()}: {table} is looked through under a lock" if is_live else ""


def _reason_of_new_field(
    field: Any,  # noqa: ANN401  # Any: of whatever it holds, the stubs know not all of it
    table: str,
    *,
    is_live: bool,
) -> str:
    has_default = field.db_default is not models.NOT_PROVIDED
    if not (field.null or has_default or field.many_to_many):
        return f"a column of {table} without a default in the database: old processes cannot insert"
    if is_live and (field.db_index or field.unique or field.remote_field is not None):
        return f"a column of {table} with an index or a key that is made under a lock"
    return ""


def _in_database(field: models.Field) -> object:  # type: ignore[type-arg]  # of whatever it holds
    _name, path, args, keywords = field.deconstruct()
    kept = {key: value for key, value in keywords.items() if key not in WORDS_ONLY}
    return path, list(args), sorted((key, repr(value)) for key, value in kept.items())
