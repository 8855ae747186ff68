"""Routes of OTLP/HTTP under /v1/, where every exporter looks for them; names telemetry-otlp-*."""

from __future__ import annotations

from django.urls import path

from telemetry.api.otlp import LogsView, MetricsView, TracesView

urlpatterns = [
    path("traces", TracesView.as_view(), name="telemetry-otlp-traces"),
    path("logs", LogsView.as_view(), name="telemetry-otlp-logs"),
    path("metrics", MetricsView.as_view(), name="telemetry-otlp-metrics"),
]
