"""Destinations of exports: the list, a page each with its typed form, and the test."""

from __future__ import annotations

from typing import Final

from django.conf import settings
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db import IntegrityError, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from fleet.admin.base import PageAdmin, gone
from fleet.audit import record_change, snapshot
from fleet.console.labels import label, plain_label
from fleet.console.people import person_of
from fleet.console.rendering import page
from fleet.lib.clock import now
from fleet.templatetags.fleet_format import ago
from telemetry.exports.destinations import test_destination
from telemetry.models.exports import ExportDestination, ExportJob, ExportSchedule
from telemetry.pages.exports_place import FIELDS, DestinationForm, initial_place, place_words

TEST: Final = "telemetry.test_exportdestination"
_PAGE: Final = "admin:telemetry_exportdestination_change"


@admin.register(ExportDestination)
class ExportDestinationAdmin(PageAdmin):
    """Folders and object stores that results go to."""

    list_display = ("title", "state", "kind_label", "place", "tested")
    list_display_links = ("title",)
    list_select_related = False
    list_filter = ("kind", "is_enabled")
    search_fields = ("name", "folder", "bucket")
    search_help_text = gettext_lazy("Search name, folder or bucket")
    readonly_fields = ()
    actions = None  # each has its page, where what it does is said before
    ordering = ("name",)
    list_before_template = "telemetry/exports/places_before.html"

    def has_delete_permission(self, request: HttpRequest, obj: object = None) -> bool:
        """Switched off, not deleted: exports and schedules name it."""
        return False

    def get_urls(self) -> list[URLPattern]:
        """One more: the test."""
        own = self.own_urls(("<int:pk>/test/", self.test_view, "test"))
        return [*own, *super().get_urls()]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, object] | None = None
    ) -> HttpResponse:
        """The list; without any destination, what they are for."""
        none_yet = self.has_view_permission(request) and not ExportDestination.objects.exists()
        context: dict[str, object] = {
            "may_add": self.has_add_permission(request),
            "is_fresh": none_yet,
        }
        return super().changelist_view(request, {**context, **(extra_context or {})})

    @admin.display(description=gettext_lazy("Destination"), ordering="name")
    def title(self, destination: ExportDestination) -> SafeString:
        """Its name."""
        return format_html('<bdi class="hf-name" title="{0}">{0}</bdi>', destination.name)

    @admin.display(description=gettext_lazy("State"), ordering="is_enabled")
    def state(self, destination: ExportDestination) -> SafeString:
        """On, off, or failing its last test."""
        return state_of(destination)

    @admin.display(description=gettext_lazy("Kind"), ordering="kind")
    def kind_label(self, destination: ExportDestination) -> SafeString:
        """Folder or S3."""
        return plain_label(destination.get_kind_display())

    @admin.display(description=gettext_lazy("Where"))
    def place(self, destination: ExportDestination) -> SafeString:
        """Path or bucket."""
        text = place_words(destination)
        return format_html('<bdi class="hf-mono hf-name" title="{0}">{0}</bdi>', text)

    @admin.display(description=gettext_lazy("Tested"), ordering="tested_at")
    def tested(self, destination: ExportDestination) -> SafeString:
        """Distance to now."""
        return ago(destination.tested_at)

    def show_new(self, request: HttpRequest) -> HttpResponse:
        """A new one."""
        return self._edit(request, ExportDestination(), is_new=True)

    def show(self, request: HttpRequest, destination: ExportDestination) -> HttpResponse:
        """One destination: what its test said, and its form for who may change it."""
        if request.method == "POST" and not self.has_change_permission(request, destination):
            raise PermissionDenied
        return self._edit(request, destination, is_new=False)

    def _edit(
        self, request: HttpRequest, destination: ExportDestination, *, is_new: bool
    ) -> HttpResponse:
        initial = {} if is_new else initial_place(destination)
        form = DestinationForm(request.POST or None, initial=initial)
        if request.method == "POST" and form.is_valid():
            saved = _saved(request, form, destination, is_new=is_new)
            if saved is not None:
                messages.success(request, _("Saved. Test it before an export needs it."))
                return HttpResponseRedirect(reverse(_PAGE, args=(saved.pk,)))
        used = {} if is_new else {"jobs": _jobs(destination), "schedules": _schedules(destination)}
        context: dict[str, object] = {
            "form": form,
            "opts": self.opts,
            "destination": None if is_new else destination,
            "original": None if is_new else destination,
            "place": "" if is_new else place_words(destination),
            "state": "" if is_new else state_of(destination),
            "roots": list(settings.FLEET_EXPORT_FOLDERS),
            "hosts": list(settings.FLEET_S3_HOSTS),
            "may_change": is_new or self.has_change_permission(request, destination),
            "may_test": not is_new and request.user.has_perm(TEST),
            **used,
        }
        title = _("New destination") if is_new else initial_place(destination)["name"]
        return page(request, "telemetry/exports/place.html", str(title), context)

    def test_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """POST: write, read and remove a small file; say in words what came of it; audited."""
        if request.method != "POST" or not request.user.has_perm(TEST):
            raise PermissionDenied
        destination = ExportDestination.objects.filter(pk=pk).first()
        if destination is None:
            return gone(request, self.opts)
        problem = test_destination(destination)
        with transaction.atomic():
            found = ExportDestination.objects.filter(pk=pk)
            found.update(tested_at=now(), test_error=problem[:300])
            record_change(
                actor=person_of(request),
                action="exportdestination.test",
                target=destination,
                pre=snapshot(destination, FIELDS),
                post={"problem": problem},
            )
        if problem:
            messages.error(request, _("The test failed: %s") % problem)
        else:
            messages.success(request, _("It works: a small file was written, read and removed."))
        return HttpResponseRedirect(reverse(_PAGE, args=(pk,)))


def state_of(destination: ExportDestination) -> SafeString:
    """On, off, never tested, or failing its last test."""
    if not destination.is_enabled:
        return label(_("Off"), "quiet")
    if destination.test_error:
        return label(_("Test failed"), "bad", destination.test_error)
    if destination.tested_at is None:
        return label(_("Never tested"), "warn")
    return label(_("Works"), "good")


def _saved(
    request: HttpRequest,
    form: DestinationForm,
    destination: ExportDestination,
    *,
    is_new: bool,
) -> ExportDestination | None:
    before = {} if is_new else snapshot(destination, FIELDS)
    form.fill(destination)
    if not is_new and before != snapshot(destination, FIELDS):
        # What was tested is not what it is now.
        destination.tested_at, destination.test_error = None, ""
    elif is_new:
        destination.created_at = now()
    try:
        with transaction.atomic():
            destination.save()
            record_change(
                actor=person_of(request),
                action="create" if is_new else "update",
                target=destination,
                pre=before,
                post=snapshot(destination, FIELDS),
            )
    except IntegrityError:
        form.add_error("name", _("Another destination has this name."))
        return None
    return destination


def _jobs(destination: ExportDestination) -> int:
    return ExportJob.objects.filter(destination=destination).count()


def _schedules(destination: ExportDestination) -> int:
    return ExportSchedule.objects.filter(destination=destination).count()
