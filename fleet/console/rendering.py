"""One way to render a page of ours inside the admin's frame."""

from __future__ import annotations

from collections.abc import Mapping

from django.contrib import admin
from django.http import HttpRequest
from django.template.response import TemplateResponse


def page(
    request: HttpRequest,
    template: str,
    title: str,
    context: Mapping[str, object],
    *,
    status: int = 200,
) -> TemplateResponse:
    """The template with the site's context (sidebar, theme, badge), ``title`` in the header."""
    merged = {**admin.site.each_context(request), "title": title, **context}
    return TemplateResponse(request, template, merged, status=status)
