"""Exports: the list, the order's form, and an export's page with its progress and its files."""

from __future__ import annotations

from typing import Final

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import URLPattern, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from fleet.admin.base import FactAdmin, gone
from fleet.console.charts import meter
from fleet.console.labels import label
from fleet.console.people import person_of
from fleet.console.rendering import page
from fleet.lib.clock import now
from fleet.templatetags.fleet_format import ago, byte_size, exact, percent
from telemetry.exports.allowed import DOWNLOAD, lacking_for, permission_names
from telemetry.exports.faults import ExportRefused
from telemetry.exports.orders import Order, cancel_job, order_job, retry_job
from telemetry.models.exports import ExportJob
from telemetry.pages.exports_estimate import estimate_of
from telemetry.pages.exports_files import files_of
from telemetry.pages.exports_progress import (
    TONES,
    datasets_words,
    filter_words,
    kept_words,
    progress_of,
)
from telemetry.pages.exports_window import ExportForm, initial_again

CANCEL: Final = "telemetry.cancel_exportjob"
ADD: Final = "telemetry.add_exportjob"
_LIST: Final = "admin:telemetry_exportjob_changelist"
_PAGE: Final = "admin:telemetry_exportjob_change"


@admin.register(ExportJob)
class ExportJobAdmin(FactAdmin):
    """Exports that were ordered, and how far they are."""

    list_display = (
        "title",
        "state_label",
        "what",
        "window",
        "who",
        "progress",
        "size",
        "to",
    )
    list_display_links = ("title",)
    list_select_related = ("destination", "schedule")
    list_filter = ("state", "fmt", "destination", "schedule")
    search_fields = ("actor", "reason")
    search_help_text = gettext_lazy("Search person or reason")
    readonly_fields = ("uid",)
    ordering = ("-id",)
    list_before_template = "telemetry/exports/before.html"

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Whether somebody may order."""
        return request.user.has_perm(ADD)

    def has_change_permission(self, request: HttpRequest, obj: object = None) -> bool:
        """Never: an order is a record."""
        return False

    def get_urls(self) -> list[URLPattern]:
        """Beside the usual ones: an estimate, the progress, and what is done with an export."""
        own = self.own_urls(
            ("estimate/", self.estimate_view, "estimate"),
            ("<int:pk>/progress/", self.progress_view, "progress"),
            ("<int:pk>/cancel/", self.cancel_view, "cancel"),
            ("<int:pk>/retry/", self.retry_view, "retry"),
        )
        return [*own, *super().get_urls()]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, object] | None = None
    ) -> HttpResponse:
        """The list; without any export, what they are for."""
        context: dict[str, object] = {
            "may_add": self.has_add_permission(request),
            "is_fresh": self.has_view_permission(request) and not ExportJob.objects.exists(),
        }
        return super().changelist_view(request, {**context, **(extra_context or {})})

    @admin.display(description=gettext_lazy("Export"), ordering="id")
    def title(self, job: ExportJob) -> SafeString:
        """Its number and when it was ordered."""
        return format_html(
            '{}<span class="hf-cause">{}</span>', _("Export %s") % job.pk, ago(job.created_at)
        )

    @admin.display(description=gettext_lazy("State"), ordering="state")
    def state_label(self, job: ExportJob) -> SafeString:
        """The state; what is wrong is its title."""
        return label(job.get_state_display(), TONES[job.state], job.last_error)

    @admin.display(description=gettext_lazy("What"))
    def what(self, job: ExportJob) -> SafeString:
        """The datasets, the first ones in sight, and the format."""
        return format_html(
            '<span class="hf-name" title="{0}">{0}</span><span class="hf-cause">{1}{2}</span>',
            datasets_words(job),
            job.get_fmt_display(),
            ", gzip" if job.is_gzipped else "",
        )

    @admin.display(description=gettext_lazy("Window, UTC"), ordering="start_at")
    def window(self, job: ExportJob) -> SafeString:
        """From and to."""
        return format_html(
            '<span class="hf-nowrap">{} –</span><br><span class="hf-nowrap">{}</span>',
            f"{job.start_at:%Y-%m-%d %H:%M}",
            f"{job.end_at:%Y-%m-%d %H:%M}",
        )

    @admin.display(description=gettext_lazy("Who"), ordering="actor")
    def who(self, job: ExportJob) -> SafeString:
        """The person, and the schedule that did it for them."""
        name = format_html('<bdi class="hf-name" title="{0}">{0}</bdi>', job.actor)
        if job.schedule is None:
            return name
        return format_html(
            '{0}<bdi class="hf-cause hf-name" title="{1}">{1}</bdi>', name, job.schedule.name
        )

    @admin.display(description=gettext_lazy("Progress"))
    def progress(self, job: ExportJob) -> SafeString:
        """A bar while it runs, rows when it is done."""
        rows = _("%s rows") % exact(job.done_count)
        share = progress_of(job, now()).share
        if job.state == ExportJob.State.RUNNING and share is not None:
            return format_html("{} {}", meter(share, percent(share), "1"), rows)
        return format_html('<span class="hf-nowrap">{}</span>', rows)

    @admin.display(description=gettext_lazy("Size"), ordering="done_bytes")
    def size(self, job: ExportJob) -> str:
        """What is written."""
        return byte_size(job.done_bytes)

    @admin.display(description=gettext_lazy("To"), ordering="destination__name")
    def to(self, job: ExportJob) -> SafeString:
        """The destination."""
        name = job.destination.name if job.destination else _("this console")
        return format_html('<bdi class="hf-name" title="{0}">{0}</bdi>', name)

    def show_new(self, request: HttpRequest) -> HttpResponse:
        """The order's form; what was typed stays when something is wrong."""
        if request.method == "POST":
            form = ExportForm(request.POST, user=request.user)
            if form.is_valid() and "estimate" not in request.POST:
                try:
                    job = order_job(order_in(form), actor=person_of(request))
                except ExportRefused as error:
                    form.add_error(None, str(error))
                else:
                    messages.success(request, _("Ordered. This page follows it."))
                    return HttpResponseRedirect(reverse(_PAGE, args=(job.pk,)))
        else:
            form = ExportForm(user=request.user, initial=self._initial(request))
        context: dict[str, object] = {
            "form": form,
            "opts": self.opts,
            "estimate": _estimate(form) if form.is_bound and form.is_valid() else None,
        }
        return page(request, "telemetry/exports/order.html", _("New export"), context)

    def _initial(self, request: HttpRequest) -> dict[str, object]:
        """Of ``?again=7`` what export 7 was; else nothing."""
        again = request.GET.get("again", "")
        if not again.isdecimal() or not self.has_view_permission(request):
            return {}
        job = ExportJob.objects.filter(pk=int(again[:18])).first()
        return initial_again(job) if job else {}

    def estimate_view(self, request: HttpRequest) -> HttpResponse:
        """POST: rows that the form's order would have, as a part of the page."""
        if not self.has_add_permission(request) or request.method != "POST":
            raise PermissionDenied
        form = ExportForm(request.POST, user=request.user)
        if not request.POST.getlist("datasets"):
            form = ExportForm(user=request.user)  # nothing is wrong yet
        context = {"form": form, "estimate": _estimate(form) if form.is_valid() else None}
        return render(request, "telemetry/exports/parts/estimate.html", context)

    def show(self, request: HttpRequest, job: ExportJob) -> HttpResponse:
        """One export."""
        return page(request, "telemetry/exports/job.html", str(job), self._context(request, job))

    def progress_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """The part of an export's page that moves; ``X-Fleet-Done`` when it is over."""
        job = ExportJob.objects.select_related("destination", "schedule").filter(pk=pk).first()
        if not self.has_view_permission(request, job):
            raise PermissionDenied
        if job is None:
            raise Http404
        answer = render(
            request, "telemetry/exports/parts/progress.html", self._context(request, job)
        )
        answer.headers["X-Fleet-Done"] = "no" if job.is_open else "yes"
        return answer

    def _context(self, request: HttpRequest, job: ExportJob) -> dict[str, object]:
        moment = now()
        missing = lacking_for(request.user, job.datasets, also=DOWNLOAD)
        files = files_of(job, is_allowed=not missing)
        return {
            "job": job,
            "original": job,
            "opts": self.opts,
            "tone": TONES[job.state],
            "progress": progress_of(job, moment),
            "files": files,
            "missing": permission_names(missing),
            "what": datasets_words(job),
            "filters": filter_words(job),
            "kept": kept_words(job),
            "may_cancel": job.is_open and not job.cancel_asked_at and request.user.has_perm(CANCEL),
            "may_retry": job.state == ExportJob.State.FAILED and request.user.has_perm(ADD),
            "may_add": request.user.has_perm(ADD),
            "may_schedule": request.user.has_perm("telemetry.view_exportschedule"),
        }

    def cancel_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Ask, then stop it; audited."""
        job = ExportJob.objects.filter(pk=pk).first()
        if job is None:
            return gone(request, self.opts)
        if not request.user.has_perm(CANCEL) or not self.has_view_permission(request, job):
            raise PermissionDenied
        back = reverse(_PAGE, args=(pk,))
        if request.method == "POST":
            if cancel_job(pk, person_of(request)):
                job.refresh_from_db()
                messages.success(request, _("Being cancelled.") if job.is_open else _("Cancelled."))
            else:
                messages.warning(request, _("It was over already; nothing was cancelled."))
            return HttpResponseRedirect(back)
        context = {"job": job, "opts": self.opts, "what": datasets_words(job), "back": back}
        return page(request, "telemetry/exports/cancel.html", _("Cancel export"), context)

    def retry_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """POST: let one that failed go on where it stopped; audited."""
        if request.method != "POST" or not request.user.has_perm(ADD):
            raise PermissionDenied
        job = ExportJob.objects.filter(pk=pk).first()
        if job is None:
            return gone(request, self.opts)
        missing = lacking_for(request.user, job.datasets)
        if missing:
            raise PermissionDenied
        if retry_job(pk, person_of(request)):
            messages.success(request, _("It goes on where it stopped."))
        else:
            messages.warning(request, _("It has not failed; there is nothing to try again."))
        return HttpResponseRedirect(reverse(_PAGE, args=(pk,)))


def order_in(form: ExportForm) -> Order:
    """The order of a valid form."""
    start_at, end_at = form.ends
    data = form.cleaned_data
    return Order(
        datasets=tuple(data["datasets"]),
        fmt=data["fmt"],
        start_at=start_at,
        end_at=end_at,
        choice=form.choice,
        destination=data["destination"],
        keep_days=data["keep_days"],
        reason=data["reason"],
        is_gzipped=data["is_gzipped"],
    )


def _estimate(form: ExportForm) -> object:
    return estimate_of(form.chosen_datasets, form.choice, *form.ends)
