"""The publish page: the plan first, then a reason, then one immutable revision."""

from __future__ import annotations

from dataclasses import dataclass

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.translation import gettext as _

from fleet.console.diff import value_text
from fleet.console.people import person_of
from fleet.console.rendering import page
from fleet.models import PolicyRevision
from fleet.policy.compile import PolicyError
from fleet.policy.plan import LeafChange, Plan, plan_publish
from fleet.policy.publish import publish_revision

PUBLISH_PERMISSION = "fleet.add_policyrevision"
MAX_REASON_CHARS = 300


@dataclass(frozen=True, slots=True)
class ChangeRow:
    """A leaf change as text; "" on the side where the key is absent."""

    kind: str
    key: str
    before: str
    after: str
    level: str
    is_loosening: bool


def publish(request: HttpRequest) -> HttpResponse:
    """GET shows the plan; POST publishes exactly the plan that was shown."""
    if request.method == "POST":
        return _publish(request)
    return _plan_page(request, plan_publish())


def _publish(request: HttpRequest) -> HttpResponse:
    if not request.user.has_perm(PUBLISH_PERMISSION):
        raise PermissionDenied
    reason = request.POST.get("reason", "").strip()[:MAX_REASON_CHARS]
    if not reason:
        return _plan_page(
            request, plan_publish(), error=_("Say why; the revision and the audit log keep it.")
        )
    base = request.POST.get("base", "")
    try:
        revision = publish_revision(
            actor=person_of(request),
            reason=reason,
            base_version=int(base) if base.isdecimal() else None,
        )
    except PolicyError as error:
        return _plan_page(request, plan_publish(), error=str(error), reason=reason)
    messages.success(request, _("Revision #%s is published.") % revision.version)
    return HttpResponseRedirect(reverse("admin:fleet_policyrevision_change", args=(revision.pk,)))


def _plan_page(
    request: HttpRequest, plan: Plan, *, error: str = "", reason: str = ""
) -> HttpResponse:
    base = PolicyRevision.objects.filter(version=plan.base_version).defer("document").first()
    context: dict[str, object] = {
        "plan": plan,
        "base": base,
        "next_version": plan.base_version + 1,
        "targets": [
            {"target": target, "rows": [row_of(change) for change in target.changes]}
            for target in plan.targets
            if target.changes
        ],
        "untouched": [target for target in plan.targets if not target.changes],
        "loosenings": sorted({change.key for change in plan.loosenings}),
        "may_publish": request.user.has_perm(PUBLISH_PERMISSION),
        "error": error,
        "reason": reason,
    }
    return page(request, "fleet/publish.html", _("Publish"), context, status=409 if error else 200)


def row_of(change: LeafChange) -> ChangeRow:
    """A change in the words of the page."""
    return ChangeRow(
        kind=change.kind,
        key=change.key,
        before="" if change.kind == "add" else value_text(change.before),
        after="" if change.kind == "delete" else value_text(change.after),
        level=change.level,
        is_loosening=change.is_loosening,
    )
