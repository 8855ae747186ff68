"""Filters between an address and a question: read from the one, offered for the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from django.http import HttpRequest
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from fleet.console.registry import Filter
from telemetry.insight.filters import Filters

MAX_TEXT: Final = 200
ON_RUNS: Final = ("entrypoint", "platform", "agent_version")
ON_MODELS: Final = ("provider", "model")
_LABELS: Final[Mapping[str, tuple[str | Promise, str | Promise]]] = {
    "entrypoint": (_("Entrypoint"), _("All entrypoints")),
    "platform": (_("Platform"), _("All platforms")),
    "agent_version": (_("Agent version"), _("All versions")),
    "provider": (_("Provider"), _("All providers")),
    "model": (_("Model"), _("All models")),
    "tool_name": (_("Tool"), _("All tools")),
}


def filters_of(request: HttpRequest, names: Sequence[str]) -> Filters:
    """The filters in an address; those a page does not follow are left out."""
    group = request.GET.get("group", "")
    chosen = {name: request.GET.get(name, "")[:MAX_TEXT].replace("\0", "") for name in names}
    # An id beyond 64 bits is no group, and no database takes it.
    return Filters(group_id=int(group) if group.isdecimal() and len(group) < 19 else None, **chosen)


def page_filters(filters: Filters, options: Mapping[str, Sequence[str]]) -> list[Filter]:
    """What a page offers to choose from."""
    found = []
    for name, values in options.items():
        label, any_label = _LABELS[name]
        value = getattr(filters, name)
        # What is chosen stays to be seen, also when nothing of the window has it.
        shown = tuple(sorted({*values, *filter(None, [value])}))
        found.append(Filter(name, str(label), str(any_label), value, shown))
    return found
