"""Quarantined lines: why each was refused, what to do, replay and discard with a count first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from urllib.parse import urlencode

from django.contrib import admin, messages
from django.db.models import Count, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from fleet.admin.base import FactAdmin, confirm_page, reason_of
from fleet.console.labels import label, plain_label
from fleet.console.people import person_of
from fleet.console.rendering import page
from fleet.models import Install
from fleet.templatetags.fleet_format import ago, exact, words
from telemetry.admin.batches import install_link
from telemetry.admin.reasons import reason_for
from telemetry.ingest.quarantine import (
    INLINE_LINES,
    NO_COLUMN,
    WORDS,
    Choice,
    Preview,
    order_job,
    preview,
    run_job,
)
from telemetry.models import IngestBatch, QuarantinedLine, QuarantineJob

MAX_REASONS_SHOWN: Final = 12
MAX_INSTALLS_SHOWN: Final = 20
MAX_DAYS_SHOWN: Final = 31
_LIST: Final = "admin:telemetry_quarantinedline_changelist"

type Counts = list[tuple[str, str, int]]


def counts_by_reason(request: HttpRequest) -> Counts:
    """All lines by code and column, most first; asked once a request."""
    held: Counts | None = getattr(request, "quarantine_counts", None)
    if held is None:
        found = QuarantinedLine.objects.order_by().values_list("code", "detail")
        rows = found.annotate(number=Count("pk")).order_by("-number", "code", "detail")
        held = [(code, detail, number) for code, detail, number in rows]
        request.quarantine_counts = held  # type: ignore[attr-defined]  # lives with the request
    return held


class _ChoiceFilter(admin.SimpleListFilter):
    """A filter that narrows as an order would, so that both mean the same lines."""

    def queryset(
        self, request: HttpRequest, queryset: QuerySet[QuarantinedLine]
    ) -> QuerySet[QuarantinedLine]:
        """Those of the value."""
        return Choice.from_dict({self.parameter_name or "": self.value()}).narrow(queryset)


class CodeFilter(_ChoiceFilter):
    """By code."""

    title = gettext_lazy("reason")
    parameter_name = "code"

    def lookups(
        self, request: HttpRequest, model_admin: admin.ModelAdmin[QuarantinedLine]
    ) -> list[tuple[str, str]]:
        """The codes there are."""
        codes = dict.fromkeys(code for code, _detail, _number in counts_by_reason(request))
        return [(code, words(code)) for code in codes]


class ColumnFilter(_ChoiceFilter):
    """By the column that is named as the fault's place."""

    title = gettext_lazy("column")
    parameter_name = "detail"

    def lookups(
        self, request: HttpRequest, model_admin: admin.ModelAdmin[QuarantinedLine]
    ) -> list[tuple[str, str]]:
        """The columns there are."""
        details = dict.fromkeys(detail for _code, detail, _number in counts_by_reason(request))
        return [(detail or NO_COLUMN, detail or _("none")) for detail in details]


class InstallFilter(_ChoiceFilter):
    """By install, those with the most lines."""

    title = gettext_lazy("install")
    parameter_name = "install"

    def lookups(
        self, request: HttpRequest, model_admin: admin.ModelAdmin[QuarantinedLine]
    ) -> list[tuple[str, str]]:
        """Names, or the first part of the id."""
        found = QuarantinedLine.objects.order_by().values_list("install_id")
        most = found.annotate(number=Count("pk")).order_by("-number")[:MAX_INSTALLS_SHOWN]
        ids = [install_id for install_id, _number in most]
        known = Install.objects.in_bulk(ids)
        return [(str(pk), str(known.get(pk) or str(pk)[:8])) for pk in ids]


class DayFilter(_ChoiceFilter):
    """By the day of arrival, UTC."""

    title = gettext_lazy("day")
    parameter_name = "day"

    def lookups(
        self, request: HttpRequest, model_admin: admin.ModelAdmin[QuarantinedLine]
    ) -> list[tuple[str, str]]:
        """The last days on which something came."""
        days = QuarantinedLine.objects.datetimes("received_at", "day", order="DESC")
        return [(f"{day:%Y-%m-%d}",) * 2 for day in days[:MAX_DAYS_SHOWN]]


