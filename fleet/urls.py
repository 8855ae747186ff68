"""The root URLconf: discovery, the API, and the console at the root."""

from __future__ import annotations

from django.contrib import admin
from django.urls import include, path, re_path

from fleet.api.views import DiscoveryView, NotFoundView

urlpatterns = [
    path(".well-known/hermes-fleet", DiscoveryView.as_view(), name="fleet-api-discovery"),
    path("api/v1/", include("fleet.api.urls")),
    path("api/v1/", include("telemetry.api.urls")),
    path("v1/", include("telemetry.api.otlp_urls")),
    re_path(r"^(api|v1|\.well-known)/", NotFoundView.as_view(), name="fleet-api-not-found"),
    path("", admin.site.urls),
]
