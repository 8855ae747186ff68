"""Schedules of exports: the list, and one page each to read, change, switch, run and delete it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db import IntegrityError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import URLPattern, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from fleet.admin.base import PageAdmin, gone, reason_of
from fleet.console.labels import label
from fleet.console.people import person_of
from fleet.console.rendering import page
from fleet.lib.clock import now
from fleet.templatetags.fleet_format import ago
from telemetry.exports.allowed import lacking_for
from telemetry.exports.faults import ExportRefused
from telemetry.exports.schedules import (
    delete_schedule,
    order_now,
    save_schedule,
    switch_schedule,
    upcoming,
)
from telemetry.models.exports import ExportJob, ExportSchedule
from telemetry.pages.exports_progress import TONES, datasets_words
from telemetry.pages.exports_rhythm import (
    ScheduleForm,
    initial_schedule,
    rhythm_words,
    zone_names,
)

RUNS_SHOWN: Final = 5
JOBS_SHOWN: Final = 8
_LIST: Final = "admin:telemetry_exportschedule_changelist"
_PAGE: Final = "admin:telemetry_exportschedule_change"


@dataclass(frozen=True, slots=True)
class RunShown:
    """A time to come, as the preview shows it."""

    local: str
    utc: datetime
    start_at: datetime
    order_at: datetime


@admin.register(ExportSchedule)
class ExportScheduleAdmin(PageAdmin):
    """Orders that are given again and again."""

    list_display = ("title", "state", "what", "rhythm", "next_time", "last_job", "owner_name")
    list_display_links = ("title",)
    list_select_related = ("destination",)
    list_filter = ("is_enabled", "every")
    search_fields = ("name", "owner")
    search_help_text = gettext_lazy("Search name or person")
    readonly_fields = ()
    actions = None  # each has its page, where what it does is said before
    ordering = ("name",)
    list_before_template = "telemetry/exports/schedules_before.html"

    def has_delete_permission(self, request: HttpRequest, obj: object = None) -> bool:
        """Not on the usual way: it would write no audit row of ours."""
        return False

    def get_urls(self) -> list[URLPattern]:
        """Beside the usual ones: the preview, and what is done with a schedule."""
        own = self.own_urls(
            ("preview/", self.preview_view, "preview"),
            ("<int:pk>/run/", self.run_view, "run"),
            ("<int:pk>/switch/", self.switch_view, "switch"),
            ("<int:pk>/remove/", self.remove_view, "remove"),
        )
        return [*own, *super().get_urls()]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, object] | None = None
    ) -> HttpResponse:
        """The list; without any schedule, what they are for."""
        context: dict[str, object] = {
            "may_add": self.has_add_permission(request),
            "is_fresh": self.has_view_permission(request) and not ExportSchedule.objects.exists(),
        }
        return super().changelist_view(request, {**context, **(extra_context or {})})

    @admin.display(description=gettext_lazy("Schedule"), ordering="name")
    def title(self, schedule: ExportSchedule) -> SafeString:
        """Its name."""
        return format_html('<bdi class="hf-name" title="{0}">{0}</bdi>', schedule.name)

    @admin.display(description=gettext_lazy("State"), ordering="is_enabled")
    def state(self, schedule: ExportSchedule) -> SafeString:
        """On, off, or on and unable."""
        return state_of(schedule)

    @admin.display(description=gettext_lazy("What"))
    def what(self, schedule: ExportSchedule) -> SafeString:
        """The datasets."""
        return format_html('<span class="hf-name" title="{0}">{0}</span>', datasets_words(schedule))

    @admin.display(description=gettext_lazy("When"))
    def rhythm(self, schedule: ExportSchedule) -> str:
        """In words."""
        return rhythm_words(schedule)

    @admin.display(description=gettext_lazy("Next"), ordering="next_at")
    def next_time(self, schedule: ExportSchedule) -> SafeString:
        """Distance to now."""
        return ago(schedule.next_at, _("not while it is off"))

    @admin.display(description=gettext_lazy("Last export"))
    def last_job(self, schedule: ExportSchedule) -> SafeString:
        """Its state."""
        job = ExportJob.objects.filter(schedule=schedule).order_by("-id").first()
        if job is None:
            return ago(None)
        return format_html(
            '<a href="{}">{}</a>',
            reverse("admin:telemetry_exportjob_change", args=(job.pk,)),
            label(job.get_state_display(), TONES[job.state], job.last_error),
        )

    @admin.display(description=gettext_lazy("Answers for it"), ordering="owner")
    def owner_name(self, schedule: ExportSchedule) -> SafeString:
        """Whose permissions its exports have."""
        return format_html('<bdi class="hf-name" title="{0}">{0}</bdi>', schedule.owner)

    def show_new(self, request: HttpRequest) -> HttpResponse:
        """A new one."""
        return self._edit(request, ExportSchedule(), is_new=True)

    def show(self, request: HttpRequest, schedule: ExportSchedule) -> HttpResponse:
        """One schedule: how it goes, and its form for who may change it."""
        if request.method == "POST" and not self.has_change_permission(request, schedule):
            raise PermissionDenied
        return self._edit(request, schedule, is_new=False)

    def _edit(
        self, request: HttpRequest, schedule: ExportSchedule, *, is_new: bool
    ) -> HttpResponse:
        initial = {} if is_new else initial_schedule(schedule)
        if request.method == "POST":
            form = ScheduleForm(request.POST, user=request.user, initial=initial)
            if form.is_valid() and "preview" not in request.POST:
                saved = _saved(request, form, schedule)
                if saved is not None:
                    messages.success(request, _("Saved. You answer for it now."))
                    return HttpResponseRedirect(reverse(_PAGE, args=(saved.pk,)))
        else:
            form = ScheduleForm(user=request.user, initial=initial)
        may_change = is_new or self.has_change_permission(request, schedule)
        context: dict[str, object] = {
            "form": form,
            "opts": self.opts,
            "schedule": None if is_new else schedule,
            "runs": _runs_of(form, schedule),
            "zones": zone_names(),
            "may_change": may_change,
            **({} if is_new else self._about(request, schedule)),
        }
        title = _("New schedule") if is_new else schedule.name
        return page(request, "telemetry/exports/schedule.html", title, context)

    def _about(self, request: HttpRequest, schedule: ExportSchedule) -> dict[str, object]:
        jobs = ExportJob.objects.filter(schedule=schedule).order_by("-id")[:JOBS_SHOWN]
        may_run = request.user.has_perm("telemetry.add_exportjob")
        return {
            "original": schedule,
            "state": state_of(schedule),
            "rhythm": rhythm_words(schedule),
            "what": datasets_words(schedule),
            "jobs": [
                {"job": job, "label": label(job.get_state_display(), TONES[job.state])}
                for job in jobs
            ],
            "may_run": may_run and not lacking_for(request.user, schedule.datasets),
            "may_remove": request.user.has_perm("telemetry.delete_exportschedule"),
        }

    def preview_view(self, request: HttpRequest) -> HttpResponse:
        """POST: the next times of the form's rhythm, as a part of the page."""
        if request.method != "POST" or not self.has_view_or_change_permission(request):
            raise PermissionDenied
        form = ScheduleForm(request.POST, user=request.user)
        context = {"form": form, "runs": _runs_of(form, ExportSchedule())}
        return render(request, "telemetry/exports/parts/upcoming.html", context)

    def run_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """POST: order the last whole window now, as the person who asks; audited."""
        schedule = self._for(request, pk, "telemetry.add_exportjob")
        if schedule is None:
            return gone(request, self.opts)
        try:
            job = order_now(schedule, actor=person_of(request), moment=now())
        except ExportRefused as error:
            messages.error(request, str(error))
            return HttpResponseRedirect(reverse(_PAGE, args=(pk,)))
        messages.success(request, _("Ordered. This page follows it."))
        return HttpResponseRedirect(reverse("admin:telemetry_exportjob_change", args=(job.pk,)))

    def switch_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """POST: on or off; audited."""
        schedule = self._for(request, pk, "telemetry.change_exportschedule")
        if schedule is None:
            return gone(request, self.opts)
        is_on = request.POST.get("to") == "on"
        done = switch_schedule(schedule, is_enabled=is_on, actor=person_of(request), moment=now())
        said = _("Switched on.") if is_on else _("Switched off. Nothing is ordered by it.")
        messages.success(request, said if done else _("It was so already."))
        return HttpResponseRedirect(reverse(_PAGE, args=(pk,)))

    def remove_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Ask, then delete it; audited. Its exports stay."""
        schedule = ExportSchedule.objects.filter(pk=pk).first()
        if schedule is None:
            return gone(request, self.opts)
        if not request.user.has_perm("telemetry.delete_exportschedule"):
            raise PermissionDenied
        if request.method == "POST" and reason_of(request):
            delete_schedule(schedule, actor=person_of(request), reason=reason_of(request))
            messages.success(request, _("Deleted. The exports that it ordered stay."))
            return HttpResponseRedirect(reverse(_LIST))
        context: dict[str, object] = {
            "opts": self.opts,
            "question": _("Delete the schedule %s?") % schedule.name,
            "consequence": _("Nothing is ordered by it any more. Exports that it ordered stay."),
            "button": _("Delete"),
            "cancel_url": reverse(_PAGE, args=(pk,)),
            "needs_reason": request.method == "POST",
        }
        return page(request, "fleet/confirm.html", _("Delete schedule"), context)

    def _for(self, request: HttpRequest, pk: int, permission: str) -> ExportSchedule | None:
        """The schedule of a POST by somebody who may see it and has a permission."""
        if request.method != "POST" or not request.user.has_perm(permission):
            raise PermissionDenied
        if not self.has_view_permission(request):
            raise PermissionDenied
        return ExportSchedule.objects.select_related("destination").filter(pk=pk).first()


def state_of(schedule: ExportSchedule) -> SafeString:
    """On, off, or on and unable with what is wrong as the title."""
    if not schedule.is_enabled:
        return label(_("Off"), "quiet")
    if schedule.last_error:
        return label(_("Cannot order"), "bad", schedule.last_error)
    return label(_("On"), "good")


def _saved(
    request: HttpRequest, form: ScheduleForm, schedule: ExportSchedule
) -> ExportSchedule | None:
    form.fill_schedule(schedule)
    try:
        return save_schedule(schedule, actor=person_of(request), moment=now())
    except IntegrityError:
        form.add_error("name", _("Another schedule has this name."))
        return None


def _runs_of(form: ScheduleForm, schedule: ExportSchedule) -> list[RunShown]:
    """The next times of what is typed, or of what is saved."""
    shown = schedule
    if form.is_bound:
        if not form.has_rhythm:
            return []
        shown = ExportSchedule()
        form.set_rhythm(shown)
    try:
        zone = ZoneInfo(shown.time_zone)
    except (KeyError, ValueError):
        return []  # gone from this machine since it was saved; the schedule says so itself
    return [
        RunShown(
            f"{run.slot_at.astimezone(zone):%a %Y-%m-%d %H:%M %Z}",
            run.slot_at,
            run.start_at,
            run.order_at,
        )
        for run in upcoming(shown, now(), RUNS_SHOWN)
    ]
