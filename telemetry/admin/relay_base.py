"""What pages of collectors and streams share: form, test, pause, delete, the part that lives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import wraps
from typing import Any, ClassVar

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from fleet.admin.base import PageAdmin, confirm_page, gone, reason_of
from fleet.console.labels import label
from fleet.console.people import person_of
from fleet.console.rendering import page
from fleet.templatetags.fleet_format import ago, exact
from telemetry.admin.relay_forms import TargetForm
from telemetry.models import DeadLetter, RelayDestination, Stream
from telemetry.streams.manage import Target, change_target, delete_target, set_enabled

type View = Callable[[HttpRequest, Any], HttpResponse]  # Any: a collector or a stream


class TargetAdmin[T: (RelayDestination, Stream)](PageAdmin):
    """A list; a page for each with its live state; a form; nothing changes without a reason."""

    actions: ClassVar[None] = None  # type: ignore[misc]  # no bulk action: each has its own page
    list_display_links = ("title",)
    list_select_related = False
    form_class: type[TargetForm]
    page_template: str
    state_template: str
    form_template: str

    # ------------------------------------------------------------------------ of each its own

    def state_context(self, request: HttpRequest, target: T) -> dict[str, object]:
        """What the living part shows."""
        raise NotImplementedError

    def page_context(self, request: HttpRequest, target: T) -> dict[str, object]:
        """What stands around it."""
        raise NotImplementedError

    def create(self, request: HttpRequest, form: TargetForm) -> T:
        """Store what a valid form says."""
        raise NotImplementedError

    def run_test(self, request: HttpRequest, target: T) -> None:
        """Try the way there and say what came of it."""
        raise NotImplementedError

    # ------------------------------------------------------------------------------- the list

    @admin.display(description=gettext_lazy("Name"), ordering="name")
    def title(self, target: Target) -> SafeString:
        """Its name."""
        return format_html('<bdi class="hf-name hf-brief" title="{0}">{0}</bdi>', target.name)

    @admin.display(description=gettext_lazy("Address"), ordering="endpoint")
    def address(self, target: Target) -> SafeString:
        """Where it is."""
        return format_html(
            '<bdi class="hf-mono hf-name hf-brief" title="{0}">{0}</bdi>', target.endpoint
        )

    # ------------------------------------------------------------------------------- the pages

    def get_urls(self) -> list[URLPattern]:
        """The actions of one, beside the admin's own addresses."""
        views: tuple[tuple[str, View, str], ...] = (
            ("edit", self.edit_view, self._name("edit")),
            ("state", self.state_view, self._name("state")),
            ("test", self.test_view, self._name("test")),
            ("switch", self.switch_view, self._name("switch")),
            ("remove", self.remove_view, self._name("remove")),
            *self.more_views(),
        )
        own: list[URLPattern] = [
            path(f"<int:pk>/{word}/", self.admin_site.admin_view(self._of_one(view)), name=name)
            for word, view, name in views
        ]
        return [*own, *super().get_urls()]

    def more_views(self) -> tuple[tuple[str, View, str], ...]:
        """Actions that only one kind has."""
        return ()

    def _name(self, word: str) -> str:
        return f"{self.opts.app_label}_{self.opts.model_name}_{word}"

    def url_of(self, target: Target, word: str = "change") -> str:
        """An address of one's page or action."""
        return reverse(f"admin:{self._name(word)}", args=(target.pk,))

    def _of_one(self, view: View) -> Callable[..., HttpResponse]:
        """The view with its row, for whoever may see it; back to the list when it is gone."""

        @wraps(view)
        def with_row(request: HttpRequest, pk: int) -> HttpResponse:
            if not self.has_view_permission(request):
                raise PermissionDenied
            target = self.get_queryset(request).filter(pk=pk).first()
            return gone(request, self.opts) if target is None else view(request, target)

        return with_row

    def has_test_permission(self, request: HttpRequest) -> bool:
        """Who may send a test."""
        return request.user.has_perm(f"telemetry.test_{self.opts.model_name}")

    def show(self, request: HttpRequest, target: T) -> HttpResponse:
        """One: what it does, how it stands, what can be done."""
        letters = letters_of(target)
        context: dict[str, object] = {
            "target": target,
            "opts": self.opts,
            "state_template": self.state_template,
            "live_url": self.url_of(target, "state"),
            "edit_url": self.url_of(target, "edit"),
            "test_url": self.url_of(target, "test"),
            "switch_url": self.url_of(target, "switch"),
            "remove_url": self.url_of(target, "remove"),
            "letters": letters[:5],
            "letter_count": letters.count(),
            "letters_url": letters_url(target),
            "may_change": self.has_change_permission(request, target),
            "may_delete": self.has_delete_permission(request, target),
            "may_test": self.has_test_permission(request),
            **self.state_context(request, target),
            **self.page_context(request, target),
        }
        return page(request, self.page_template, target.name, context)

    def state_view(self, request: HttpRequest, target: T) -> HttpResponse:
        """The living part alone, for the script that asks again."""
        answer = page(request, self.state_template, "", self.state_context(request, target))
        answer.headers["Cache-Control"] = "no-store"
        return answer

    def show_new(self, request: HttpRequest) -> HttpResponse:
        """A new one."""
        form = self.form_class(request.POST if request.method == "POST" else None, None)
        if request.method == "POST" and form.is_valid():
            target = self.create(request, form)
            messages.success(request, _("Added. Test it to see whether it is reached."))
            return HttpResponseRedirect(self.url_of(target))
        title = _("Add %s") % self.opts.verbose_name
        return self._form_page(request, form, title)

    def edit_view(self, request: HttpRequest, target: T) -> HttpResponse:
        """Change one."""
        if not self.has_change_permission(request, target):
            raise PermissionDenied
        form = self.form_class(request.POST if request.method == "POST" else None, target)
        if request.method == "POST" and form.is_valid():
            is_changed = change_target(
                target,
                form.values(),
                actor=person_of(request),
                reason=form.cleaned_data["reason"],
            )
            messages.success(request, _("Saved.") if is_changed else _("Nothing was changed."))
            return HttpResponseRedirect(self.url_of(target))
        return self._form_page(request, form, _("Edit %s") % target.name)

    def _form_page(self, request: HttpRequest, form: TargetForm, title: str) -> HttpResponse:
        target = form.target
        back = self.url_of(target) if target else reverse(f"admin:{self._name('changelist')}")
        context = {"form": form, "opts": self.opts, "target": target, "back_url": back}
        return page(request, self.form_template, title, context)

    def test_view(self, request: HttpRequest, target: T) -> HttpResponse:
        """Send a test; the page then says what came of it."""
        if not self.has_test_permission(request):
            raise PermissionDenied
        if request.method == "POST":
            self.run_test(request, target)
        return HttpResponseRedirect(self.url_of(target))

    def switch_view(self, request: HttpRequest, target: T) -> HttpResponse:
        """Pause or go on, after a reason."""
        if not self.has_change_permission(request, target):
            raise PermissionDenied
        if request.method != "POST":
            return HttpResponseRedirect(self.url_of(target))
        reason = reason_of(request)
        if "confirmed" in request.POST and reason:
            is_on = request.POST.get("action") == "resume"
            set_enabled(target, is_enabled=is_on, actor=person_of(request), reason=reason)
            messages.success(request, _("It goes on.") if is_on else _("Paused."))
            return HttpResponseRedirect(self.url_of(target))
        is_pause = target.is_enabled
        return self._confirm(
            request,
            target,
            action="pause" if is_pause else "resume",
            question=(_("Pause %s?") if is_pause else _("Resume %s?")) % target.name,
            consequence=_("Nothing is sent until somebody resumes it. What comes in is kept.")
            if is_pause
            else _("It goes on where it stopped, with what is still kept."),
            button=_("Pause") if is_pause else _("Resume"),
            is_harmless=True,
        )

    def delete_view(
        self,
        request: HttpRequest,
        object_id: str,
        extra_context: dict[str, object] | None = None,
    ) -> HttpResponse:
        """The admin's own page has no reason: to ours."""
        target = self.get_object(request, object_id)
        if target is None:
            return gone(request, self.opts)
        return HttpResponseRedirect(self.url_of(target))

    def remove_view(self, request: HttpRequest, target: T) -> HttpResponse:
        """Delete, after a reason."""
        if not self.has_delete_permission(request, target):
            raise PermissionDenied
        if request.method != "POST":
            return HttpResponseRedirect(self.url_of(target))
        reason = reason_of(request)
        if "confirmed" in request.POST and reason:
            delete_target(target, actor=person_of(request), reason=reason)
            messages.success(request, _("%s was deleted.") % target.name)
            return HttpResponseRedirect(reverse(f"admin:{self._name('changelist')}"))
        count = letters_of(target).count()
        return self._confirm(
            request,
            target,
            action="remove",
            question=_("Delete %s?") % target.name,
            consequence=_(
                "Its counts, its position and its dead letters (%(count)s) go with it. Nothing of "
                "what was received here is deleted."
            )
            % {"count": exact(count)},
            button=_("Delete"),
            is_harmless=False,
        )

    def _confirm(
        self,
        request: HttpRequest,
        target: Target,
        *,
        action: str,
        question: str,
        consequence: str,
        button: str,
        is_harmless: bool,
        fields: Mapping[str, str] | None = None,
    ) -> HttpResponse:
        return confirm_page(
            request,
            action=action,
            title=target.name,
            question=question,
            consequence=consequence,
            button=button,
            queryset=type(target).objects.filter(pk=target.pk),
            extra={
                "is_harmless": is_harmless,
                "cancel_url": self.url_of(target),
                "opts": self.opts,
                "fields": dict(fields or {}),
            },
        )


