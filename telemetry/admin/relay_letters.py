"""Dead letters: what was refused and why; sent again or discarded, with a count first."""

from __future__ import annotations

from typing import Final

from django.contrib import admin, messages
from django.db.models import Q, QuerySet, Sum
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from fleet.admin.base import FactAdmin, confirm_page, reason_of
from fleet.console.labels import label
from fleet.console.people import person_of
from fleet.console.rendering import page
from fleet.templatetags.fleet_format import ago, byte_size, exact
from telemetry.models import DeadLetter, RelayDestination, Stream
from telemetry.relay.replay import MAX_ORDER, ask_replay, discard

_NOWHERE: Final = Q(pk=None)


class TargetFilter(admin.SimpleListFilter):
    """By the collector or stream that refused it."""

    model: type[RelayDestination | Stream]

    def lookups(
        self, request: HttpRequest, model_admin: admin.ModelAdmin[DeadLetter]
    ) -> list[tuple[str, str]]:
        """Those that somebody made."""
        found = self.model._default_manager.order_by("name").values_list("pk", "name")  # noqa: SLF001 -- the documented way from a model class
        return [(str(pk), name) for pk, name in found]

    def queryset(
        self, request: HttpRequest, queryset: QuerySet[DeadLetter]
    ) -> QuerySet[DeadLetter]:
        """Its letters."""
        value = self.value() or ""
        if not value.isdecimal():
            return queryset
        return queryset.filter(**{f"{self.parameter_name}_id": int(value[:18])})


class CollectorFilter(TargetFilter):
    """By collector."""

    title = gettext_lazy("collector")
    parameter_name = "destination"
    model = RelayDestination


class StreamFilter(TargetFilter):
    """By stream."""

    title = gettext_lazy("stream")
    parameter_name = "stream"
    model = Stream


class StateFilter(admin.SimpleListFilter):
    """By what is to become of it."""

    title = gettext_lazy("state")
    parameter_name = "state"

    def lookups(
        self, request: HttpRequest, model_admin: admin.ModelAdmin[DeadLetter]
    ) -> list[tuple[str, str]]:
        """Three."""
        return [("open", _("Set aside")), ("asked", _("On its way")), ("sent", _("Sent again"))]

    def queryset(
        self, request: HttpRequest, queryset: QuerySet[DeadLetter]
    ) -> QuerySet[DeadLetter]:
        """Those of the state."""
        match self.value():
            case "open":
                return queryset.filter(replayed_at=None, replay_asked_at=None)
            case "asked":
                return queryset.filter(replayed_at=None, replay_asked_at__isnull=False)
            case "sent":
                return queryset.filter(replayed_at__isnull=False)
        return queryset


