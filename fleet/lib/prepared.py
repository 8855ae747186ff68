"""Prepared reads: a query of the ORM compiled once a process, then only run.

For the two or three reads that every request of an agent makes. Building and compiling a query
costs five to eight times what running it does, and its text never changes. What comes out are
ordinary model instances, converted as the ORM converts them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from django.db import connection, models
from django.db.models.query import RelatedPopulator, get_related_populators

type Parameter = str | int | UUID


@dataclass(frozen=True, slots=True)
class _Compiled:
    """The text, and how a row of its result becomes an instance with its related ones."""

    text: str
    places: Sequence[int]
    columns: slice
    names: Sequence[str]
    converters: Sequence[tuple[int, Sequence[Callable[..., object]], object]]
    related: Sequence[RelatedPopulator]


class PreparedFirst[Model: models.Model]:
    """The first row of ``queryset(*parameters)``, or None; called with the parameters.

    ``samples`` stand for the parameters when the text is made: all different, and used by the
    query as they are. ``select_related`` works; annotations and prefetches do not.
    Source: django.db.models.query.ModelIterable, whose steps these are.
    """

    def __init__(
        self, queryset: Callable[..., models.QuerySet[Model]], *samples: Parameter
    ) -> None:
        self._queryset: Final = queryset
        self._samples: Final = samples
        self._compiled: dict[str, _Compiled] = {}
        self._model: type[Model] | None = None

    def __call__(self, *parameters: Parameter) -> Model | None:
        """One query."""
        compiled = self._compiled.get(connection.vendor) or self._compile()
        values = [_adapted(parameters[place]) for place in compiled.places]
        with connection.cursor() as cursor:
            cursor.execute(compiled.text, values)
            found = cursor.fetchone()
        return None if found is None else self._instance(compiled, list(found))

    def _compile(self) -> _Compiled:
        queryset = self._queryset(*self._samples)[:1]
        compiler = queryset.query.get_compiler(connection=connection)
        text, values = compiler.as_sql()
        expected = [_adapted(sample) for sample in self._samples]
        info: dict[str, Any] = compiler.klass_info  # Any: as Django leaves it untyped
        select = compiler.select or []
        fields = info["select_fields"]
        mode = queryset._fetch_mode  # type: ignore[attr-defined]  # noqa: SLF001 -- as ModelIterable does
        columns = slice(fields[0], fields[-1] + 1)
        converters = compiler.get_converters([part[0] for part in select])
        compiled = _Compiled(
            text=text,
            places=[expected.index(value) for value in values],
            columns=columns,
            names=[part[0].target.attname for part in select[columns]],
            converters=[(at, found, part) for at, (found, part) in converters.items()],
            related=get_related_populators(info, select, connection.alias, mode),
        )
        self._model = queryset.model
        self._compiled[connection.vendor] = compiled
        return compiled

    def _instance(self, compiled: _Compiled, row: list[Any]) -> Model:
        for at, converters, expression in compiled.converters:
            for convert in converters:
                row[at] = convert(row[at], expression, connection)
        assert self._model is not None  # noqa: S101 -- set by _compile
        instance = self._model.from_db(connection.alias, compiled.names, row[compiled.columns])
        for populator in compiled.related:
            populator.populate(row, instance)
        return instance


def _adapted(value: Parameter) -> Parameter:
    """As the ORM writes it on this database."""
    if isinstance(value, UUID) and not connection.features.has_native_uuid_field:
        return value.hex
    return value
