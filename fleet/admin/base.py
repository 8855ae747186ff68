"""What all our model admins share: defaults, facts without editing, confirmation pages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from django.contrib import messages
from django.contrib.admin import ActionLocation
from django.contrib.admin import ModelAdmin as DjangoAdmin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.core.exceptions import PermissionDenied
from django.db import models
from django.db.models.options import Options
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path, reverse
from django.utils.translation import gettext as _

from fleet.console.rendering import page

if TYPE_CHECKING:
    ThemedAdmin = DjangoAdmin[Any]  # Any: each subclass says its model with its methods
else:
    from unfold.admin import ModelAdmin as ThemedAdmin

OwnView = tuple[str, Callable[..., HttpResponse], str]
"""A route below the model's own, what answers there, and the word in its name."""
PAGE_ROWS = 50
"""One screen and a half; a list of 50 renders in well under 100 ms."""
MAX_REASON_CHARS = 300


class ConsoleAdmin(ThemedAdmin):
    """A model admin with the console's defaults."""

    list_per_page = PAGE_ROWS
    list_fullwidth = True
    list_filter_submit = False
    compressed_fields = True
    empty_value_display = "–"

    def get_action_choices(
        self,
        request: HttpRequest,
        default_choices: list[tuple[str, str]] | None = None,
        action_location: ActionLocation = ActionLocation.CHANGE_LIST,
    ) -> list[tuple[str, str]]:
        """The bulk actions; the theme's own override lacks Django 6.1's last parameter."""
        first = default_choices or [("", _("Select action"))]
        return DjangoAdmin.get_action_choices(self, request, first, action_location)


class PageAdmin(ConsoleAdmin):
    """Each row has a page of ours instead of a form: ``show`` draws it for whoever may see it."""

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, object] | None = None,
    ) -> HttpResponse:
        """A row's page; back to the list with a word when the row is gone."""
        row = self.get_object(request, object_id)
        if row is None:
            return gone(request, self.opts)
        if not self.has_view_permission(request, row):
            raise PermissionDenied
        return self.show(request, row)

    def add_view(
        self,
        request: HttpRequest,
        form_url: str = "",
        extra_context: dict[str, object] | None = None,
    ) -> HttpResponse:
        """The page that makes a row, for whoever may."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        return self.show_new(request)

    def show_new(self, request: HttpRequest) -> HttpResponse:
        """The form of a row that is not there yet, GET and POST. Without one, the theme's own."""
        return super().add_view(request)

    def own_urls(self, *own: OwnView) -> list[URLPattern]:
        """Addresses beside the usual ones, named ``admin:<app>_<model>_<word>``."""
        view, stem = self.admin_site.admin_view, f"{self.opts.app_label}_{self.opts.model_name}"
        return [path(route, view(to), name=f"{stem}_{word}") for route, to, word in own]

    def show(self, request: HttpRequest, row: Any) -> HttpResponse:  # noqa: ANN401  # the subclass says its model
        """The page of one row. A subclass without one keeps the theme's read-only form."""
        return super().change_view(request, str(row.pk))


class FactAdmin(PageAdmin):
    """Records of fact: they can be looked at, and nothing else."""

    actions: Sequence[str] | None = None

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Never: the system writes them."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        """Never."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        """Never."""
        return False


def gone(request: HttpRequest, opts: Options[models.Model]) -> HttpResponseRedirect:
    """Back to the list, with a word about the row that is not there."""
    text = _("This %s does not exist (any more).") % opts.verbose_name
    messages.warning(request, text)
    return HttpResponseRedirect(reverse(f"admin:{opts.app_label}_{opts.model_name}_changelist"))


def reason_of(request: HttpRequest) -> str:
    """The reason that was typed, cut to what an audit row holds."""
    return request.POST.get("reason", "").replace("\0", "").strip()[:MAX_REASON_CHARS]


def confirm_page(
    request: HttpRequest,
    *,
    action: str,
    title: str,
    question: str,
    consequence: str,
    button: str,
    queryset: models.QuerySet[models.Model],
    extra: dict[str, object] | None = None,
) -> HttpResponse:
    """Ask before a bulk action: the exact count, some names, a required reason.

    The form posts back to the same list with the same selection and ``confirmed``.
    """
    selected = request.POST.getlist(ACTION_CHECKBOX_NAME)
    context: dict[str, object] = {
        "action": action,
        "question": question,
        "consequence": consequence,
        "button": button,
        "count": queryset.count(),
        "examples": [str(item) for item in queryset[:10]],
        "selected": selected,
        "checkbox_name": ACTION_CHECKBOX_NAME,
        "select_across": request.POST.get("select_across", "0"),
        "reason": reason_of(request),
        "needs_reason": "confirmed" in request.POST,
        **(extra or {}),
    }
    return page(request, "fleet/confirm.html", title, context)