class ReplayableFilter(_ChoiceFilter):
    """By whether the line is whole."""

    title = gettext_lazy("replay")
    parameter_name = "replayable"

    def lookups(
        self, request: HttpRequest, model_admin: admin.ModelAdmin[QuarantinedLine]
    ) -> list[tuple[str, str]]:
        """Both."""
        return [("yes", _("Can be replayed")), ("no", _("Not kept whole"))]


@admin.register(QuarantinedLine)
class QuarantinedLineAdmin(FactAdmin):
    """Lines that were refused: why, and their first 4 KiB, scrubbed."""

    list_display = ("received", "install", "why", "column", "excerpt", "whole")
    list_display_links = ("received",)
    list_select_related = False
    list_filter = (CodeFilter, ColumnFilter, InstallFilter, DayFilter, ReplayableFilter)
    search_fields = ("=batch_id",)  # shows the field; what is searched is a Choice
    search_help_text = gettext_lazy("Search a whole batch id or install id, or a column")
    readonly_fields = ("batch_id",)
    ordering = ("-received_at", "line")
    actions = ("replay", "purge")
    list_before_template = "telemetry/quarantine_before.html"

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest | None = None) -> bool:
        """Only what a Choice knows: an action on all that are listed must mean those lines."""
        return lookup in WORDS

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[QuarantinedLine], search_term: str
    ) -> tuple[QuerySet[QuarantinedLine], bool]:
        """Narrowed as an order would be."""
        return Choice(search=search_term.strip()).narrow(queryset), False

    def has_replay_permission(self, request: HttpRequest) -> bool:
        """Whether somebody may have lines judged again."""
        return request.user.has_perm("telemetry.replay_quarantinedline")

    def has_purge_permission(self, request: HttpRequest) -> bool:
        """Whether somebody may discard lines."""
        return request.user.has_perm("telemetry.purge_quarantinedline")

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, object] | None = None
    ) -> HttpResponse:
        """The list under its counts."""
        counts = counts_by_reason(request) if self.has_view_permission(request) else []
        highest = counts[0][2] if counts else 1
        reasons = [
            {
                "code": code,
                "detail": detail,
                "number": number,
                "share": number / highest,
                "url": "?" + urlencode({"code": code, "detail": detail or NO_COLUMN}),
            }
            for code, detail, number in counts[:MAX_REASONS_SHOWN]
        ]
        context: dict[str, object] = {
            "reasons": reasons,
            "more_reasons": max(0, len(counts) - len(reasons)),
            "line_count": sum(number for _code, _detail, number in counts),
            "jobs": QuarantineJob.objects.exclude(state=QuarantineJob.State.DONE)[:5],
        }
        return super().changelist_view(request, {**context, **(extra_context or {})})

    @admin.display(description=gettext_lazy("Received"), ordering="received_at")
    def received(self, item: QuarantinedLine) -> SafeString:
        """Distance to now."""
        return ago(item.received_at)

    @admin.display(description=gettext_lazy("Install"))
    def install(self, item: QuarantinedLine) -> SafeString:
        """Whose it is."""
        return install_link(item.install_id)

    @admin.display(description=gettext_lazy("Reason"), ordering="code")
    def why(self, item: QuarantinedLine) -> SafeString:
        """The code in words."""
        return label(words(item.code), "warn")

    @admin.display(description=gettext_lazy("Column"), ordering="detail")
    def column(self, item: QuarantinedLine) -> SafeString:
        """Where the fault is."""
        return format_html('<span class="hf-mono">{}</span>', item.detail or "–")

    @admin.display(description=gettext_lazy("Line, scrubbed"))
    def excerpt(self, item: QuarantinedLine) -> SafeString:
        """Its beginning."""
        return format_html(
            '<bdi class="hf-mono hf-name" title="{}">{}</bdi>',
            item.raw_text[:1000],
            item.raw_text[:120],
        )

    @admin.display(description=gettext_lazy("Replay"), ordering="is_replayable")
    def whole(self, item: QuarantinedLine) -> SafeString:
        """Whether it can be judged again."""
        if item.is_replayable:
            return plain_label(_("possible"), "good")
        return plain_label(_("not kept whole"))

    @admin.action(description=gettext_lazy("Replay…"), permissions=["replay"])
    def replay(
        self, request: HttpRequest, queryset: QuerySet[QuarantinedLine]
    ) -> HttpResponse | None:
        """Say what would happen, then do it; audited."""
        choice = chosen(request, queryset)
        found = preview(choice)
        if not found.replayable:
            messages.warning(
                request, _("None of them can be replayed: none was kept as the agent sent it.")
            )
            return None
        if "confirmed" in request.POST and reason_of(request):
            return carry_out(request, QuarantineJob.Action.REPLAY, choice)
        number = found.replayable
        return confirm_page(
            request,
            action="replay",
            title=_("Replay quarantined lines"),
            question=ngettext("Replay %s line?", "Replay %s lines?", number) % exact(number),
            consequence=replay_in_words(found),
            button=_("Replay"),
            queryset=choice.lines().filter(is_replayable=True),
            extra={"is_harmless": True},
        )

    @admin.action(description=gettext_lazy("Discard…"), permissions=["purge"])
    def purge(
        self, request: HttpRequest, queryset: QuerySet[QuarantinedLine]
    ) -> HttpResponse | None:
        """Ask with the count, then delete; audited."""
        choice = chosen(request, queryset)
        if "confirmed" in request.POST and reason_of(request):
            return carry_out(request, QuarantineJob.Action.PURGE, choice)
        number = choice.lines().count()
        return confirm_page(
            request,
            action="purge",
            title=_("Discard quarantined lines"),
            question=ngettext("Discard %s line?", "Discard %s lines?", number) % exact(number),
            consequence=_(
                "They are deleted and cannot be replayed any more. The batches that brought them "
                "keep their counts of what was rejected."
            ),
            button=_("Discard"),
            queryset=choice.lines(),
        )

    def show(self, request: HttpRequest, line: QuarantinedLine) -> HttpResponse:
        """One line: why in plain words, what to do, its text."""
        batch = IngestBatch.objects.of_install(line.install_id).filter(batch_id=line.batch_id)
        context: dict[str, object] = {
            "line": line,
            "opts": self.opts,
            "reason": reason_for(line.code),
            "install": Install.objects.filter(pk=line.install_id).first(),
            "batch": batch.defer("receipt", "consent").first(),
            "may_replay": self.has_replay_permission(request) and line.is_replayable,
            "may_purge": self.has_purge_permission(request),
            "alike": Choice(code=line.code, detail=line.detail or NO_COLUMN).lines().count(),
            "alike_url": "?" + urlencode({"code": line.code, "detail": line.detail or NO_COLUMN}),
        }
        return page(request, "telemetry/quarantined.html", _("Quarantined line"), context)


