"""How other apps put numbers on the console: panels by name, rendered by the overview page.

A panel is registered once, in an AppConfig's ``ready``; registering a name again replaces it, so
that a reload does no harm. The console never imports the app that registers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from django.http import HttpRequest, HttpResponse

from fleet.lib.clock import floor_hour

RANGES: Final[Mapping[str, timedelta]] = {
    "24h": timedelta(hours=24),
    "7d": timedelta(days=7),
    "30d": timedelta(days=30),
}
"""Length of each range the picker offers."""
DEFAULT_RANGE: Final = "24h"


@dataclass(frozen=True, slots=True)
class ConsoleWindow:
    """The time a page speaks about: whole hours (UTC), ``end`` not included."""

    name: str
    start: datetime
    end: datetime

    @property
    def label(self) -> str:
        """24 h, 7 d or 30 d."""
        return f"{self.name[:-1]}\u202f{self.name[-1]}"


def window_of(name: str, *, at: datetime) -> ConsoleWindow:
    """The window of a range's name, up to the end of the hour ``at`` lies in.

    It rolls with the hours instead of keeping to days: the window before is then as
    complete as this one, and a change against it means something. An unknown name
    gives the default range.
    """
    chosen = name if name in RANGES else DEFAULT_RANGE
    end = floor_hour(at) + timedelta(hours=1)
    return ConsoleWindow(chosen, end - RANGES[chosen], end)


@dataclass(frozen=True, slots=True)
class PanelRequest:
    """What a panel may depend on; panels share queries in ``memo``, which lives with the page."""

    request: HttpRequest
    window: ConsoleWindow
    group_id: int | None
    memo: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Panel:
    """One part of the overview: a template and the function that fills it.

    ``context`` returns None when the panel has nothing to say on this page.
    ``slot`` is "top" (full width), "wide", "side" or "half"; ``permission`` is a Django
    permission without which the panel is left out.
    """

    name: str
    template: str
    context: Callable[[PanelRequest], Mapping[str, object] | None]
    slot: str = "half"
    order: int = 100
    permission: str = ""


_panels: dict[str, Panel] = {}


def register_panel(panel: Panel) -> None:
    """Put a panel on the overview."""
    _panels[panel.name] = panel


def panels_for(request: HttpRequest) -> list[Panel]:
    """The panels this user may see, in order."""
    return sorted(
        (
            panel
            for panel in _panels.values()
            if not panel.permission or request.user.has_perm(panel.permission)
        ),
        key=lambda panel: (panel.order, panel.name),
    )


@dataclass(frozen=True, slots=True)
class Filter:
    """A choice on the overview beside range and group: its name in the address and its values."""

    name: str
    label: str
    any_label: str
    value: str
    values: tuple[str, ...]


FilterSource = Callable[[PanelRequest], Sequence[Filter]]
_filter_sources: list[FilterSource] = []


def register_filters(source: FilterSource) -> None:
    """Name the source of the overview's filters; the last one named is asked."""
    _filter_sources[:] = [source]


def filters_for(wanted: PanelRequest) -> list[Filter]:
    """The filters of this page for this user."""
    return list(_filter_sources[0](wanted)) if _filter_sources else []


@dataclass(frozen=True, slots=True)
class InstallPanel:
    """A part of the install page; ``context`` gets the request and the install's id."""

    name: str
    template: str
    context: Callable[[HttpRequest, UUID], Mapping[str, object]]
    order: int = 100
    permission: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """A page of its own in the admin site, named ``admin:<name>``; empty permission: any staff."""

    route: str
    name: str
    view: Callable[..., HttpResponse]
    permission: str = ""


RunCounts = Callable[[Sequence[UUID]], Mapping[UUID, int]]
"""Runs of the last 7 days by install; one query for all of a page's rows."""

_install_panels: dict[str, InstallPanel] = {}
_pages: dict[str, Page] = {}
_run_counts: list[RunCounts] = []


def register_install_panel(panel: InstallPanel) -> None:
    """Put a panel on the install page."""
    _install_panels[panel.name] = panel


def install_panels_for(request: HttpRequest) -> list[InstallPanel]:
    """The install panels this user may see, in order."""
    return sorted(
        (
            panel
            for panel in _install_panels.values()
            if not panel.permission or request.user.has_perm(panel.permission)
        ),
        key=lambda panel: (panel.order, panel.name),
    )


def register_page(page: Page) -> None:
    """Add a page to the admin site; before the URLs are first built."""
    _pages[page.name] = page


def pages() -> list[Page]:
    """Every registered page."""
    return list(_pages.values())


ClockSkews = Callable[[Sequence[UUID]], Mapping[UUID, int]]
"""Milliseconds by which clocks are ahead (behind: negative), of those where it matters."""
_clock_skews: list[ClockSkews] = []


def register_clock_skews(source: ClockSkews) -> None:
    """Name who knows of clocks; the last one named is asked."""
    _clock_skews[:] = [source]


def clock_skews(install_ids: Sequence[UUID]) -> Mapping[UUID, int]:
    """Clocks that are wrong by much; empty when nobody knows."""
    return _clock_skews[0](install_ids) if _clock_skews and install_ids else {}


def register_run_counts(source: RunCounts) -> None:
    """Name the source of the install list's run column; the last one named is asked."""
    _run_counts[:] = [source]


def run_counts(install_ids: Sequence[UUID]) -> Mapping[UUID, int]:
    """Runs of the last 7 days; empty when nobody keeps them."""
    return _run_counts[0](install_ids) if _run_counts and install_ids else {}
