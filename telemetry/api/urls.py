"""Routes under /api/v1/; names telemetry-api-*."""

from __future__ import annotations

from django.urls import path

from telemetry.api.views import BatchView

urlpatterns = [
    path("telemetry", BatchView.as_view(), name="telemetry-api-batch"),
]
