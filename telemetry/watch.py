"""The gauges of telemetry: what waits, how far sums and relays are behind, what the tables take."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from django.db.models import Count, Q, Sum

from fleet.lib.clock import now
from fleet.watch.gauges import Family, Sample, Source, register_source
from telemetry.ingest.spool import spool_state
from telemetry.models import DeadLetter, ExportJob, QuarantinedLine, RelayCursor, Stream
from telemetry.rollup.lag import failed_batches, lag_s
from telemetry.store.sizes import table_sizes

_PER_RELAY: Final = ("destination", "signal")

INGEST: Final = (
    Family("fleet_spool_batches", "Batches in the overload spool.", ("state",)),
    Family("fleet_spool_rows", "Rows in the overload spool."),
    Family("fleet_spool_bytes", "Bytes of the overload spool."),
    Family("fleet_spool_oldest_seconds", "Age of the oldest batch that waits to be stored."),
    Family("fleet_quarantined_lines", "Refused lines that are kept for a look."),
    Family("fleet_rollup_lag_seconds", "Age of the oldest batch that no sum knows of; 0: none."),
    Family("fleet_rollup_failed_batches", "Batches that could not be added to the sums."),
)
RELAY: Final = (
    Family("fleet_relay_lag_seconds", "How far a relay is behind.", _PER_RELAY),
    Family("fleet_relay_waiting", "Batches that wait for a relay.", _PER_RELAY),
    Family("fleet_relay_failures", "Failed sends in a row; 0: the last one worked.", _PER_RELAY),
    Family("fleet_relay_sent", "Records sent.", _PER_RELAY, kind="counter"),
    Family("fleet_relay_rejected", "Records the receiver refused.", _PER_RELAY, kind="counter"),
    Family("fleet_relay_retries", "Sends that were tried again.", _PER_RELAY, kind="counter"),
    Family("fleet_relay_dead", "Records put aside as dead letters.", _PER_RELAY, kind="counter"),
    Family("fleet_dead_letters", "Dead letters that were not sent again."),
    Family("fleet_dead_letter_bytes", "Bytes of all dead letters."),
    Family("fleet_stream_failures", "Failed sends in a row of a stream.", ("stream",)),
    Family("fleet_stream_sent", "Records a stream has sent.", ("stream",), kind="counter"),
)
EXPORTS: Final = (
    Family("fleet_export_jobs", "Export jobs by state.", ("state",)),
    Family("fleet_export_oldest_seconds", "Age of the oldest export job that is not finished."),
)
SIZES: Final = (
    Family("fleet_database_bytes", "Size of the database by group of tables.", ("tables",)),
)


def register_gauges() -> None:
    """Register all four sources; called once by the app."""
    register_source(Source("ingest", INGEST, lambda: list(_ingest())))
    register_source(Source("relay", RELAY, lambda: list(_relay())))
    register_source(Source("exports", EXPORTS, lambda: list(_exports())))
    register_source(Source("sizes", SIZES, lambda: list(_sizes())))


def _ingest() -> Iterator[Sample]:
    spool, moment = spool_state(), now()
    yield Sample("fleet_spool_batches", spool.waiting_count, ("waiting",))
    yield Sample("fleet_spool_batches", spool.set_aside_count, ("set_aside",))
    yield Sample("fleet_spool_rows", spool.row_count)
    yield Sample("fleet_spool_bytes", spool.payload_bytes)
    oldest = spool.oldest_at
    age_s = (moment - oldest).total_seconds() if oldest is not None else 0.0
    yield Sample("fleet_spool_oldest_seconds", max(age_s, 0.0))
    yield Sample("fleet_quarantined_lines", QuarantinedLine.objects.count())
    yield Sample("fleet_rollup_lag_seconds", lag_s() or 0.0)
    yield Sample("fleet_rollup_failed_batches", failed_batches())


def _relay() -> Iterator[Sample]:
    for cursor in RelayCursor.objects.select_related("destination"):
        labels = (cursor.destination.name, cursor.signal)
        yield Sample("fleet_relay_lag_seconds", cursor.lag_s or 0.0, labels)
        yield Sample("fleet_relay_waiting", cursor.waiting_count, labels)
        yield Sample("fleet_relay_failures", cursor.failure_count, labels)
        yield Sample("fleet_relay_sent", cursor.sent_count, labels)
        yield Sample("fleet_relay_rejected", cursor.rejected_count, labels)
        yield Sample("fleet_relay_retries", cursor.retry_count, labels)
        yield Sample("fleet_relay_dead", cursor.dead_count, labels)
    held = DeadLetter.objects.aggregate(
        open=Count("id", filter=Q(replayed_at=None)), size=Sum("body_bytes")
    )
    yield Sample("fleet_dead_letters", held["open"])
    yield Sample("fleet_dead_letter_bytes", held["size"] or 0)
    for stream in Stream.objects.all():
        yield Sample("fleet_stream_failures", stream.failure_count, (stream.name,))
        yield Sample("fleet_stream_sent", stream.sent_count, (stream.name,))


def _exports() -> Iterator[Sample]:
    counts = dict(ExportJob.objects.order_by().values_list("state").annotate(count=Count("id")))
    for state in ExportJob.State.values:
        yield Sample("fleet_export_jobs", counts.get(state, 0), (state,))
    unfinished = ExportJob.objects.filter(
        state__in=[ExportJob.State.WAITING, ExportJob.State.RUNNING]
    )
    oldest = unfinished.order_by("created_at").values_list("created_at", flat=True).first()
    age_s = (now() - oldest).total_seconds() if oldest is not None else 0.0
    yield Sample("fleet_export_oldest_seconds", max(age_s, 0.0))


def _sizes() -> Iterator[Sample]:
    for group, size_bytes in table_sizes().items():
        yield Sample("fleet_database_bytes", size_bytes, (group,))
