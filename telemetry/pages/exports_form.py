"""What a person decides about an export: what, in which form, narrowed by what, where to, and why.

Nothing is refused silently: a dataset that may not be had is shown with the reason, and every error
stands at its input, which keeps what was typed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from django import forms
from django.conf import settings
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import ValidationError
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from fleet.models import Install, InstallGroup
from telemetry.exports.allowed import has_content, lacking, permission_names
from telemetry.exports.choice import RESULTS, Choice, ChoiceRefused, datasets_of
from telemetry.exports.datasets import DATASETS, Dataset
from telemetry.exports.orders import MIN_REASON_CHARS
from telemetry.models.exports import ExportDestination, ExportFormat, ExportOrder
from telemetry.models.rollups import NO_GROUP

MAX_KEEP_DAYS: Final = 365
MAX_LINES_CHARS: Final = 20_000
INPUT: Final = {"class": "hf-input hf-wide-input"}
_CHECK: Final = {"class": "hf-radio"}
PLANES: Final[Mapping[str, tuple[str | Promise, str | Promise]]] = {
    "local": (
        gettext_lazy("Telemetry"),
        gettext_lazy("Rows and sums of agents that share them: names, times, counts, no content."),
    ),
    "aggregate": (
        gettext_lazy("Aggregate summaries"),
        gettext_lazy("Closed summaries of agents that share no more than these."),
    ),
    "fleet": (gettext_lazy("Fleet"), gettext_lazy("What this console knows of its installs.")),
    "audit": (
        gettext_lazy("Audit trail"),
        gettext_lazy("Who changed what, with the chain of digests."),
    ),
    "trajectories": (
        gettext_lazy("Content"),
        gettext_lazy(
            "What people and agents said to each other. Needs a permission of its own and a "
            "reason; the order is in the audit log."
        ),
    ),
}
"""How the planes are called and explained, in the order of the form."""


@dataclass(frozen=True, slots=True)
class DatasetChoice:
    """One checkbox; ``why_not`` says why it cannot be had."""

    name: str
    title: str
    is_checked: bool
    why_not: str


@dataclass(frozen=True, slots=True)
class PlaneChoices:
    """The datasets of a plane."""

    plane: str
    title: str
    note: str
    choices: list[DatasetChoice]
    why_not: str


class OrderForm(forms.Form):
    """The part that an export and a schedule have in common; ``user`` is who asks."""

    datasets = forms.MultipleChoiceField(
        label=gettext_lazy("What"),
        error_messages={"required": gettext_lazy("Choose at least one.")},
    )
    fmt = forms.ChoiceField(
        label=gettext_lazy("Format"),
        choices=ExportFormat.choices,
        initial=ExportFormat.NDJSON,
        widget=forms.Select(attrs=INPUT),
        help_text=gettext_lazy(
            "NDJSON: one JSON object a line. Parquet keeps types and is smallest. CSV opens in a "
            "spreadsheet."
        ),
    )
    is_gzipped = forms.BooleanField(
        required=False,
        label=gettext_lazy("Compress with gzip"),
        widget=forms.CheckboxInput(attrs=_CHECK),
    )
    groups = forms.MultipleChoiceField(
        required=False,
        label=gettext_lazy("Groups"),
        widget=forms.CheckboxSelectMultiple(attrs=_CHECK),
    )
    results = forms.MultipleChoiceField(
        required=False,
        label=gettext_lazy("Results"),
        choices=[(name, name) for name in RESULTS],
        widget=forms.CheckboxSelectMultiple(attrs=_CHECK),
    )
    installs = forms.CharField(
        required=False,
        max_length=MAX_LINES_CHARS,
        label=gettext_lazy("Installs"),
        help_text=gettext_lazy("Ids or names, one a line."),
        widget=forms.Textarea(attrs={**INPUT, "rows": 3}),
    )
    models = forms.CharField(
        required=False,
        max_length=MAX_LINES_CHARS,
        label=gettext_lazy("Models"),
        help_text=gettext_lazy("As the agents name them, one a line."),
        widget=forms.Textarea(attrs={**INPUT, "rows": 3}),
    )
    tools = forms.CharField(
        required=False,
        max_length=MAX_LINES_CHARS,
        label=gettext_lazy("Tools"),
        help_text=gettext_lazy("As the agents name them, one a line."),
        widget=forms.Textarea(attrs={**INPUT, "rows": 3}),
    )
    destination = forms.ModelChoiceField(
        ExportDestination.objects.none(),
        required=False,
        label=gettext_lazy("To"),
        empty_label=gettext_lazy("This console, to download"),
        widget=forms.Select(attrs=INPUT),
    )
    keep_days = forms.IntegerField(
        label=gettext_lazy("Keep for days"),
        min_value=1,
        max_value=MAX_KEEP_DAYS,
        initial=7,
        help_text=gettext_lazy(
            "Then this console deletes its files; those at a destination stay there."
        ),
        widget=forms.NumberInput(attrs=INPUT),
    )
    reason = forms.CharField(
        required=False,
        max_length=300,
        label=gettext_lazy("Reason"),
        help_text=gettext_lazy("Kept in the audit log; content needs one."),
        widget=forms.TextInput(attrs=INPUT),
    )

    def __init__(
        self,
        *args: Any,  # noqa: ANN401 -- Django's own
        user: AbstractBaseUser | AnonymousUser,
        **kwargs: Any,  # noqa: ANN401 -- Django's own
    ) -> None:
        super().__init__(*args, **kwargs)
        self.user = user
        self._field("datasets").choices = [(name, one.title) for name, one in DATASETS.items()]
        self._field("groups").choices = [
            *((str(group.pk), group.name) for group in InstallGroup.objects.order_by("name")),
            (str(NO_GROUP), _("No group")),
        ]
        places = ExportDestination.objects.filter(is_enabled=True)
        self.fields["destination"].queryset = places  # type: ignore[attr-defined]  # a ModelChoiceField

    def _field(self, name: str) -> forms.MultipleChoiceField:
        field = self.fields[name]
        assert isinstance(field, forms.MultipleChoiceField)  # noqa: S101 -- declared above
        return field

    @property
    def planes(self) -> list[PlaneChoices]:
        """The datasets as they are offered, by plane."""
        value = self["datasets"].value() or []
        checked = {str(name) for name in value} if isinstance(value, list | tuple) else set()
        missing = {name: lacking(self.user, [one]) for name, one in DATASETS.items()}
        every = sorted({permission for some in missing.values() for permission in some})
        named = dict(zip(every, permission_names(every), strict=True))
        found: dict[str, list[DatasetChoice]] = {plane: [] for plane in PLANES}
        needed: dict[str, list[str]] = {plane: [] for plane in PLANES}
        for name, dataset in DATASETS.items():
            needs = [named[permission] for permission in missing[name]]
            why = _why_not(needs, dataset)
            needed[dataset.plane] += needs
            is_checked = name in checked and not why
            choice = DatasetChoice(name, str(dataset.title), is_checked, why)
            found[dataset.plane].append(choice)
        return [
            PlaneChoices(
                plane, str(title), str(note), found[plane], _together(plane, needed[plane])
            )
            for plane, (title, note) in PLANES.items()
        ]

    @property
    def is_narrowed(self) -> bool:
        """Whether any filter says something, so that they are shown unfolded."""
        return any(self[name].value() for name in FILTERS)

    def clean_datasets(self) -> list[str]:
        """Only what this person may have."""
        names = list(self.cleaned_data["datasets"])
        missing = lacking(self.user, [DATASETS[name] for name in names])
        if missing:
            said = ", ".join(permission_names(missing))
            raise ValidationError(_("You lack a permission: %s.") % said)
        return names

    def clean_reason(self) -> str:
        """Without what a database refuses."""
        return str(self.cleaned_data["reason"]).replace("\0", "").strip()

    def clean_installs(self) -> list[str]:
        """Ids, of names too."""
        return [_install_id(text) for text in _lines(self.cleaned_data["installs"])]

    def clean_models(self) -> list[str]:
        """One a line."""
        return _lines(self.cleaned_data["models"])

    def clean_tools(self) -> list[str]:
        """One a line."""
        return _lines(self.cleaned_data["tools"])

    def clean(self) -> dict[str, Any]:  # Any: Django's own
        """The filter as a whole, checked against each dataset; a reason where content is."""
        data = super().clean() or {}
        names = data.get("datasets") or []
        if has_content(names) and len(data.get("reason") or "") < MIN_REASON_CHARS:
            self.add_error(
                "reason",
                _("Say why content is exported, in %s characters or more.") % MIN_REASON_CHARS,
            )
        if names and not any(name in self.errors for name in FILTERS):
            try:
                choice = Choice.from_dict({name: data[name] for name in FILTERS if data.get(name)})
                choice.check(datasets_of(names))
            except ChoiceRefused as error:
                self.add_error(None, str(error))
            else:
                data["chosen"] = choice
        return data

    @property
    def chosen_datasets(self) -> list[Dataset]:
        """Of a valid form."""
        return datasets_of(self.cleaned_data["datasets"])

    @property
    def choice(self) -> Choice:
        """Of a valid form."""
        chosen = self.cleaned_data["chosen"]
        assert isinstance(chosen, Choice)  # noqa: S101 -- put there by clean()
        return chosen

    def fill(self, order: ExportOrder) -> None:
        """Write what was decided into a row that is not saved here. Of a valid form."""
        order.datasets = list(self.cleaned_data["datasets"])
        order.fmt = self.cleaned_data["fmt"]
        order.is_gzipped = self.cleaned_data["is_gzipped"]
        order.chosen = self.choice.to_dict()
        order.destination = self.cleaned_data["destination"]
        order.keep_days = self.cleaned_data["keep_days"]
        order.reason = self.cleaned_data["reason"]


FILTERS: Final = ("groups", "installs", "models", "tools", "results")


def initial_of(order: ExportOrder) -> dict[str, object]:
    """What a form begins with when it repeats or changes an order."""
    chosen = order.chosen if isinstance(order.chosen, dict) else {}
    lists: dict[str, list[str]] = {
        name: [str(one) for one in chosen.get(name) or []] for name in FILTERS
    }
    return {
        "datasets": list(order.datasets),
        "fmt": order.fmt,
        "is_gzipped": order.is_gzipped,
        "groups": lists["groups"],
        "results": lists["results"],
        **{name: "\n".join(lists[name]) for name in ("installs", "models", "tools")},
        "destination": order.destination_id,
        "keep_days": order.keep_days,
        "reason": order.reason,
    }


def _why_not(needs: list[str], dataset: Dataset) -> str:
    """Why a dataset cannot be had; "" when it can."""
    if dataset.is_content and not settings.FLEET_TRAJECTORIES:
        return _("This console takes no content in: FLEET_TRAJECTORIES is off.")
    return _("Needs: %s.") % ", ".join(needs) if needs else ""


def _together(plane: str, needs: list[str]) -> str:
    """Why some of a plane are greyed out, in one sentence."""
    if plane == "trajectories" and not settings.FLEET_TRAJECTORIES:
        return _("This console takes no content in: FLEET_TRAJECTORIES is off.")
    if not needs:
        return ""
    return _("What is greyed out needs a permission that you lack: %s.") % ", ".join(
        dict.fromkeys(needs)
    )


def _lines(text: object) -> list[str]:
    found = (line.strip() for line in str(text or "").replace("\0", "").splitlines())
    return list(dict.fromkeys(line for line in found if line))


def _install_id(text: str) -> str:
    """The id of what was typed. Errors: ValidationError for a name that is none, or of many."""
    try:
        return str(UUID(text))
    except ValueError:
        pass
    named = list(Install.objects.filter(hostname=text).values_list("pk", flat=True)[:2])
    named = named or list(Install.objects.filter(label=text).values_list("pk", flat=True)[:2])
    if not named:
        raise ValidationError(_("There is no install %s.") % repr(text[:60]))
    if len(named) > 1:
        raise ValidationError(
            _("More than one install is called %s. Give the id of the one you mean.")
            % repr(text[:60])
        )
    return str(named[0])
