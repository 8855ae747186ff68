"""Which rows an export is about: a typed filter that refuses what it does not know.

A filter that quietly matched nothing, or that one of the datasets could not follow, would make a
file that says something else than its order: both are refused before anything is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, fields
from typing import Final
from uuid import UUID

from django.utils.translation import gettext as _

from agent_client.contract.events import END_REASONS, RESULT_CLASSES
from fleet.models import Install, InstallGroup
from telemetry.exports.datasets import DATASETS, Dataset
from telemetry.models import ALL_GROUPS, FirstSeen
from telemetry.models.rollups import NO_GROUP

MAX_NAMED: Final = 500
"""Values of one dimension: they travel as parameters of one statement, and SQLite has 32,766."""
MAX_CHARS: Final = 200
MAX_FIRST_SEEN: Final = 20_000
"""As many names the register holds at most; when it is full, a name that is not in it may exist."""
RESULTS: Final = tuple(sorted({*END_REASONS, *RESULT_CLASSES}))
_DIMENSIONS: Final = {
    "groups": "group",
    "installs": "install",
    "models": "model",
    "tools": "tool",
    "results": "result",
}


class ChoiceRefused(ValueError):
    """A filter or a dataset that is not known; its text is for a person, and quotes only names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What is meant; an empty dimension narrows nothing.

    ``groups``: ids of install groups, NO_GROUP for installs without one. Of events it is the group
    the install had when the row came in. ``results``: end reasons and result classes.
    """

    groups: tuple[int, ...] = ()
    installs: tuple[UUID, ...] = ()
    models: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    results: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Choice:
        """A filter from an order's row, a form or a request.

        Groups by id or by name. Errors: ChoiceRefused for a name of a dimension that is not known,
        for a value of another type, and for a group that does not exist.
        """
        unknown = sorted(set(data) - set(_DIMENSIONS))
        if unknown:
            raise ChoiceRefused(
                _("There is no filter named %(name)s. Known: %(known)s.")
                % {"name": _short(unknown[0]), "known": ", ".join(_DIMENSIONS)}
            )
        return cls(
            groups=_groups(_listed(data, "groups")),
            installs=tuple(_uuid(value) for value in _listed(data, "installs")),
            models=_texts(data, "models"),
            tools=_texts(data, "tools"),
            results=_texts(data, "results"),
        )

    def to_dict(self) -> dict[str, object]:
        """What an order and its audit row keep: only what narrows."""
        return {
            spec.name: [str(one) if isinstance(one, UUID) else one for one in value]
            for spec in fields(self)
            if (value := getattr(self, spec.name))
        }

    def check(self, datasets: Sequence[Dataset]) -> None:
        """Refuse what does not exist, and what a dataset cannot follow. Errors: ChoiceRefused."""
        for dataset in datasets:
            for name, dimension in _DIMENSIONS.items():
                if getattr(self, name) and dimension not in dataset.follows:
                    raise ChoiceRefused(
                        _(
                            "%(dataset)s cannot be narrowed by %(filter)s. Leave out the filter, "
                            "or export it on its own."
                        )
                        % {"dataset": dataset.title, "filter": name}
                    )
        known = set(Install.objects.filter(pk__in=self.installs).values_list("pk", flat=True))
        _refuse_missing(_("install"), self.installs, known)
        _refuse_missing(_("result"), self.results, set(RESULTS))
        _refuse_unseen(_("model"), FirstSeen.Kind.MODEL, self.models)
        _refuse_unseen(_("tool"), FirstSeen.Kind.TOOL, self.tools)

    def among(self, dataset: Dataset) -> dict[str, tuple[object, ...]]:
        """The values that a dataset's columns may have."""
        found: dict[str, tuple[object, ...]] = {
            name: (value,) for name, value in dataset.constant.items()
        }
        for name, dimension in _DIMENSIONS.items():
            values = getattr(self, name)
            if values and dimension in dataset.follows:
                found[dataset.follows[dimension]] = values
        if dataset.plane == "fleet" and "group_id" in found:  # there, no group is NULL
            found["group_id"] = tuple(value or None for value in found["group_id"])
        is_cell = bool(dataset.constant) and "install" not in dataset.follows
        if is_cell and "group_id" not in found:  # there once a group, and once for all together
            found["group_id"] = (ALL_GROUPS,)
        return found


