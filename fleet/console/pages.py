"""The console's own pages: which there are, who may open them, what all of them are given."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Final

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse

from fleet.console import health_views, operations_views, publish_views, sync_views
from fleet.console.registry import Page

OWN_PAGES: Final = (
    Page("publish/", "console-publish", publish_views.publish, "fleet.view_policyrevision"),
    Page("sync/", "console-sync", sync_views.sync_state, "fleet.view_install"),
    Page("health/", "console-health", health_views.health, "fleet.view_processbeat"),
    Page(
        "operations/",
        "console-operations",
        operations_views.operations,
        "fleet.view_processbeat",
    ),
)


def guarded(page: Page) -> Callable[..., HttpResponse]:
    """The page's view behind its permission; the admin site has asked for staff before."""

    @wraps(page.view)
    def view(request: HttpRequest, *args: object, **kwargs: object) -> HttpResponse:
        if page.permission and not request.user.has_perm(page.permission):
            raise PermissionDenied
        return page.view(request, *args, **kwargs)

    return view
