"""The audit log, read-only."""

from __future__ import annotations

import json

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from fleet.admin.base import FactAdmin
from fleet.console.diff import changed_leaves
from fleet.console.labels import plain_label
from fleet.console.rendering import page
from fleet.models import ChangeRecord
from fleet.templatetags.fleet_format import ago, words


@admin.register(ChangeRecord)
class ChangeRecordAdmin(FactAdmin):
    """Who changed what, when and why; the newest first."""

    list_display = ("when", "actor", "what", "object_type", "name", "reason_text")
    list_display_links = ("when", "name")
    list_select_related = False
    search_fields = ("actor", "object_label", "object_id", "reason")
    search_help_text = gettext_lazy("Search who, object or reason")
    list_filter = ("action", "object_type")
    readonly_fields = ("at", "actor", "action", "object_type", "object_label", "reason")
    date_hierarchy = None

    @admin.display(description=gettext_lazy("When"), ordering="at")
    def when(self, record: ChangeRecord) -> SafeString:
        """Distance to now."""
        return ago(record.at)

    @admin.display(description=gettext_lazy("Action"), ordering="action")
    def what(self, record: ChangeRecord) -> SafeString:
        """The action in words."""
        return plain_label(words(record.action))

    @admin.display(description=gettext_lazy("Object"))
    def name(self, record: ChangeRecord) -> SafeString:
        """The object's name at that time."""
        return format_html('<bdi class="hf-name" title="{0}">{0}</bdi>', record.object_label)

    @admin.display(description=gettext_lazy("Reason"))
    def reason_text(self, record: ChangeRecord) -> SafeString:
        """The stated reason, cut by the style sheet."""
        return format_html('<span class="hf-name" title="{0}">{0}</span>', record.reason or "–")

    def show(self, request: HttpRequest, record: ChangeRecord) -> HttpResponse:
        """One change with its values before and after, leaf by leaf."""
        context = {
            "record": record,
            "opts": self.opts,
            "leaves": changed_leaves(record.pre, record.post),
            "pre": json.dumps(record.pre, indent=2, ensure_ascii=False),
            "post": json.dumps(record.post, indent=2, ensure_ascii=False),
        }
        return page(request, "fleet/change.html", _("Change"), context)
