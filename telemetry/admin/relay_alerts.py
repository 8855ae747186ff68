"""Alerts: what needs a person now, what did, and where to look."""

from __future__ import annotations

from typing import Final

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from fleet.admin.base import FactAdmin
from fleet.console.labels import label
from fleet.console.rendering import page
from fleet.templatetags.fleet_format import ago
from telemetry.models import AlertEvent
from telemetry.streams.alerts import open_alerts

HISTORY_SHOWN: Final = 20
_PLACES: Final = {
    "install": "admin:fleet_install_changelist",
    "policy": "admin:console-sync",
    "probe": "admin:console-health",
    "export": "admin:telemetry_exportjob_changelist",
    "relay": "admin:telemetry_relaydestination_change",
    "stream": "admin:telemetry_stream_change",
}
_TONES: Final = {"bad": "bad", "warn": "warn"}


@admin.register(AlertEvent)
class AlertAdmin(FactAdmin):
    """What began to need a person, and what is over."""

    list_display = ("when", "state_label", "said", "severity_label")
    list_display_links = ("when",)
    list_select_related = False
    list_filter = ("state", "severity")
    search_fields = ("key", "text")
    search_help_text = gettext_lazy("Search key or text")
    readonly_fields = ("key",)
    ordering = ("-id",)
    list_before_template = "telemetry/relay/alerts_before.html"

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, object] | None = None
    ) -> HttpResponse:
        """The list under what is open now."""
        rows = [
            {"alert": alert, "tone": tone_of(alert), "url": place_of(alert.key)}
            for alert in (open_alerts() if self.has_view_permission(request) else [])
        ]
        return super().changelist_view(request, {"open": rows, **(extra_context or {})})

    @admin.display(description=gettext_lazy("When"), ordering="at")
    def when(self, alert: AlertEvent) -> SafeString:
        """Distance to now."""
        return format_html('<span class="hf-nowrap">{}</span>', ago(alert.at))

    @admin.display(description=gettext_lazy("What happened"), ordering="state")
    def state_label(self, alert: AlertEvent) -> SafeString:
        """Raised or cleared."""
        if alert.state == AlertEvent.State.CLEARED:
            return label(alert.get_state_display(), "good")
        return label(alert.get_state_display(), tone_of(alert))

    @admin.display(description=gettext_lazy("Text"), ordering="text")
    def said(self, alert: AlertEvent) -> SafeString:
        """The sentence; its key beside it."""
        return format_html(
            '<span class="hf-said"><bdi>{}</bdi><span class="hf-cause hf-mono">{}</span></span>',
            alert.text,
            alert.key,
        )

    @admin.display(description=gettext_lazy("Severity"), ordering="severity")
    def severity_label(self, alert: AlertEvent) -> SafeString:
        """In a word."""
        return format_html('<span class="hf-nowrap">{}</span>', severity_word(alert.severity))

    def show(self, request: HttpRequest, alert: AlertEvent) -> HttpResponse:
        """One, with what went before it under the same key."""
        history = AlertEvent.objects.filter(key=alert.key).order_by("-pk")[:HISTORY_SHOWN]
        context: dict[str, object] = {
            "alert": alert,
            "opts": self.opts,
            "label": self.state_label(alert),
            "severity": severity_word(alert.severity),
            "place": place_of(alert.key),
            "history": [{"alert": each, "label": self.state_label(each)} for each in history],
        }
        return page(request, "telemetry/relay/alert.html", _("Alert"), context)


def severity_word(severity: str) -> str:
    """A severity in words."""
    words = {"bad": _("bad"), "warn": _("warning"), "info": _("for information")}
    return words.get(severity, severity)


def tone_of(alert: AlertEvent) -> str:
    """The tone of a raised alert's label."""
    return _TONES.get(alert.severity, "info")


def place_of(key: str) -> str:
    """The page where something can be done about a key; "" when none is known."""
    word, _colon, rest = key.partition(":")
    view = _PLACES.get(word.partition("_")[0])
    if view is None:
        return ""
    pk = rest.partition(":")[0]
    try:
        return reverse(view, args=(pk,) if view.endswith("_change") else ())
    except NoReverseMatch:
        return ""  # that page comes with another part of the console
