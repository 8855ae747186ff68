"""The overload spool: what waits, what was set aside and why, and the way back."""

from __future__ import annotations

from django.contrib import admin, messages
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from fleet.admin.base import FactAdmin, confirm_page, reason_of
from fleet.audit import record_change
from fleet.console.labels import label
from fleet.console.people import person_of
from fleet.templatetags.fleet_format import ago, byte_size, exact
from telemetry.admin.batches import install_link
from telemetry.ingest.drain import try_again
from telemetry.models import SpooledBatch


class AsideFilter(admin.SimpleListFilter):
    """Batches that need somebody."""

    title = gettext_lazy("state")
    parameter_name = "state"

    def lookups(
        self, request: HttpRequest, model_admin: admin.ModelAdmin[SpooledBatch]
    ) -> list[tuple[str, str]]:
        """The two states."""
        return [("waiting", _("Waiting")), ("aside", _("Set aside"))]

    def queryset(
        self, request: HttpRequest, queryset: QuerySet[SpooledBatch]
    ) -> QuerySet[SpooledBatch]:
        """Those of a state."""
        if self.value() not in {"waiting", "aside"}:
            return queryset
        return queryset.filter(set_aside_at__isnull=self.value() == "waiting")


@admin.register(SpooledBatch)
class SpooledBatchAdmin(FactAdmin):
    """Batches that are acknowledged and not in the event tables yet."""

    list_display = ("batch", "arrived", "install", "state", "rows", "size", "tries", "last_error")
    list_display_links = None
    list_select_related = False
    list_filter = (AsideFilter,)
    search_fields = ("=batch_id", "=install_id")
    search_help_text = gettext_lazy("Search a whole batch id or install id")
    readonly_fields = ("batch_id",)
    ordering = ("id",)
    actions = ("try_again",)
    list_before_template = "telemetry/spool_before.html"

    def get_queryset(self, request: HttpRequest) -> QuerySet[SpooledBatch]:
        """Without the payloads: they are megabytes and no list shows them."""
        return super().get_queryset(request).defer("payload")

    def has_retry_permission(self, request: HttpRequest) -> bool:
        """Whether somebody may give a batch its tries back."""
        return request.user.has_perm("telemetry.retry_spooledbatch")

    @admin.display(description=gettext_lazy("Batch"))
    def batch(self, item: SpooledBatch) -> SafeString:
        """The first part of its id."""
        text = str(item.batch_id)
        return format_html('<span class="hf-mono" title="{}">{}</span>', text, text[:8])

    @admin.display(description=gettext_lazy("Arrived"), ordering="received_at")
    def arrived(self, item: SpooledBatch) -> SafeString:
        """Distance to now."""
        return ago(item.received_at)

    @admin.display(description=gettext_lazy("Install"))
    def install(self, item: SpooledBatch) -> SafeString:
        """Whose it is."""
        return install_link(item.install_id)

    @admin.display(description=gettext_lazy("State"), ordering="set_aside_at")
    def state(self, item: SpooledBatch) -> SafeString:
        """Waiting, or set aside since."""
        if item.set_aside_at is None:
            return label(_("Waiting"), "info")
        return label(_("Set aside"), "bad", f"{item.set_aside_at:%Y-%m-%d %H:%M} UTC")

    @admin.display(description=gettext_lazy("Rows"), ordering="row_count")
    def rows(self, item: SpooledBatch) -> str:
        """Rows that were acknowledged."""
        return exact(item.row_count)

    @admin.display(description=gettext_lazy("Size"), ordering="payload_bytes")
    def size(self, item: SpooledBatch) -> str:
        """As it lies in the spool."""
        return byte_size(item.payload_bytes)

    @admin.display(description=gettext_lazy("Tries"), ordering="attempts")
    def tries(self, item: SpooledBatch) -> int:
        """Tries that were begun."""
        return item.attempts

    @admin.action(description=gettext_lazy("Try again…"), permissions=["retry"])
    def try_again(
        self, request: HttpRequest, queryset: QuerySet[SpooledBatch]
    ) -> HttpResponse | None:
        """Ask with the count, then give those that were set aside their tries back; audited."""
        aside = queryset.filter(set_aside_at__isnull=False)
        number = aside.count()
        if not number:
            messages.warning(request, _("None of them is set aside; the rest is tried by itself."))
            return None
        if "confirmed" in request.POST and reason_of(request):
            for batch in aside:
                _retry(request, batch)
            text = ngettext(
                "%s batch will be tried again.", "%s batches will be tried again.", number
            )
            messages.success(request, text % number)
            return None
        return confirm_page(
            request,
            action="try_again",
            title=_("Try again"),
            question=ngettext("Try %s batch again?", "Try %s batches again?", number) % number,
            consequence=_(
                "The drainer takes them within seconds. A batch whose cause is not mended is set "
                "aside again after five tries."
            ),
            button=_("Try again"),
            queryset=aside,
        )


def _retry(request: HttpRequest, batch: SpooledBatch) -> None:
    with transaction.atomic():
        if try_again(batch.pk):
            record_change(
                actor=person_of(request),
                action="spool.retry",
                target=batch,
                pre={"last_error": batch.last_error, "attempts": batch.attempts},
                post={"attempts": 0},
                reason=reason_of(request),
            )
