"""The admin site of the console: its titles, its own pages, the overview as landing page."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, URLResolver, path
from django.utils.translation import gettext_lazy as _
from unfold.sites import UnfoldAdminSite

from fleet.console import panels, registry
from fleet.console.pages import OWN_PAGES, guarded
from fleet.console.views import overview


class FleetAdminSite(UnfoldAdminSite):  # type: ignore[misc]  # the theme is untyped
    """Landing page is the overview; pages that are no model list sit beside the model admins."""

    site_title = _("Hermes Fleet")
    site_header = _("Hermes Fleet")
    index_title = _("Overview")

    def get_urls(self) -> list[URLPattern | URLResolver]:
        """The console's own pages come first: none of their paths is an app label."""
        panels.register()
        own: list[URLPattern | URLResolver] = [
            path(page.route, self.admin_view(guarded(page)), name=page.name)
            for page in (*OWN_PAGES, *registry.pages())
        ]
        return [*own, *super().get_urls()]

    def index(
        self,
        request: HttpRequest,
        extra_context: dict[str, Any] | None = None,  # Any: the admin's own signature
    ) -> HttpResponse:
        """The overview."""
        request.current_app = self.name
        return overview(request, extra_context)
