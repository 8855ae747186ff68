"""Streams: where the audit log and alerts go, how each stands; test, pause, edit."""

from __future__ import annotations

from django.contrib import admin, messages
from django.http import HttpRequest
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from fleet.console.labels import label
from fleet.console.people import person_of
from fleet.lib.clock import now
from fleet.templatetags.fleet_format import duration_s, exact
from telemetry.admin.relay_base import TargetAdmin, breaker_label, error_cell, switched_label
from telemetry.admin.relay_forms import StreamForm, TargetForm
from telemetry.delivery.breaker import state_of
from telemetry.models import Stream
from telemetry.streams.manage import add_stream
from telemetry.streams.send import try_stream, waiting_count
from telemetry.streams.states import LAG_RAISED_S, stream_lag_s


@admin.register(Stream)
class StreamAdmin(TargetAdmin[Stream]):
    """Where the audit log and alerts go as they happen."""

    list_display = ("title", "state", "lag", "waiting", "said", "kind_label", "chosen", "address")
    search_fields = ("name", "endpoint")
    search_help_text = gettext_lazy("Search name or address")
    readonly_fields = ("name",)
    ordering = ("name",)
    form_class = StreamForm
    page_template = "telemetry/relay/stream.html"
    state_template = "telemetry/relay/stream_state.html"
    form_template = "telemetry/relay/stream_form.html"
    list_before_template = "telemetry/relay/streams_before.html"

    @admin.display(description=gettext_lazy("Kind"), ordering="kind")
    def kind_label(self, stream: Stream) -> str:
        """How it is sent."""
        return stream.get_kind_display()

    @admin.display(description=gettext_lazy("Sends"))
    def chosen(self, stream: Stream) -> str:
        """The audit log, alerts or both."""
        parts = [_("audit log")] if stream.sends_audit else []
        return ", ".join([*parts, *([_("alerts")] if stream.sends_alerts else [])])

    @admin.display(description=gettext_lazy("State"))
    def state(self, stream: Stream) -> SafeString:
        """Whether it keeps up."""
        return stream_label(stream)

    @admin.display(description=gettext_lazy("Lag"))
    def lag(self, stream: Stream) -> str:
        """The age of what waits longest."""
        lag_s = stream_lag_s(stream, now())
        return "–" if lag_s is None else duration_s(lag_s)

    @admin.display(description=gettext_lazy("Waiting"))
    def waiting(self, stream: Stream) -> str:
        """Records that were not sent yet."""
        return exact(waiting_count(stream))

    @admin.display(description=gettext_lazy("Last error"), ordering="last_error_at")
    def said(self, stream: Stream) -> SafeString:
        """In words."""
        return error_cell(stream.last_error, stream.last_error_at)

    def state_context(self, request: HttpRequest, target: Stream) -> dict[str, object]:
        """Counts, lag, what is wrong and what to do."""
        moment = now()
        breaker = state_of(target.failure_count, target.open_until, moment)
        lag_s = stream_lag_s(target, moment)
        return {
            "target": target,
            "label": stream_label(target),
            "breaker": breaker_label(breaker, target.failure_count),
            "is_failing": bool(target.failure_count),
            "lag": "–" if lag_s is None else duration_s(lag_s),
            "waiting": waiting_count(target),
            "at": moment,
        }

    def page_context(self, request: HttpRequest, target: Stream) -> dict[str, object]:
        """Settings in words."""
        return {
            "switched": switched_label(target),
            "chosen": self.chosen(target),
            "headers": sorted(target.headers_env.items()),
        }

    def create(self, request: HttpRequest, form: TargetForm) -> Stream:
        """A new one, from now on or with everything there is."""
        stream = Stream(**form.values())
        add_stream(
            stream,
            from_start=form.cleaned_data["starts"] == "all",
            actor=person_of(request),
            reason=form.cleaned_data["reason"],
        )
        return stream

    def run_test(self, request: HttpRequest, target: Stream) -> None:
        """One record that says what it is."""
        error = try_stream(target, actor=person_of(request))
        if error:
            messages.error(request, _("The test failed: %s") % error)
        else:
            messages.success(request, _("The receiver took the test record."))


def stream_label(stream: Stream) -> SafeString:
    """How a stream stands in a word."""
    if not stream.is_enabled:
        return switched_label(stream)
    breaker = state_of(stream.failure_count, stream.open_until, now())
    if breaker != "closed":
        return label(_("failing"), "bad", stream.last_error)
    if stream.failure_count:
        return label(_("trying again"), "warn", stream.last_error)
    if (stream_lag_s(stream, now()) or 0) > LAG_RAISED_S:
        return label(_("behind"), "warn")
    if not (stream.sent_count or stream.rejected_count or stream.dead_count):
        return label(_("new"), "info")
    return label(_("keeps up"), "good")