def letters_of(target: Target) -> QuerySet[DeadLetter]:
    """The dead letters that can still be sent again, newest first, without their bodies."""
    field = "destination" if isinstance(target, RelayDestination) else "stream"
    found = DeadLetter.objects.filter(**{field: target, "replayed_at": None})
    return found.defer("body").order_by("-pk")


def letters_url(target: Target) -> str:
    """The list of them."""
    field = "destination" if isinstance(target, RelayDestination) else "stream"
    where = reverse("admin:telemetry_deadletter_changelist")
    return f"{where}?{field}={target.pk}"


def switched_label(target: Target) -> SafeString:
    """Enabled or paused."""
    return label(_("on"), "good") if target.is_enabled else label(_("paused"), "quiet")


def error_cell(text: str, at: datetime | None) -> SafeString:
    """A list's cell of the last error and when it was."""
    if not text:
        return format_html("{}", "–")
    return format_html(
        '<bdi class="hf-name" title="{0}">{0}</bdi><span class="hf-cause">{1}</span>', text, ago(at)
    )


def breaker_label(state: str, tries: int) -> SafeString:
    """A breaker in words."""
    if state == "open":
        return label(_("waits"), "bad", _("%s failures in a row") % exact(tries))
    if state == "half_open":
        return label(_("tries one"), "warn", _("%s failures in a row") % exact(tries))
    return label(_("closed"), "good")
