"""Installs: the list with its filters and actions; the page itself is in ``install_page``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.contrib import admin, messages
from django.contrib.admin.views.main import ChangeList
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from fleet.admin.base import PageAdmin, confirm_page, reason_of
from fleet.admin.install_page import install_page
from fleet.console.attention import SILENT_AFTER
from fleet.console.labels import state_label
from fleet.console.people import person_of
from fleet.console.registry import clock_skews, run_counts
from fleet.enroll import move_installs, release_install, revoke_install
from fleet.lib.clock import now
from fleet.models import Install, InstallGroup, InstallStatus
from fleet.templatetags.fleet_format import ago, clock_words, count

if TYPE_CHECKING:
    ThemedChangeList = ChangeList
else:
    from unfold.views import ChangeList as ThemedChangeList


class SilentFilter(admin.SimpleListFilter):
    """Installs that have not spoken for a day."""

    title = gettext_lazy("silence")
    parameter_name = "silent"

    def lookups(
        self, request: HttpRequest, model_admin: admin.ModelAdmin[Install]
    ) -> list[tuple[str, str]]:
        """One choice: a longer silence is the same call to act."""
        return [("24h", _("Silent for 24 h"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Install]) -> QuerySet[Install]:
        """Active ones only: a revoked install is meant to be silent."""
        if self.value() != "24h":
            return queryset
        return queryset.filter(status=InstallStatus.ACTIVE).exclude(
            last_seen_at__gte=now() - SILENT_AFTER
        )


class InstallChangeList(ThemedChangeList):
    """Adds the runs of 7 days, and wrong clocks, to the rows of one page, with a query each."""

    def get_results(self, request: HttpRequest) -> None:
        """The page's rows, each with ``runs_7d`` and ``clock_skew_ms``."""
        super().get_results(request)
        installs: list[Install] = list(self.result_list)
        counts = run_counts([install.pk for install in installs])
        skews = clock_skews([install.pk for install in installs])
        for install in installs:
            install.runs_7d = counts.get(install.pk, 0)  # type: ignore[attr-defined]  # for the column only
            install.clock_skew_ms = skews.get(install.pk)  # type: ignore[attr-defined]  # for the column only
        self.result_list = installs


