"""The trajectories plane on the install page: what opens it, its consent, its sessions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from uuid import UUID

from django.conf import settings
from django.http import HttpRequest

from fleet.console import registry
from fleet.console.registry import InstallPanel, Page
from fleet.models import Install
from fleet.policy.effective import effective_values
from telemetry.ingest.gate import CONTENT_KEY
from telemetry.models import ClosedPlane, ContentSession, IngestBatch
from telemetry.models.content import VIEW_TRAJECTORY
from telemetry.pages.content import content_page

MAX_SESSIONS: Final = 10


def install_content(request: HttpRequest, install_id: UUID) -> Mapping[str, object]:
    """The switches of the plane and what the install said last; sessions for who may read them."""
    may_read = request.user.has_perm(VIEW_TRAJECTORY)
    sessions = ContentSession.objects.of_install(install_id)
    # Every push says the consent, whatever its plane: after a withdrawal only the local one does.
    batches = IngestBatch.objects.of_install(install_id).filter(source=IngestBatch.Source.PUSH)
    install = Install.objects.filter(pk=install_id).first()
    refused = ClosedPlane.objects.filter(install_id=install_id, plane="trajectories")
    return {
        "is_switched_on": settings.FLEET_TRAJECTORIES,
        "is_asked_for": install is not None
        and effective_values(install)[CONTENT_KEY].value is True,
        "batch": batches.defer("receipt").first(),
        "was_given": batches.filter(plane="trajectories").exists(),
        "sessions": sessions[:MAX_SESSIONS] if may_read else [],
        "session_count": sessions.count(),
        "refused": refused.first(),
        "install_id": install_id,
    }


def register() -> None:
    """Put the panel and the page on the console; the page behind the plane's own permission."""
    registry.register_install_panel(
        InstallPanel(
            "content",
            "telemetry/panels/install_content.html",
            install_content,
            17,
            "telemetry.view_ingestbatch",
        )
    )
    registry.register_page(
        Page("content/<uuid:install_id>/", "insight-content", content_page, VIEW_TRAJECTORY)
    )
