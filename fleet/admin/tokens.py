"""Enrollment tokens, shown once, and the installs that wait for a person's yes."""

from __future__ import annotations

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from fleet.admin.base import FactAdmin, PageAdmin, confirm_page, reason_of
from fleet.admin.token_form import TokenForm
from fleet.console.commands import enroll_command
from fleet.console.labels import state_label
from fleet.console.people import person_of
from fleet.console.rendering import page
from fleet.enroll import decide_request, mint_token, revoke_token
from fleet.lib.clock import now
from fleet.models import EnrollmentRequest, EnrollmentToken, RequestStatus
from fleet.templatetags.fleet_format import ago, count


@admin.register(EnrollmentToken)
class EnrollmentTokenAdmin(PageAdmin):
    """Tokens are made and revoked; what they are never changes."""

    list_display = ("token", "state", "group", "usage", "approval", "expires", "last_used", "why")
    list_display_links = None
    list_select_related = ("group",)
    list_filter = ("group", "approval")
    search_fields = ("key_id", "reason", "created_by")
    search_help_text = gettext_lazy("Search key id, reason or person")
    readonly_fields = ("key_id",)
    actions = ("revoke",)
    list_before_template = "fleet/parts/tokens_before.html"

    def has_delete_permission(
        self, request: HttpRequest, obj: EnrollmentToken | None = None
    ) -> bool:
        """Revoked, not deleted: installs name the token that admitted them."""
        return False

    @admin.display(description=gettext_lazy("Token"), ordering="key_id")
    def token(self, token: EnrollmentToken) -> SafeString:
        """Its public part; the secret was shown once."""
        return format_html(
            '<span class="hf-mono" title="{}">{}</span>', _("by %s") % token.created_by, token
        )

    @admin.display(description=gettext_lazy("State"))
    def state(self, token: EnrollmentToken) -> SafeString:
        """Whether it still admits anyone."""
        return state_label(token.state(now()))

    @admin.display(description=gettext_lazy("Uses"), ordering="uses")
    def usage(self, token: EnrollmentToken) -> str:
        """Of how many."""
        return f"{count(token.uses)} / {count(token.max_uses) if token.max_uses else '∞'}"

    @admin.display(description=gettext_lazy("Expires"), ordering="expires_at")
    def expires(self, token: EnrollmentToken) -> SafeString:
        """Distance to now."""
        return ago(token.expires_at)

    @admin.display(description=gettext_lazy("Last used"), ordering="last_used_at")
    def last_used(self, token: EnrollmentToken) -> SafeString:
        """Distance to now; by whom is the title."""
        if token.last_used_at is None:
            return ago(None)
        return format_html(
            '<span title="{}">{}</span>', token.last_used_by or "", ago(token.last_used_at)
        )

    @admin.display(description=gettext_lazy("Reason"))
    def why(self, token: EnrollmentToken) -> SafeString:
        """As it was stated."""
        return format_html('<span class="hf-name" title="{0}">{0}</span>', token.reason or "–")

    def show_new(self, request: HttpRequest) -> HttpResponse:
        """Make a token. The answer to the POST is the only page that ever shows its secret."""
        form = TokenForm(request.POST or None)
        if request.method == "POST" and form.is_valid():
            return self._mint(request, form)
        return page(
            request,
            "fleet/token_add.html",
            _("Create enrollment token"),
            {"form": form, "opts": self.opts},
        )

    def _mint(self, request: HttpRequest, form: TokenForm) -> HttpResponse:
        data = form.cleaned_data
        lifetime = form.lifetime
        token, text = mint_token(
            actor=person_of(request),
            group=data["group"],
            max_uses=data["max_uses"],
            expires_at=now() + lifetime if lifetime else None,
            cidr=data["cidr"],
            approval=data["approval"],
            reason=data["reason"],
        )
        response = page(
            request,
            "fleet/token_created.html",
            _("Enrollment token"),
            {"token": token, "text": text, "command": enroll_command(text), "opts": self.opts},
        )
        response.headers["Cache-Control"] = "no-store"
        return response

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, object] | None = None,
    ) -> HttpResponse:
        """There is nothing to change and nothing more to show: back to the list."""
        return HttpResponseRedirect(reverse("admin:fleet_enrollmenttoken_changelist"))

    @admin.action(description=gettext_lazy("Revoke…"), permissions=["change"])
    def revoke(
        self, request: HttpRequest, queryset: QuerySet[EnrollmentToken]
    ) -> HttpResponse | None:
        """Ask with the count, then revoke; audited one by one."""
        if "confirmed" in request.POST and reason_of(request):
            revoked = sum(
                revoke_token(token, actor=person_of(request), reason=reason_of(request))
                for token in queryset
            )
            text = ngettext("%s token revoked.", "%s tokens revoked.", revoked) % revoked
            messages.success(request, text)
            return None
        number = queryset.count()
        return confirm_page(
            request,
            action="revoke",
            title=_("Revoke enrollment tokens"),
            question=ngettext("Revoke %s token?", "Revoke %s tokens?", number) % number,
            consequence=_("They admit nobody any more. Installs they admitted stay."),
            button=_("Revoke"),
            queryset=queryset,
        )


