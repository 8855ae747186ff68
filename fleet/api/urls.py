"""Routes of the agents' API, under /api/v1/; names fleet-api-*."""

from __future__ import annotations

from django.urls import path, re_path
from drf_spectacular.views import SpectacularAPIView

from fleet.api import views

urlpatterns = [
    path("enroll", views.EnrollView.as_view(), name="fleet-api-enroll"),
    path(
        "installs/self/credentials",
        views.CredentialsView.as_view(),
        name="fleet-api-credentials",
    ),
    path("policy/root", views.PolicyRootView.as_view(), name="fleet-api-policy-root"),
    path(
        "policy/assignment",
        views.PolicyAssignmentView.as_view(),
        name="fleet-api-policy-assignment",
    ),
    re_path(
        r"^policy/bundles/(?P<sha256>[0-9a-f]{64})$",
        views.PolicyBundleView.as_view(),
        name="fleet-api-policy-bundle",
    ),
    path("checkin", views.CheckInView.as_view(), name="fleet-api-checkin"),
    path("schema", SpectacularAPIView.as_view(), name="fleet-api-schema"),
]
