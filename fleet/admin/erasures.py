"""Erasures: what was forgotten, by whom and why, with the signed report of each."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from fleet.admin.base import FactAdmin, gone
from fleet.console.labels import label
from fleet.console.rendering import page
from fleet.models import Erasure
from fleet.templatetags.fleet_format import ago, exact


@admin.register(Erasure)
class ErasureAdmin(FactAdmin):
    """Every erased install; the rows stay as tombstones."""

    list_display = ("requested", "install", "progress", "rows", "requested_by", "reason", "file")
    list_display_links = ("install",)
    list_select_related = False
    list_filter = ("state",)
    search_fields = ("=install_id", "requested_by", "reason")
    search_help_text = gettext_lazy("Search a whole install id, who asked, or the reason")
    readonly_fields = ("install_id",)
    ordering = ("-requested_at",)

    def get_urls(self) -> list[Any]:  # Any: the admin's own patterns and resolvers
        """The page of each, and its report as a file."""
        own = self.own_urls(("<uuid:install_id>/report/", self.report_view, "report"))
        return [*own, *super().get_urls()]

    @admin.display(description=gettext_lazy("Requested"), ordering="requested_at")
    def requested(self, item: Erasure) -> SafeString:
        """Distance to now."""
        return ago(item.requested_at)

    @admin.display(description=gettext_lazy("Install"))
    def install(self, item: Erasure) -> SafeString:
        """Its id: nothing else of it is known any more."""
        return format_html('<span class="hf-mono">{}</span>', item.install_id)

    @admin.display(description=gettext_lazy("State"), ordering="state")
    def progress(self, item: Erasure) -> SafeString:
        """Under way or done."""
        return label(str(item.get_state_display()), "good" if item.is_done else "info")

    @admin.display(description=gettext_lazy("Rows erased"))
    def rows(self, item: Erasure) -> str:
        """Of all tables."""
        return exact(sum((item.counts_before or {}).values()))

    @admin.display(description=gettext_lazy("Report"))
    def file(self, item: Erasure) -> SafeString | str:
        """The signed report, once there is one."""
        if not item.report:
            return "–"
        url = reverse("admin:fleet_erasure_report", args=(item.pk,))
        return format_html('<a class="hf-link" href="{}">{}</a>', url, _("Download"))

    def show(self, request: HttpRequest, erasure: Erasure) -> HttpResponse:
        """What went, table by table."""
        before, after = erasure.counts_before or {}, erasure.counts_after or {}
        rows = [
            (table, count, after.get(table)) for table, count in sorted(before.items()) if count
        ]
        context: dict[str, object] = {"erasure": erasure, "opts": self.opts, "rows": rows}
        return page(request, "fleet/erasure.html", _("Erasure"), context)

    def report_view(self, request: HttpRequest, install_id: UUID) -> HttpResponse:
        """The signed report, as `fleet_erase --verify` reads it."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        erasure = Erasure.objects.filter(pk=install_id).exclude(report="").first()
        if erasure is None:
            return gone(request, self.opts)
        name = f"erasure-{erasure.pk}.json"
        return HttpResponse(
            erasure.report + "\n",
            content_type="application/json",
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
        )
