"""Groups of installs: how many, how they fare, which pins they have."""

from __future__ import annotations

from django.contrib import admin
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from fleet.admin.auditing import AuditedAdmin
from fleet.models import InstallGroup, InstallStatus
from fleet.templatetags.fleet_format import ago, count


@admin.register(InstallGroup)
class InstallGroupAdmin(AuditedAdmin):
    """Named sets of installs that are governed alike."""

    list_display = ("name", "description", "install_count", "in_sync_count", "pin_count", "made")
    list_select_related = False
    search_fields = ("name", "description")
    search_help_text = _("Search name or description")
    readonly_fields = ("created_at",)
    fields = ("name", "description", "created_at")
    audit_fields = ("name", "description")

    def get_queryset(self, request: HttpRequest) -> QuerySet[InstallGroup]:
        """With the counts the list shows."""
        active = Q(installs__status=InstallStatus.ACTIVE)
        rows: QuerySet[InstallGroup] = super().get_queryset(request)
        return rows.annotate(
            installs_number=Count("installs", filter=active, distinct=True),
            synced_number=Count(
                "installs", filter=active & Q(installs__sync_state="in_sync"), distinct=True
            ),
            pins_number=Count("pins", distinct=True),
        )

    @admin.display(description=_("Active installs"), ordering="installs_number")
    def install_count(self, group: InstallGroup) -> SafeString:
        """Number with the way to the list."""
        return format_html(
            '<a class="hf-link" href="{}?group__id__exact={}">{}</a>',
            reverse("admin:fleet_install_changelist"),
            group.pk,
            count(getattr(group, "installs_number", 0)),
        )

    @admin.display(description=_("In sync"))
    def in_sync_count(self, group: InstallGroup) -> str:
        """Of the active ones."""
        return count(getattr(group, "synced_number", 0))

    @admin.display(description=_("Pins"), ordering="pins_number")
    def pin_count(self, group: InstallGroup) -> SafeString:
        """Number with the way to the list."""
        return format_html(
            '<a class="hf-link" href="{}?group__id__exact={}">{}</a>',
            reverse("admin:fleet_pin_changelist"),
            group.pk,
            count(getattr(group, "pins_number", 0)),
        )

    @admin.display(description=_("Created"), ordering="created_at")
    def made(self, group: InstallGroup) -> SafeString:
        """Distance to now."""
        return ago(group.created_at)