@admin.register(Install)
class InstallAdmin(PageAdmin):
    """Every agent environment that enrolled."""

    list_display = (
        "name",
        "state",
        "policy_state",
        "group",
        "system",
        "version",
        "revision",
        "runs",
        "seen",
    )
    list_display_links = ("name",)
    list_select_related = ("group", "policy__bundle__revision")
    list_filter = (
        "status",
        "sync_state",
        "group",
        SilentFilter,
        "os_family",
        "client_version",
        "consent_state",
    )
    search_fields = ("hostname", "label", "=id", "os_version", "host_version")
    search_help_text = gettext_lazy("Search host, label or id")
    readonly_fields = ("id",)
    ordering = ("-last_seen_at", "id")
    actions = ("move_to_group", "revoke", "release")

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Installs enroll themselves."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Install | None = None) -> bool:
        """Revoked, not deleted: telemetry and audit rows name it."""
        return False

    def get_queryset(self, request: HttpRequest) -> QuerySet[Install]:
        """Without the documents: an envelope is kilobytes and no list shows it."""
        return (
            super()
            .get_queryset(request)
            .defer(
                "policy__envelope",
                "policy__bundle__payload",
                "policy__bundle__revision__document",
            )
        )

    def get_changelist(self, request: HttpRequest, **kwargs: object) -> type[ChangeList]:
        """The list with run counts."""
        return InstallChangeList

    @admin.display(description=gettext_lazy("Install"), ordering="hostname")
    def name(self, install: Install) -> SafeString:
        """Host or label; the id is the title."""
        return format_html(
            '<bdi class="hf-name" title="{} · {}">{}</bdi>', install, install.pk, install
        )

    @admin.display(description=gettext_lazy("Status"), ordering="status")
    def state(self, install: Install) -> SafeString:
        """Whether it may speak at all."""
        return state_label(install.status, install.status_reason)

    @admin.display(description=gettext_lazy("Policy state"), ordering="sync_state")
    def policy_state(self, install: Install) -> SafeString:
        """Where it stands with its policy, with the cause below when there is one."""
        if not install.sync_cause or install.sync_state == "in_sync":
            return state_label(install.sync_state)
        return format_html(
            '{}<span class="hf-cause hf-name" title="{}">{}</span>',
            state_label(install.sync_state),
            install.sync_cause,
            install.sync_cause,
        )

    @admin.display(description=gettext_lazy("System"), ordering="os_family")
    def system(self, install: Install) -> SafeString:
        """Family; the exact version is the title."""
        return format_html(
            '<span title="{} {}">{}</span>',
            install.os_version,
            install.arch,
            install.os_family or "–",
        )

    @admin.display(description=gettext_lazy("Version"), ordering="client_version")
    def version(self, install: Install) -> SafeString:
        """The client's version; the agent's own is the title."""
        return format_html(
            '<span title="{}">{}</span>',
            _("Agent %s") % (install.host_version or "–"),
            install.client_version or "–",
        )

    @admin.display(description=gettext_lazy("Policy"))
    def revision(self, install: Install) -> str:
        """The revision whose bundle it is assigned."""
        policy = getattr(install, "policy", None)
        return f"#{policy.bundle.revision.version}" if policy else "–"

    @admin.display(description=gettext_lazy("Runs, 7 d"))
    def runs(self, install: Install) -> SafeString:
        """Runs of the last 7 days."""
        return format_html('<span class="hf-num">{}</span>', count(getattr(install, "runs_7d", 0)))

    @admin.display(description=gettext_lazy("Last seen"), ordering="last_seen_at")
    def seen(self, install: Install) -> SafeString:
        """Distance to now; a clock that is wrong below it."""
        skew_ms = getattr(install, "clock_skew_ms", None)
        if skew_ms is None:
            return ago(install.last_seen_at)
        return format_html(
            '{}<span class="hf-cause">{}</span>', ago(install.last_seen_at), clock_words(skew_ms)
        )

    @admin.action(description=gettext_lazy("Move to group…"), permissions=["change"])
    def move_to_group(
        self, request: HttpRequest, queryset: QuerySet[Install]
    ) -> HttpResponse | None:
        """Ask for the group, then move all of them; audited one by one."""
        groups = list(InstallGroup.objects.values_list("pk", "name"))
        chosen = request.POST.get("choice", "")
        known = {str(pk) for pk, _name in groups} | {"0"}
        if "confirmed" in request.POST and reason_of(request) and chosen in known:
            group = InstallGroup.objects.filter(pk=chosen).first()
            moved = move_installs(
                list(queryset), group, actor=person_of(request), reason=reason_of(request)
            )
            text = ngettext("%s install moved.", "%s installs moved.", moved) % moved
            messages.success(request, text)
            return None
        number = queryset.count()
        return confirm_page(
            request,
            action="move_to_group",
            title=_("Move to group"),
            question=ngettext("Move %s install?", "Move %s installs?", number) % number,
            consequence=_("They get the group's pins with their next policy sync."),
            button=_("Move"),
            queryset=queryset,
            extra={
                "choice_label": _("Group"),
                "choices": [*groups, (0, _("No group"))],
            },
        )

    @admin.action(description=gettext_lazy("Revoke…"), permissions=["change"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[Install]) -> HttpResponse | None:
        """Ask with the count, then revoke; audited one by one."""
        if "confirmed" in request.POST and reason_of(request):
            revoked = sum(
                revoke_install(install, actor=person_of(request), reason=reason_of(request))
                for install in queryset
            )
            text = ngettext("%s install revoked.", "%s installs revoked.", revoked) % revoked
            messages.success(request, text)
            return None
        number = queryset.count()
        return confirm_page(
            request,
            action="revoke",
            title=_("Revoke installs"),
            question=ngettext("Revoke %s install?", "Revoke %s installs?", number) % number,
            consequence=_(
                "Their credentials stop working with the next request. They keep the policy "
                "they hold, and their telemetry stays. To come back they must enroll again."
            ),
            button=_("Revoke"),
            queryset=queryset,
        )

    @admin.action(description=gettext_lazy("Release…"), permissions=["change"])
    def release(self, request: HttpRequest, queryset: QuerySet[Install]) -> HttpResponse | None:
        """Ask with the count, then let quarantined or revoked ones in again."""
        if "confirmed" in request.POST and reason_of(request):
            released = sum(
                release_install(install, actor=person_of(request), reason=reason_of(request))
                for install in queryset
            )
            text = ngettext("%s install released.", "%s installs released.", released) % released
            messages.success(request, text)
            return None
        number = queryset.count()
        return confirm_page(
            request,
            action="release",
            title=_("Release installs"),
            question=ngettext("Release %s install?", "Release %s installs?", number) % number,
            consequence=_(
                "Quarantined ones may speak again with the credential they hold; revoked ones "
                "must enroll anew."
            ),
            button=_("Release"),
            queryset=queryset,
        )

    def show(self, request: HttpRequest, install: Install) -> HttpResponse:
        """The install page; nothing on it is a form field."""
        may_change = self.has_change_permission(request)
        return install_page(request, install, self.opts, may_change=may_change)
