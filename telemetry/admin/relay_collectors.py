"""Collectors: how each of their signals stands, live; test, pause, back-fill, edit."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Count, Sum
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from fleet.admin.base import reason_of
from fleet.console.labels import label
from fleet.console.people import person_of
from fleet.lib.clock import now
from fleet.models import InstallGroup
from fleet.templatetags.fleet_format import duration_s, exact
from telemetry.admin.relay_base import (
    TargetAdmin,
    View,
    breaker_label,
    error_cell,
    switched_label,
)
from telemetry.admin.relay_forms import CollectorForm, TargetForm, collector_of
from telemetry.models import FeedEntry, RelayDestination, Signal
from telemetry.relay.state import RelayState, states
from telemetry.relay.test import test_destination
from telemetry.streams.manage import Target, add_target, change_target

TONES: Final = {
    "ok": "good",
    "off": "quiet",
    "new": "info",
    "catching_up": "info",
    "late": "warn",
    "retrying": "warn",
    "failing": "bad",
    "not_offered": "warn",
}
WORDS: Final = {
    "ok": gettext_lazy("keeps up"),
    "off": gettext_lazy("off"),
    "new": gettext_lazy("new"),
    "catching_up": gettext_lazy("catching up"),
    "late": gettext_lazy("behind"),
    "retrying": gettext_lazy("trying again"),
    "failing": gettext_lazy("failing"),
    "not_offered": gettext_lazy("not taken"),
}
_WORST: Final = tuple(reversed(TONES))
_MARKS: Final = {"ok": "good", "warn": "warn", "bad": "bad", "skipped": "quiet"}


class BackfillForm(forms.Form):
    """From when rows are sent once more."""

    since = forms.DateTimeField(
        label=gettext_lazy("Send rows received since (UTC)"),
        widget=forms.DateTimeInput(
            attrs={"class": "hf-input", "type": "datetime-local"}, format="%Y-%m-%dT%H:%M"
        ),
        input_formats=["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M"],
    )

    def clean_since(self) -> datetime:
        """A moment that lies behind us."""
        since: datetime = self.cleaned_data["since"].astimezone(UTC)
        if since >= now():
            raise forms.ValidationError(_("Choose a time that is over."))
        return since


@admin.register(RelayDestination)
class CollectorAdmin(TargetAdmin[RelayDestination]):
    """Where the fleet's telemetry goes on to."""

    list_display = ("title", "state", "lag", "waiting", "said", "signals", "address")
    search_fields = ("name", "endpoint")
    search_help_text = gettext_lazy("Search name or address")
    readonly_fields = ("name",)
    ordering = ("name",)
    form_class = CollectorForm
    page_template = "telemetry/relay/collector.html"
    state_template = "telemetry/relay/collector_state.html"
    form_template = "telemetry/relay/collector_form.html"
    list_before_template = "telemetry/relay/collectors_before.html"

    def _of(self, target: RelayDestination) -> list[RelayState]:
        """Its states, asked once for all columns of its row."""
        held: list[RelayState] | None = getattr(target, "relay_states", None)
        if held is None:
            held = states([target])
            target.relay_states = held  # type: ignore[attr-defined]  # lives with the row
        return held

    @admin.display(description=gettext_lazy("Signals"))
    def signals(self, target: RelayDestination) -> SafeString:
        """Which it gets, by which of the GenAI conventions."""
        return format_html(
            '<span class="hf-nowrap">{}</span><span class="hf-cause">{}</span>',
            self.signal_names(target),
            _("conventions %s") % target.get_profile_display(),
        )

    def signal_names(self, target: RelayDestination) -> str:
        """Which it gets, in words."""
        names = (("sends_traces", Signal.TRACES), ("sends_metrics", Signal.METRICS))
        chosen = [*names, ("sends_logs", Signal.LOGS)]
        return ", ".join(str(signal.label) for field, signal in chosen if getattr(target, field))

    @admin.display(description=gettext_lazy("State"))
    def state(self, target: RelayDestination) -> SafeString:
        """The worst of its signals."""
        if not target.is_enabled:
            return switched_label(target)
        found = self._of(target)
        if not found:
            return label(_("no signal"), "quiet")
        worst = min(found, key=lambda each: _WORST.index(each.word))
        return label(str(WORDS[worst.word]), TONES[worst.word], worst.text)

    @admin.display(description=gettext_lazy("Lag"))
    def lag(self, target: RelayDestination) -> str:
        """The longest."""
        lags = [each.lag_s for each in self._of(target) if each.lag_s is not None]
        return duration_s(max(lags)) if any(lags) else "–"

    @admin.display(description=gettext_lazy("Waiting"))
    def waiting(self, target: RelayDestination) -> str:
        """Rows of all signals."""
        return exact(sum(each.waiting_count for each in self._of(target)))

    @admin.display(description=gettext_lazy("Last error"))
    def said(self, target: RelayDestination) -> SafeString:
        """The newest, in words."""
        dated = [(each.last_error_at, each.last_error) for each in self._of(target)]
        errors = [(at, text) for at, text in dated if at is not None and text]
        at, text = max(errors, default=(None, ""))
        return error_cell(text, at)

    # ------------------------------------------------------------------------------- one page

    def more_views(self) -> tuple[tuple[str, View, str], ...]:
        """Back-fill."""
        return (("backfill", self.backfill_view, self._name("backfill")),)

    def state_context(self, request: HttpRequest, target: RelayDestination) -> dict[str, object]:
        """A row a signal."""
        rows = [
            {
                "state": each,
                "signal": Signal(each.signal).label,
                "label": label(str(WORDS[each.word]), TONES[each.word]),
                "breaker": breaker_label(each.breaker, each.failure_count),
                "lag": duration_s(each.lag_s) if each.lag_s else "–",
            }
            for each in states([target])
        ]
        return {"target": target, "rows": rows, "at": now()}

    def page_context(self, request: HttpRequest, target: RelayDestination) -> dict[str, object]:
        """Settings in words."""
        groups = InstallGroup.objects.filter(pk__in=target.group_ids).values_list("name", flat=True)
        return {
            "switched": switched_label(target),
            "signals": self.signal_names(target),
            "headers": sorted(target.headers_env.items()),
            "groups": ", ".join(groups) or _("all installs"),
            "backfill_url": self.url_of(target, "backfill"),
            "backfill": BackfillForm(initial={"since": target.since_at}),
            "steps": request.session.pop(_session_key(target), []),
        }

    def create(self, request: HttpRequest, form: TargetForm) -> RelayDestination:
        """A new one, from now on."""
        target = collector_of(form)
        reason = form.cleaned_data["reason"]
        add_target(target, actor=person_of(request), reason=reason)
        return target

    def run_test(self, request: HttpRequest, target: RelayDestination) -> None:
        """The whole way, step by step; the page shows the steps once."""
        report = test_destination(target, actor=person_of(request))
        request.session[_session_key(target)] = [
            {"title": step.title, "tone": _MARKS[step.mark], "text": step.text, "mark": step.mark}
            for step in report.steps
        ]
        if report.is_ok:
            messages.success(request, _("The collector took the test signal."))
        else:
            messages.error(request, _("The test failed: %s") % report.error)

    def backfill_view(self, request: HttpRequest, target: RelayDestination) -> HttpResponse:
        """Say how many rows that would be, then set it back; audited."""
        if not self.has_change_permission(request, target):
            raise PermissionDenied
        if request.method != "POST":
            return HttpResponseRedirect(self.url_of(target))
        form = BackfillForm(request.POST)
        if not form.is_valid():
            for text in form.errors.get("since", []):
                messages.error(request, str(text))
            return HttpResponseRedirect(self.url_of(target))
        since = form.cleaned_data["since"]
        if since >= target.since_at:
            at = f"{target.since_at:%Y-%m-%d %H:%M}"
            messages.warning(request, _("Rows since %s UTC are sent as it is.") % at)
            return HttpResponseRedirect(self.url_of(target))
        if "confirmed" in request.POST and reason_of(request):
            actor, reason = person_of(request), reason_of(request)
            change_target(target, {"since_at": since}, actor=actor, reason=reason)
            messages.success(request, _("Rows since then are sent, then it goes on as before."))
            return HttpResponseRedirect(self.url_of(target))
        return self._confirm(
            request,
            target,
            action="backfill",
            question=_("Send rows received since %s?") % f"{since:%Y-%m-%d %H:%M} UTC",
            consequence=backfill_in_words(since, target),
            button=_("Send them"),
            is_harmless=True,
            fields={"since": f"{since:%Y-%m-%dT%H:%M:%S}"},
        )


def _session_key(target: Target) -> str:
    return f"relay_test_{target.pk}"


def backfill_in_words(since: datetime, target: RelayDestination) -> str:
    """What a back-fill would send, as a person is told before it.

    Only what came before the time from which rows were sent until now: the rest was sent, or waits.
    """
    older = FeedEntry.objects.filter(received_at__gte=since, received_at__lt=target.since_at)
    found = older.aggregate(batches=Count("pk"), rows=Sum("row_count"))
    rows, batches = found["rows"] or 0, found["batches"] or 0
    parts = [
        ngettext("About %(rows)s row of", "About %(rows)s rows of", rows) % {"rows": exact(rows)}
        + " "
        + ngettext("%(count)s batch.", "%(count)s batches.", batches) % {"count": exact(batches)},
        _("They are those received before %s: what came later was sent, or waits already.")
        % f"{target.since_at:%Y-%m-%d %H:%M} UTC",
    ]
    if target.group_ids:
        parts.append(_("Of them only those of its groups."))
    if target.max_age_h:
        text = ngettext(
            "Rows older than %s hour are left out.",
            "Rows older than %s hours are left out.",
            target.max_age_h,
        )
        parts.append(text % exact(target.max_age_h))
    return " ".join(parts)