@admin.register(EnrollmentRequest)
class EnrollmentRequestAdmin(FactAdmin):
    """Installs that wait: compare the code the person reads out, then approve or deny."""

    list_display = ("code", "state", "machine", "address", "token", "asked", "lapses", "decided_by")
    list_display_links = None
    list_select_related = ("token",)
    list_filter = ("status",)
    search_fields = ("user_code", "=install_id", "decided_by")
    search_help_text = gettext_lazy("Search code, install id or person")
    readonly_fields = ("user_code",)
    actions = ("approve", "deny")

    def has_decide_permission(self, request: HttpRequest) -> bool:
        """Who may say yes or no."""
        return request.user.has_perm("fleet.change_enrollmentrequest")

    @admin.display(description=gettext_lazy("Code"), ordering="user_code")
    def code(self, item: EnrollmentRequest) -> SafeString:
        """What the agent's terminal shows."""
        return format_html('<strong class="hf-mono">{}</strong>', item.user_code)

    @admin.display(description=gettext_lazy("State"), ordering="status")
    def state(self, item: EnrollmentRequest) -> SafeString:
        """Waiting, decided or lapsed."""
        if item.status == RequestStatus.PENDING and item.expires_at <= now():
            return state_label("expired")
        return state_label(item.status)

    @admin.display(description=gettext_lazy("Machine"))
    def machine(self, item: EnrollmentRequest) -> SafeString:
        """What it says of itself."""
        facts = item.facts if isinstance(item.facts, dict) else {}
        name = str(facts.get("hostname") or item.install_id)
        return format_html(
            '<bdi class="hf-name" title="{0}">{0}</bdi><span class="hf-cause">{1} {2}</span>',
            name,
            str(facts.get("os_family", "")),
            str(facts.get("host_version", "")),
        )

    @admin.display(description=gettext_lazy("Asked"), ordering="created_at")
    def asked(self, item: EnrollmentRequest) -> SafeString:
        """Distance to now."""
        return ago(item.created_at)

    @admin.display(description=gettext_lazy("Lapses"), ordering="expires_at")
    def lapses(self, item: EnrollmentRequest) -> SafeString:
        """Distance to now."""
        return ago(item.expires_at)

    @admin.action(description=gettext_lazy("Approve"), permissions=["decide"])
    def approve(self, request: HttpRequest, queryset: QuerySet[EnrollmentRequest]) -> None:
        """Let them in."""
        self._decide(request, queryset, is_approved=True)

    @admin.action(description=gettext_lazy("Deny"), permissions=["decide"])
    def deny(self, request: HttpRequest, queryset: QuerySet[EnrollmentRequest]) -> None:
        """Turn them away."""
        self._decide(request, queryset, is_approved=False)

    def _decide(
        self, request: HttpRequest, queryset: QuerySet[EnrollmentRequest], *, is_approved: bool
    ) -> None:
        decided = sum(
            decide_request(item, is_approved=is_approved, actor=person_of(request))
            for item in queryset
        )
        skipped = len(queryset) - decided
        text = ngettext("%s request decided.", "%s requests decided.", decided) % decided
        if skipped:
            text += " " + _("%s had lapsed or were decided before.") % skipped
        (messages.success if decided else messages.warning)(request, text)
