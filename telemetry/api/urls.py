"""Routes under /api/v1/; names telemetry-api-*."""

from __future__ import annotations

from django.urls import path

from telemetry.api.exports import (
    DownloadView,
    ExportCancelView,
    ExportFilesView,
    ExportsView,
    ExportView,
)
from telemetry.api.views import BatchView

urlpatterns = [
    path("telemetry", BatchView.as_view(), name="telemetry-api-batch"),
    path("exports", ExportsView.as_view(), name="telemetry-api-exports"),
    path("exports/<int:pk>", ExportView.as_view(), name="telemetry-api-export"),
    path("exports/<int:pk>/cancel", ExportCancelView.as_view(), name="telemetry-api-export-cancel"),
    path("exports/<int:pk>/files", ExportFilesView.as_view(), name="telemetry-api-export-files"),
    path(
        "exports/download/<str:token>",
        DownloadView.as_view(),
        name="telemetry-api-export-download",
    ),
]
