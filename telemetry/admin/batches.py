"""Read-only admins: batches with their receipts, run summaries."""

from __future__ import annotations

import json

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from agent_client.contract.aggregate import Heartbeat
from fleet.admin.base import FactAdmin
from fleet.console.labels import label, plain_label
from fleet.console.rendering import page
from fleet.models import Install
from fleet.templatetags.fleet_format import ago, byte_size, duration_ms, exact, words
from telemetry.admin.clocks import clock_note
from telemetry.models import AggregateRecord, IngestBatch, QuarantinedLine

MAX_LINES_SHOWN = 200


def install_link(install_id: object) -> SafeString:
    """The way to an install's page, by the first part of its id."""
    return format_html(
        '<a class="hf-link hf-mono hf-nowrap" href="{}" title="{}">{}</a>',
        reverse("admin:fleet_install_change", args=(install_id,)),
        install_id,
        str(install_id)[:8],
    )


@admin.register(IngestBatch)
class IngestBatchAdmin(FactAdmin):
    """Every batch that was received, once, with what became of its rows."""

    list_display = (
        "batch",
        "received",
        "install",
        "plane",
        "rows",
        "inserted_count",
        "merged_count",
        "duplicate_count",
        "refused",
        "lost",
        "size",
    )
    list_display_links = ("batch",)
    list_select_related = False
    list_filter = ("plane", "source", "received_at")
    search_fields = ("=batch_id", "=install_id")
    search_help_text = gettext_lazy("Search a whole batch id or install id")
    readonly_fields = ("batch_id",)
    ordering = ("-received_at",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[IngestBatch]:
        """Without receipts: a list shows only their sums."""
        batches = super().get_queryset(request)
        return batches.defer("receipt", "consent") if _is_list(request) else batches

    @admin.display(description=gettext_lazy("Batch"))
    def batch(self, item: IngestBatch) -> SafeString:
        """The first part of its id."""
        text = str(item.batch_id)
        return format_html('<span class="hf-mono" title="{}">{}</span>', text, text[:8])

    @admin.display(description=gettext_lazy("Received"), ordering="received_at")
    def received(self, item: IngestBatch) -> SafeString:
        """Distance to now."""
        return ago(item.received_at)

    @admin.display(description=gettext_lazy("Install"))
    def install(self, item: IngestBatch) -> SafeString:
        """Whose it is."""
        return install_link(item.install_id)

    @admin.display(description=gettext_lazy("Rows"), ordering="received_count")
    def rows(self, item: IngestBatch) -> str:
        """Lines received."""
        return exact(item.received_count)

    @admin.display(description=gettext_lazy("Rejected"), ordering="rejected_count")
    def refused(self, item: IngestBatch) -> SafeString:
        """Lines refused, marked when there are any."""
        if not item.rejected_count:
            return plain_label("0")
        return label(exact(item.rejected_count), "warn")

    @admin.display(description=gettext_lazy("Lost before"))
    def lost(self, item: IngestBatch) -> SafeString:
        """Events the agent says it dropped since its last receipt."""
        lost = sum(value for value in item.losses.values() if isinstance(value, int))
        return label(exact(lost), "bad") if lost else plain_label("0")

    @admin.display(description=gettext_lazy("Size"), ordering="wire_bytes")
    def size(self, item: IngestBatch) -> SafeString:
        """On the wire; decoded in the title."""
        return format_html(
            '<span title="{}">{}</span>',
            _("%s decoded") % byte_size(item.decoded_bytes),
            byte_size(item.wire_bytes),
        )

    def show(self, request: HttpRequest, batch: IngestBatch) -> HttpResponse:
        """The batch: its account, its receipt, its quarantined lines."""
        lines = QuarantinedLine.objects.filter(
            install_id=batch.install_id, batch_id=batch.batch_id
        ).order_by("line")
        may_see_lines = request.user.has_perm("telemetry.view_quarantinedline")
        rejected = batch.receipt.get("rejected_counts", {})
        context: dict[str, object] = {
            "batch": batch,
            "opts": self.opts,
            "install": Install.objects.filter(pk=batch.install_id).first(),
            "receipt": json.dumps(batch.receipt, indent=2, ensure_ascii=False),
            "consent": json.dumps(batch.consent, indent=2, ensure_ascii=False),
            "clock_note": clock_note(batch.install_id, rejected),
            "rejected": sorted(rejected.items()) if isinstance(rejected, dict) else [],
            "losses": sorted(batch.losses.items()),
            "lines": lines[:MAX_LINES_SHOWN] if may_see_lines else [],
        }
        return page(request, "telemetry/batch.html", _("Batch"), context)


def _is_list(request: HttpRequest) -> bool:
    match = request.resolver_match
    return match is not None and (match.url_name or "").endswith("_changelist")


@admin.register(AggregateRecord)
class AggregateRecordAdmin(FactAdmin):
    """Run summaries and heartbeats of installs whose owners opted in."""

    list_display = ("occurred", "install", "what", "gist", "brought_by", "received")
    list_display_links = None
    list_select_related = False
    list_filter = ("kind", "occurred_at")
    search_fields = ("=install_id", "=record_id", "=batch_id")
    search_help_text = gettext_lazy("Search a whole install id, record id or batch id")
    readonly_fields = ("record_id",)
    ordering = ("-occurred_at",)

    @admin.display(description=gettext_lazy("Ended or seen"), ordering="occurred_at")
    def occurred(self, item: AggregateRecord) -> SafeString:
        """Distance to now."""
        return ago(item.occurred_at)

    @admin.display(description=gettext_lazy("Install"))
    def install(self, item: AggregateRecord) -> SafeString:
        """Whose it is."""
        return install_link(item.install_id)

    @admin.display(description=gettext_lazy("Kind"), ordering="kind")
    def what(self, item: AggregateRecord) -> str:
        """Its kind in words."""
        return words(item.kind)

    @admin.display(description=gettext_lazy("In short"))
    def gist(self, item: AggregateRecord) -> SafeString:
        """What matters of it; the whole of it in the title."""
        data = item.data
        if item.kind == Heartbeat.KIND:
            parts = [data["client_version"], data["agent_version"], data["os_family"]]
        else:
            calls = data["model_call_count"] + data["tool_call_count"]
            parts = [
                words(data["end_reason"]),
                data["entrypoint"],
                duration_ms(data["duration_ms"]),
            ]
            parts.append(_("%s calls") % exact(calls))
        text = json.dumps(data, ensure_ascii=False)[:2000]
        return format_html('<bdi title="{}">{}</bdi>', text, " · ".join(parts))

    @admin.display(description=gettext_lazy("Brought by batch"))
    def brought_by(self, item: AggregateRecord) -> SafeString:
        """The batch, and with it the consent."""
        return format_html(
            '<a class="hf-link hf-mono" href="{}?q={}">{}</a>',
            reverse("admin:telemetry_ingestbatch_changelist"),
            item.batch_id,
            str(item.batch_id)[:8],
        )

    @admin.display(description=gettext_lazy("Received"), ordering="received_at")
    def received(self, item: AggregateRecord) -> SafeString:
        """Distance to now."""
        return ago(item.received_at)