@admin.register(DeadLetter)
class DeadLetterAdmin(FactAdmin):
    """Bodies that were refused for good."""

    list_display = ("set_aside", "to", "what", "records", "size", "state", "why")
    list_display_links = ("set_aside",)
    list_select_related = ("destination", "stream")
    list_filter = (CollectorFilter, StreamFilter, StateFilter)
    search_fields = ("error",)
    search_help_text = gettext_lazy("Search in the reasons")
    readonly_fields = ("signal",)
    ordering = ("-id",)
    actions = ("replay", "discard")
    list_before_template = "telemetry/relay/letters_before.html"

    def get_queryset(self, request: HttpRequest) -> QuerySet[DeadLetter]:
        """Those of collectors and of streams, each for whoever may see what refused them."""
        found = super().get_queryset(request).defer("body")
        seen = _NOWHERE
        if request.user.has_perm("telemetry.view_relaydestination"):
            seen |= Q(destination__isnull=False)
        if request.user.has_perm("telemetry.view_stream"):
            seen |= Q(stream__isnull=False)
        return found.filter(seen)

    def has_view_permission(self, request: HttpRequest, obj: DeadLetter | None = None) -> bool:
        """Whoever sees a collector or a stream sees what it refused."""
        names = ("view_relaydestination", "view_stream")
        return any(request.user.has_perm(f"telemetry.{name}") for name in names)

    def has_replay_permission(self, request: HttpRequest) -> bool:
        """Who may have some of them sent again."""
        names = ("replay_relaydestination", "replay_stream")
        return any(request.user.has_perm(f"telemetry.{name}") for name in names)

    def has_discard_permission(self, request: HttpRequest) -> bool:
        """Who may discard them."""
        return request.user.has_perm("telemetry.delete_deadletter")

    @admin.display(description=gettext_lazy("Set aside"), ordering="at")
    def set_aside(self, letter: DeadLetter) -> SafeString:
        """Distance to now."""
        return ago(letter.at)

    @admin.display(description=gettext_lazy("For"))
    def to(self, letter: DeadLetter) -> SafeString:
        """The collector or stream."""
        return target_link(letter)

    @admin.display(description=gettext_lazy("What"), ordering="signal")
    def what(self, letter: DeadLetter) -> str:
        """Which signal, or what of a stream."""
        return letter.signal

    @admin.display(description=gettext_lazy("Records"), ordering="record_count")
    def records(self, letter: DeadLetter) -> str:
        """How many are in it."""
        return exact(letter.record_count)

    @admin.display(description=gettext_lazy("Size"), ordering="body_bytes")
    def size(self, letter: DeadLetter) -> str:
        """As it was sent."""
        return byte_size(letter.body_bytes) if letter.body_bytes else "–"

    @admin.display(description=gettext_lazy("State"))
    def state(self, letter: DeadLetter) -> SafeString:
        """What is to become of it."""
        return letter_label(letter)

    @admin.display(description=gettext_lazy("Why"), ordering="error")
    def why(self, letter: DeadLetter) -> SafeString:
        """In the receiver's words, scrubbed."""
        return format_html('<bdi class="hf-name" title="{0}">{0}</bdi>', letter.error)

    @admin.action(description=gettext_lazy("Send again…"), permissions=["replay"])
    def replay(self, request: HttpRequest, queryset: QuerySet[DeadLetter]) -> HttpResponse | None:
        """Say how much that is, then order it; audited."""
        may = _NOWHERE
        if request.user.has_perm("telemetry.replay_relaydestination"):
            may |= Q(destination__isnull=False)
        if request.user.has_perm("telemetry.replay_stream"):
            may |= Q(stream__isnull=False)
        chosen = queryset.filter(may, replayed_at=None, replay_asked_at=None)
        if not chosen.exists():
            messages.warning(request, _("None of them can be sent again."))
            return None
        if "confirmed" in request.POST and reason_of(request):
            actor, reason = person_of(request), reason_of(request)
            count = ask_replay(_some(chosen), actor=actor, reason=reason)
            text = ngettext("%s letter is sent again.", "%s letters are sent again.", count)
            messages.success(request, text % exact(count))
            return None
        return self._ask(
            request,
            chosen,
            action="replay",
            title=_("Send dead letters again"),
            question=ngettext("Send %s letter again?", "Send %s letters again?", _count(chosen)),
            consequence=_(
                "%(records)s records go out as they were, under the same ids. What is refused "
                "again stays here with its new reason: mend the cause first."
            ),
            button=_("Send again"),
            is_harmless=True,
        )

    @admin.action(description=gettext_lazy("Discard…"), permissions=["discard"])
    def discard(self, request: HttpRequest, queryset: QuerySet[DeadLetter]) -> HttpResponse | None:
        """Ask with the count, then delete; audited."""
        chosen = queryset.filter(replayed_at=None)
        if not chosen.exists():
            messages.warning(request, _("None of them is set aside any more."))
            return None
        if "confirmed" in request.POST and reason_of(request):
            actor, reason = person_of(request), reason_of(request)
            count = discard(_some(chosen), actor=actor, reason=reason)
            text = ngettext("%s letter discarded.", "%s letters discarded.", count)
            messages.success(request, text % exact(count))
            return None
        return self._ask(
            request,
            chosen,
            action="discard",
            title=_("Discard dead letters"),
            question=ngettext("Discard %s letter?", "Discard %s letters?", _count(chosen)),
            consequence=_(
                "%(records)s records are never sent to this receiver. What was received here stays."
            ),
            button=_("Discard"),
            is_harmless=False,
        )

    def _ask(
        self,
        request: HttpRequest,
        chosen: QuerySet[DeadLetter],
        *,
        action: str,
        title: str,
        question: str,
        consequence: str,
        button: str,
        is_harmless: bool,
    ) -> HttpResponse:
        count, records = _count(chosen), chosen.aggregate(all=Sum("record_count"))["all"] or 0
        text = consequence % {"records": exact(records)}
        if count > MAX_ORDER:
            text += " " + _("At most %s at once: the oldest.") % exact(MAX_ORDER)
        return confirm_page(
            request,
            action=action,
            title=title,
            question=question % exact(count),
            consequence=text,
            button=button,
            queryset=chosen,
            extra={"is_harmless": is_harmless},
        )

    def show(self, request: HttpRequest, letter: DeadLetter) -> HttpResponse:
        """One: why it was refused, what can be done."""
        kind = "relaydestination" if letter.destination_id else "stream"
        is_open = letter.replayed_at is None
        may = request.user.has_perm(f"telemetry.replay_{kind}")
        context: dict[str, object] = {
            "letter": letter,
            "opts": self.opts,
            "label": letter_label(letter),
            "to": target_link(letter),
            "may_replay": may and is_open and letter.replay_asked_at is None,
            "may_discard": self.has_discard_permission(request) and is_open,
        }
        return page(request, "telemetry/relay/letter.html", _("Dead letter"), context)


def _count(letters: QuerySet[DeadLetter]) -> int:
    return letters.count()


def _some(letters: QuerySet[DeadLetter]) -> QuerySet[DeadLetter]:
    """The oldest of them, as many as one order takes."""
    return letters.order_by("pk")[:MAX_ORDER]


def letter_label(letter: DeadLetter) -> SafeString:
    """What is to become of a letter."""
    if letter.replayed_at is not None:
        return label(_("sent again"), "good")
    if letter.replay_asked_at is not None:
        return label(_("on its way"), "info")
    return label(_("set aside"), "warn")


def target_link(letter: DeadLetter) -> SafeString:
    """The collector or stream that refused it."""
    target = letter.destination or letter.stream
    if target is None:
        return format_html("{}", "–")
    url = reverse(
        f"admin:telemetry_{target._meta.model_name}_change", args=(target.pk,)
    )  # Django's public Meta API
    return format_html(
        '<a class="hf-link" href="{0}"><bdi class="hf-name hf-brief" title="{1}">{1}</bdi></a>',
        url,
        target.name,
    )
