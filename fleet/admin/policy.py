"""Pins with their typed editor, and published revisions, read-only, with diff and roll back."""

from __future__ import annotations

from typing import Final

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db import models
from django.db.models import Count, QuerySet
from django.forms import ModelForm
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from agent_client.contract.policy_keys import KEYS
from fleet.admin.auditing import AuditedAdmin
from fleet.admin.base import FactAdmin, gone, reason_of
from fleet.admin.pin_form import PinForm
from fleet.console.diff import value_text
from fleet.console.labels import label, plain_label
from fleet.console.people import person_of
from fleet.console.publish_views import PUBLISH_PERMISSION, row_of
from fleet.console.rendering import page
from fleet.lib.clock import now, now_ns
from fleet.models import Pin, PolicyRevision
from fleet.policy.compile import PinSpec, PolicyError
from fleet.policy.plan import diff, groups_of, latest_revision
from fleet.policy.publish import roll_back_to
from fleet.templatetags.fleet_format import ago

MAX_PINS_SHOWN: Final = 500


@admin.register(Pin)
class PinAdmin(AuditedAdmin):
    """What the operator wants; nothing changes before it is published."""

    form = PinForm
    # The model's own fields; the value's inputs are made by the form and drawn by the template.
    fields = tuple(PinForm.Meta.fields)
    list_display = ("key", "pinned_value", "for_whom", "kind", "reason", "expires", "changed")
    list_select_related = ("group",)
    search_fields = ("key", "reason", "ticket", "contact")
    search_help_text = gettext_lazy("Search key, reason, ticket or contact")
    list_filter = ("scope", "group", "level")
    readonly_fields = ()
    change_form_show_cancel_button = True
    list_before_template = "fleet/parts/pins_before.html"
    audit_fields = (
        "scope",
        "group",
        "key",
        "value",
        "level",
        "is_locked",
        "reason",
        "ticket",
        "contact",
        "expires_at",
        "on_expiry",
    )

    def audit_reason(self, request: HttpRequest, obj: models.Model) -> str:
        """The pin's own reason."""
        return str(getattr(obj, "reason", ""))

    def save_model(
        self,
        request: HttpRequest,
        obj: models.Model,
        form: ModelForm[models.Model],
        change: bool,  # noqa: FBT001  # the admin's signature
    ) -> None:
        """Keep who made it."""
        if not change and isinstance(obj, Pin):
            obj.created_by = request.user.get_username()
        super().save_model(request, obj, form, change)

    @admin.display(description=gettext_lazy("Value"))
    def pinned_value(self, pin: Pin) -> SafeString:
        """As JSON; long ones cut, whole in the title."""
        text = value_text(pin.value)
        loose = pin.key in KEYS and pin.value in KEYS[pin.key].loosens
        mark = label(_("Opens a plane"), "warn") if loose else ""
        return format_html('<span class="hf-mono hf-name" title="{0}">{0}</span> {1}', text, mark)

    @admin.display(description=gettext_lazy("For"), ordering="group__name")
    def for_whom(self, pin: Pin) -> SafeString:
        """The fleet or the group."""
        if pin.group is None:
            return plain_label(_("Whole fleet"), "info")
        return format_html('<bdi class="hf-name" title="{0}">{0}</bdi>', pin.group.name)

    @admin.display(description=gettext_lazy("Level"), ordering="level")
    def kind(self, pin: Pin) -> str:
        """Mandatory or recommended; locked or not."""
        text = pin.get_level_display()
        return _("%s, locked") % text if pin.is_locked else str(text)

    @admin.display(description=gettext_lazy("Expires"), ordering="expires_at")
    def expires(self, pin: Pin) -> SafeString | str:
        """Distance to now; a past one is marked."""
        if pin.expires_at is None:
            return "–"
        return label(_("Expired"), "warn") if pin.expires_at <= now() else ago(pin.expires_at)

    @admin.display(description=gettext_lazy("Changed"), ordering="updated_at")
    def changed(self, pin: Pin) -> SafeString:
        """Distance to now."""
        return ago(pin.updated_at)