def datasets_of(names: Iterable[object]) -> list[Dataset]:
    """The datasets of these names, each once. Errors: ChoiceRefused for none or an unknown one."""
    found: dict[str, Dataset] = {}
    for name in names:
        if not isinstance(name, str) or name not in DATASETS:
            raise ChoiceRefused(_("There is no dataset named %s.") % _short(name))
        found[name] = DATASETS[name]
    if not found:
        raise ChoiceRefused(_("Name at least one dataset."))
    return list(found.values())


def _short(value: object) -> str:
    return repr(str(value)[:60])


def _listed(data: Mapping[str, object], name: str) -> list[object]:
    value = data.get(name)
    if value in (None, ""):
        return []
    if not isinstance(value, list | tuple):
        raise ChoiceRefused(_("The filter %s takes a list.") % name)
    if len(value) > MAX_NAMED:
        raise ChoiceRefused(
            _("The filter %(name)s takes at most %(count)s values.")
            % {"name": name, "count": MAX_NAMED}
        )
    return list(dict.fromkeys(value)) if all(map(_is_plain, value)) else _refuse(name)


def _is_plain(value: object) -> bool:
    return isinstance(value, str | int | UUID) and not isinstance(value, bool)


def _refuse(name: str) -> list[object]:
    raise ChoiceRefused(_("The filter %s takes texts or numbers.") % name)


def _texts(data: Mapping[str, object], name: str) -> tuple[str, ...]:
    found = _listed(data, name)
    for value in found:
        if not isinstance(value, str) or not value or len(value) > MAX_CHARS or "\x00" in value:
            raise ChoiceRefused(
                _("The filter %(name)s takes texts of 1 to %(count)s characters.")
                % {"name": name, "count": MAX_CHARS}
            )
    return tuple(str(value) for value in found)


def _uuid(value: object) -> UUID:
    try:
        return value if isinstance(value, UUID) else UUID(str(value))
    except ValueError:
        raise ChoiceRefused(_("%s is not an install's id.") % _short(value)) from None


def _groups(values: Sequence[object]) -> tuple[int, ...]:
    """Ids from ids and names; ``none`` is what has no group."""
    if not values:
        return ()
    ids = dict(InstallGroup.objects.values_list("pk", "name"))
    by_name = {name: pk for pk, name in ids.items()} | {"none": NO_GROUP}
    found: list[int] = []
    for value in values:
        is_number = isinstance(value, int) or (value not in by_name and str(value).isdecimal())
        pk = int(str(value)[:18]) if is_number else by_name.get(str(value))
        if pk is None or (pk not in ids and pk != NO_GROUP):
            raise ChoiceRefused(_("There is no group %s.") % _short(value))
        found.append(pk)
    return tuple(dict.fromkeys(found))


def _refuse_missing(what: str, asked: Sequence[object], known: AbstractSet[object]) -> None:
    missing = [value for value in asked if value not in known]
    if missing:
        raise ChoiceRefused(
            _("There is no %(what)s %(name)s.") % {"what": what, "name": _short(missing[0])}
        )


def _refuse_unseen(what: str, kind: FirstSeen.Kind, names: Sequence[str]) -> None:
    """A name that the fleet never sent is a typing error; the file would be empty."""
    if not names:
        return
    seen = FirstSeen.objects.filter(kind=kind)
    known: set[object] = set(seen.filter(value__in=names).values_list("value", flat=True))
    if seen.count() < MAX_FIRST_SEEN:
        _refuse_missing(what, names, known)
