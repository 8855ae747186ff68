"""The form of one export: an order with its window, chosen by name or by its two ends, in UTC."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from django import forms
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from fleet.lib.clock import floor_hour, now
from telemetry.models.exports import ExportJob
from telemetry.pages.exports_form import INPUT, OrderForm, initial_of

CUSTOM: Final = "custom"
type Window = tuple[datetime, datetime]


def _day(moment: datetime) -> datetime:
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)


def _month(moment: datetime) -> datetime:
    return _day(moment).replace(day=1)


def _last_month(moment: datetime) -> Window:
    end = _month(moment)
    return _month(end - timedelta(days=1)), end


_ENDS: Final[Mapping[str, Callable[[datetime], Window]]] = {
    "24h": lambda at: (at - timedelta(hours=24), at),
    "yesterday": lambda at: (_day(at) - timedelta(days=1), _day(at)),
    "7d": lambda at: (at - timedelta(days=7), at),
    "30d": lambda at: (at - timedelta(days=30), at),
    "month": lambda at: (_month(at), at),
    "last_month": _last_month,
}
WINDOWS: Final[tuple[tuple[str, str | Promise], ...]] = (
    ("24h", gettext_lazy("Last 24 hours")),
    ("yesterday", gettext_lazy("Yesterday")),
    ("7d", gettext_lazy("Last 7 days")),
    ("30d", gettext_lazy("Last 30 days")),
    ("month", gettext_lazy("This month")),
    ("last_month", gettext_lazy("Last month")),
    (CUSTOM, gettext_lazy("From … to …")),
)
_MOMENT: Final = {**INPUT, "type": "datetime-local", "step": "1"}


def window_named(name: str, moment: datetime) -> Window:
    """The ends of a window by its name; those that roll end with the running minute."""
    return _ENDS[name](moment.astimezone(UTC).replace(second=0, microsecond=0))


class ExportForm(OrderForm):
    """An export: an order and its window."""

    window = forms.ChoiceField(
        label=gettext_lazy("Time"),
        choices=WINDOWS,
        initial="24h",
        widget=forms.Select(attrs=INPUT),
    )
    start_at = forms.DateTimeField(
        required=False,
        label=gettext_lazy("From, UTC"),
        widget=forms.DateTimeInput(attrs=_MOMENT, format="%Y-%m-%dT%H:%M:%S"),
    )
    end_at = forms.DateTimeField(
        required=False,
        label=gettext_lazy("To, UTC, not included"),
        widget=forms.DateTimeInput(attrs=_MOMENT, format="%Y-%m-%dT%H:%M:%S"),
    )

    def clean(self) -> dict[str, Any]:  # Any: Django's own
        """The window's ends; of a custom one both are asked for."""
        data = super().clean()
        if data.get("window") not in (CUSTOM, None):
            data["start_at"], data["end_at"] = window_named(data["window"], now())
            return data
        for name in ("start_at", "end_at"):
            if not data.get(name) and name not in self.errors:
                self.add_error(name, _("Say when."))
        start, end = data.get("start_at"), data.get("end_at")
        if start and end and start >= end:
            self.add_error("end_at", _("It must be later than the beginning."))
        elif start and start >= now():
            self.add_error("start_at", _("That is still to come."))
        return data

    @property
    def ends(self) -> Window:
        """Of a valid form."""
        return self.cleaned_data["start_at"], self.cleaned_data["end_at"]


def initial_again(job: ExportJob) -> dict[str, object]:
    """What the form begins with when an export is ordered again: the same window, too."""
    return {
        **initial_of(job),
        "window": CUSTOM,
        "start_at": job.start_at.astimezone(UTC),
        "end_at": job.end_at.astimezone(UTC),
    }


def initial_new() -> dict[str, object]:
    """What an empty form begins with: the whole hours of the last day as a custom window."""
    end = floor_hour(now())
    return {"window": "24h", "start_at": end - timedelta(hours=24), "end_at": end}
