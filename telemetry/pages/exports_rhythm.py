"""The form of a schedule: an order, and when it is given again."""

from __future__ import annotations

from datetime import time
from typing import Final
from zoneinfo import ZoneInfo, available_timezones

from django import forms
from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from telemetry.models.exports import ExportSchedule
from telemetry.pages.exports_form import INPUT, OrderForm, initial_of

Every: Final = ExportSchedule.Every
WEEKDAYS: Final = (
    (0, gettext_lazy("Monday")),
    (1, gettext_lazy("Tuesday")),
    (2, gettext_lazy("Wednesday")),
    (3, gettext_lazy("Thursday")),
    (4, gettext_lazy("Friday")),
    (5, gettext_lazy("Saturday")),
    (6, gettext_lazy("Sunday")),
)
MAX_SETTLE_MINUTES: Final = 1440
_RHYTHM_INPUTS: Final = (
    *("every", "at_minute", "at_time", "weekday", "day_of_month", "time_zone", "settle_minutes"),
)


class ScheduleForm(OrderForm):
    """Name, rhythm, what becomes of missed times; and the order itself."""

    name = forms.CharField(
        max_length=80, label=gettext_lazy("Name"), widget=forms.TextInput(attrs=INPUT)
    )
    every = forms.ChoiceField(
        label=gettext_lazy("Every"),
        choices=Every.choices,
        initial=Every.DAY,
        widget=forms.Select(attrs=INPUT),
    )
    at_time = forms.TimeField(
        required=False,
        label=gettext_lazy("At"),
        initial="02:15",
        widget=forms.TimeInput(attrs={**INPUT, "type": "time"}, format="%H:%M"),
    )
    at_minute = forms.IntegerField(
        required=False,
        min_value=0,
        max_value=59,
        initial=15,
        label=gettext_lazy("At minute"),
        widget=forms.NumberInput(attrs=INPUT),
    )
    weekday = forms.TypedChoiceField(
        required=False,
        coerce=int,
        empty_value=0,  # type: ignore[arg-type]  # the stubs know of texts only
        choices=WEEKDAYS,
        label=gettext_lazy("On"),
        widget=forms.Select(attrs=INPUT),
    )
    day_of_month = forms.IntegerField(
        required=False,
        min_value=1,
        max_value=31,
        initial=1,
        label=gettext_lazy("On day"),
        help_text=gettext_lazy("29 to 31: the last day of a shorter month."),
        widget=forms.NumberInput(attrs=INPUT),
    )
    time_zone = forms.CharField(
        max_length=64,
        initial="UTC",
        label=gettext_lazy("Time zone"),
        help_text=gettext_lazy("Like Europe/Berlin; clock changes are followed."),
        widget=forms.TextInput(attrs={**INPUT, "list": "hf-zones", "autocomplete": "off"}),
    )
    settle_minutes = forms.IntegerField(
        min_value=0,
        max_value=MAX_SETTLE_MINUTES,
        initial=15,
        label=gettext_lazy("Wait for late rows, minutes"),
        help_text=gettext_lazy(
            "Agents send every five to ten minutes. Rows later than this are in no window."
        ),
        widget=forms.NumberInput(attrs=INPUT),
    )
    catch_up = forms.ChoiceField(
        label=gettext_lazy("When times were missed"),
        choices=ExportSchedule.CatchUp.choices,
        initial=ExportSchedule.CatchUp.ALL,
        widget=forms.Select(attrs=INPUT),
    )
    is_enabled = forms.BooleanField(
        required=False,
        initial=True,
        label=gettext_lazy("Switched on"),
        widget=forms.CheckboxInput(attrs={"class": "hf-switch"}),
    )

    def clean_name(self) -> str:
        """Of no other schedule."""
        name = str(self.cleaned_data["name"])
        if (
            ExportSchedule.objects.filter(name=name)
            .exclude(pk=self.initial.get("pk") or 0)
            .exists()
        ):
            raise ValidationError(_("Another schedule has this name."))
        return name

    def clean_time_zone(self) -> str:
        """A zone that this machine knows."""
        name = str(self.cleaned_data["time_zone"])
        try:
            ZoneInfo(name)
        except (KeyError, ValueError, OSError):
            raise ValidationError(
                _("There is no such time zone. It looks like Europe/Berlin.")
            ) from None
        return name

    def clean_at_time(self) -> time | None:
        """Asked for unless it is hourly."""
        at = self.cleaned_data["at_time"]
        if at is None and self.data.get("every") != Every.HOUR:
            raise ValidationError(_("Say at what time."))
        return at if isinstance(at, time) else None

    @property
    def has_rhythm(self) -> bool:
        """Whether the times can be reckoned, whatever else is not filled in yet."""
        return self.is_bound and not any(name in self.errors for name in _RHYTHM_INPUTS)

    def set_rhythm(self, schedule: ExportSchedule) -> None:
        """Write the times into a row that is not saved here."""
        data = self.cleaned_data
        at: time | None = data["at_time"]
        schedule.every = data["every"]
        if schedule.every == Every.HOUR:
            schedule.at_minute = data["at_minute"] or 0
        elif at is not None:
            schedule.at_hour, schedule.at_minute = at.hour, at.minute
        schedule.weekday = data["weekday"] or 0
        schedule.day_of_month = data["day_of_month"] or 1
        schedule.time_zone = data["time_zone"]
        schedule.settle_minutes = data["settle_minutes"]

    def fill_schedule(self, schedule: ExportSchedule) -> None:
        """Write all of it into a row that is not saved here. Of a valid form."""
        self.fill(schedule)
        self.set_rhythm(schedule)
        schedule.name = self.cleaned_data["name"]
        schedule.catch_up = self.cleaned_data["catch_up"]
        schedule.is_enabled = self.cleaned_data["is_enabled"]


def initial_schedule(schedule: ExportSchedule) -> dict[str, object]:
    """What the form of a schedule begins with."""
    return {
        **initial_of(schedule),
        "pk": schedule.pk,
        "name": schedule.name,
        "every": schedule.every,
        "at_time": f"{schedule.at_hour:02d}:{schedule.at_minute:02d}",
        "at_minute": schedule.at_minute,
        "weekday": schedule.weekday,
        "day_of_month": schedule.day_of_month,
        "time_zone": schedule.time_zone,
        "settle_minutes": schedule.settle_minutes,
        "catch_up": schedule.catch_up,
        "is_enabled": schedule.is_enabled,
    }


def zone_names() -> list[str]:
    """Every zone by its place, for the input's list."""
    return sorted(name for name in available_timezones() if "/" in name or name == "UTC")


def rhythm_words(schedule: ExportSchedule) -> str:
    """When it runs, as a person says it."""
    at = f"{schedule.at_hour:02d}:{schedule.at_minute:02d}"
    zone = schedule.time_zone
    if schedule.every == Every.HOUR:
        return _("each hour at minute %(minute)s, %(zone)s") % {
            "minute": schedule.at_minute,
            "zone": zone,
        }
    if schedule.every == Every.WEEK:
        day = dict(WEEKDAYS).get(schedule.weekday, "")
        return _("%(day)s at %(at)s, %(zone)s") % {"day": day, "at": at, "zone": zone}
    if schedule.every == Every.MONTH:
        return _("day %(day)s of the month at %(at)s, %(zone)s") % {
            "day": schedule.day_of_month,
            "at": at,
            "zone": zone,
        }
    return _("each day at %(at)s, %(zone)s") % {"at": at, "zone": zone}