@admin.register(PolicyRevision)
class PolicyRevisionAdmin(FactAdmin):
    """Published states of all pins; immutable. Rolling back publishes an older one anew."""

    list_display = ("number", "published", "created_by", "why", "kind", "bundle_count")
    list_display_links = ("number",)
    list_select_related = ("rollback_of",)
    search_fields = ("reason", "created_by", "sha256")
    search_help_text = gettext_lazy("Search reason, person or digest")
    readonly_fields = ("version", "reason", "created_at", "created_by", "sha256")
    list_before_template = "fleet/parts/revisions_before.html"

    def get_queryset(self, request: HttpRequest) -> QuerySet[PolicyRevision]:
        """With the number of bundles, without the documents."""
        rows: QuerySet[PolicyRevision] = super().get_queryset(request)
        return rows.annotate(targets_number=Count("targets", distinct=True)).defer(
            "document", "rollback_of__document"
        )

    def get_urls(self) -> list[URLPattern]:
        """One more: rolling back."""
        own = self.own_urls(("<path:object_id>/roll-back/", self.roll_back_view, "roll_back"))
        return [*own, *super().get_urls()]

    @admin.display(description=gettext_lazy("Revision"), ordering="version")
    def number(self, revision: PolicyRevision) -> str:
        """#7."""
        return f"#{revision.version}"

    @admin.display(description=gettext_lazy("Published"), ordering="created_at")
    def published(self, revision: PolicyRevision) -> SafeString:
        """Distance to now."""
        return ago(revision.created_at)

    @admin.display(description=gettext_lazy("Reason"))
    def why(self, revision: PolicyRevision) -> SafeString:
        """As it was stated."""
        return format_html('<span class="hf-name" title="{0}">{0}</span>', revision.reason)

    @admin.display(description=gettext_lazy("Kind"))
    def kind(self, revision: PolicyRevision) -> SafeString:
        """A publish or a roll back."""
        if revision.rollback_of is None:
            return plain_label(_("Publish"))
        return plain_label(_("Roll back to #%s") % revision.rollback_of.version, "warn")

    @admin.display(description=gettext_lazy("Policies"))
    def bundle_count(self, revision: PolicyRevision) -> int:
        """How many different audiences it has: everyone else and each group with pins."""
        return int(getattr(revision, "targets_number", 0))

    def show(self, request: HttpRequest, revision: PolicyRevision) -> HttpResponse:
        """The revision: what it changed, for whom, its pins, and the way back to it."""
        latest = latest_revision()
        base = PolicyRevision.objects.filter(version=revision.base_version).first()
        context: dict[str, object] = {
            "revision": revision,
            "opts": self.opts,
            "original": revision,
            "is_in_force": latest is not None and latest.pk == revision.pk,
            "may_publish": request.user.has_perm(PUBLISH_PERMISSION),
            "parts": revision_changes(base, revision),
            "base_version": revision.base_version,
            "latest": latest,
            "pins": [{"pin": pin, "value": value_text(pin.value)} for pin in _specs(revision)][
                :MAX_PINS_SHOWN
            ],
            "targets": revision.targets.select_related("bundle").defer("bundle__payload"),
        }
        title = _("Revision #%s") % revision.version
        return page(request, "fleet/revision.html", title, context)

    def roll_back_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """POST only: publish this revision's pins anew, with a reason."""
        if request.method != "POST" or not request.user.has_perm(PUBLISH_PERMISSION):
            raise PermissionDenied
        revision = self.get_object(request, object_id)
        if revision is None:
            return gone(request, self.opts)
        back = reverse("admin:fleet_policyrevision_change", args=(revision.pk,))
        if not reason_of(request):
            messages.error(request, _("Say why; the revision and the audit log keep it."))
            return HttpResponseRedirect(back)
        base = request.POST.get("base", "")
        try:
            created = roll_back_to(
                revision,
                actor=person_of(request),
                reason=reason_of(request),
                base_version=int(base) if base.isdecimal() else None,
            )
        except PolicyError as error:
            messages.error(request, str(error))
            return HttpResponseRedirect(back)
        messages.success(
            request,
            _("Rolled back to #%(old)s as revision #%(new)s.")
            % {"old": revision.version, "new": created.version},
        )
        return HttpResponseRedirect(
            reverse("admin:fleet_policyrevision_change", args=(created.pk,))
        )


def revision_changes(
    base: PolicyRevision | None, revision: PolicyRevision
) -> list[dict[str, object]]:
    """What a revision changed against its base, by audience; audiences without change left out."""
    before = _specs(base) if base is not None else []
    after = _specs(revision)
    groups = groups_of(before, after)
    parts: list[dict[str, object]] = []
    for group_number in sorted(groups):
        changes = diff(before, after, group_number, at_ns=now_ns())
        if changes:
            parts.append(
                {"name": groups[group_number], "rows": [row_of(change) for change in changes]}
            )
    return parts


def _specs(revision: PolicyRevision) -> list[PinSpec]:
    return [PinSpec.from_dict(pin) for pin in revision.pins]