def chosen(request: HttpRequest, queryset: QuerySet[QuarantinedLine]) -> Choice:
    """What an action is about: the ticked lines, or all that the list's filters leave."""
    if request.POST.get("select_across") == "1":
        return Choice.from_dict({**request.GET.dict(), "search": request.GET.get("q", "")})
    return Choice(line_ids=tuple(queryset.order_by("pk").values_list("pk", flat=True)))


def replay_in_words(found: Preview) -> str:
    """What a replay would do, as a person is told before it."""
    parts: list[str] = []
    if found.judged < found.replayable:
        parts.append(
            _("Of the first %(judged)s, today's rules accept %(accepted)s.")
            % {"judged": exact(found.judged), "accepted": exact(found.accepted)}
        )
    else:
        parts.append(_("Today's rules accept %s of them.") % exact(found.accepted))
    if found.refused:
        why = ", ".join(f"{words(code)}: {exact(n)}" for code, n in sorted(found.refused.items()))
        parts.append(_("The rest stays, with its new reason (%s).") % why)
    if found.total > found.replayable:
        parts.append(
            _("%s more were not kept as the agent sent them and are left out.")
            % exact(found.total - found.replayable)
        )
    parts.append(_("Accepted lines are stored as a batch of their own and leave quarantine."))
    return " ".join(parts)


def carry_out(
    request: HttpRequest, action: QuarantineJob.Action, choice: Choice
) -> HttpResponseRedirect:
    """Order it; a few lines are done at once, many by the worker. To the order's page."""
    job = order_job(action, choice, actor=person_of(request), reason=reason_of(request))
    if job.total_count <= INLINE_LINES:
        run_job(job.pk)
    return HttpResponseRedirect(reverse("admin:telemetry_quarantinejob_change", args=(job.pk,)))


@admin.register(QuarantineJob)
class QuarantineJobAdmin(FactAdmin):
    """Orders on quarantined lines, and how far they are."""

    list_display = ("title", "created", "actor", "state_label", "total_count", "result", "reason")
    list_display_links = ("title",)
    list_select_related = False
    list_filter = ("action", "state")
    search_fields = ("actor", "reason")
    readonly_fields = ("action",)
    ordering = ("-id",)

    def has_view_permission(self, request: HttpRequest, obj: QuarantineJob | None = None) -> bool:
        """Whoever sees the lines sees what was done with them."""
        return request.user.has_perm("telemetry.view_quarantinedline")

    @admin.display(description=gettext_lazy("Order"), ordering="id")
    def title(self, job: QuarantineJob) -> str:
        """Its number and what it does."""
        return str(job)

    @admin.display(description=gettext_lazy("Given"), ordering="created_at")
    def created(self, job: QuarantineJob) -> SafeString:
        """Distance to now."""
        return ago(job.created_at)

    @admin.display(description=gettext_lazy("State"), ordering="state")
    def state_label(self, job: QuarantineJob) -> SafeString:
        """Waiting, running or done."""
        return label(job.get_state_display(), _TONES[job.state])

    @admin.display(description=gettext_lazy("Result"))
    def result(self, job: QuarantineJob) -> str:
        """What became of the lines."""
        return ", ".join(f"{exact(number)} {text}" for text, number in results_of(job) if number)

    def show(self, request: HttpRequest, job: QuarantineJob) -> HttpResponse:
        """One order: its progress, who gave it and why."""
        done = sum(number for _text, number in results_of(job))
        context: dict[str, object] = {
            "job": job,
            "opts": self.opts,
            "tone": _TONES[job.state],
            "results": results_of(job),
            "done": done,
            "share": done / job.total_count if job.total_count else 1,
            "chosen": _chosen_in_words(job.chosen),
        }
        return page(request, "telemetry/quarantine_job.html", str(job), context)


_TONES: Final[dict[str, str]] = {
    QuarantineJob.State.WAITING: "info",
    QuarantineJob.State.RUNNING: "info",
    QuarantineJob.State.DONE: "good",
}


def results_of(job: QuarantineJob) -> Sequence[tuple[str, int]]:
    """What became of an order's lines, in words and numbers."""
    if job.action == QuarantineJob.Action.PURGE:
        return [(_("discarded"), job.removed_count)]
    return [
        (_("stored"), job.stored_count),
        (_("were there already"), job.duplicate_count),
        (_("stay in quarantine"), job.kept_count),
    ]


def _chosen_in_words(held: object) -> str:
    if not isinstance(held, dict) or not held:
        return _("all lines")
    if isinstance(ids := held.get("line_ids"), list):
        return ngettext("%s ticked line", "%s ticked lines", len(ids)) % len(ids)
    return ", ".join(f"{name}: {value}" for name, value in held.items())
