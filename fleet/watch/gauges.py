"""What the database knows of the console's state, as gauges, by the apps that know it.

An app registers a source: its families and a function that gives their samples. A source that
fails or is slow costs its own samples and nothing else.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Final, Literal

import structlog
from django.db import DatabaseError
from django.db.models import Count

from fleet.models import Install, ProcessBeat

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Family:
    """A metric: its name, what it says, its labels. A counter's samples end in ``_total``."""

    name: str
    text: str
    labels: tuple[str, ...] = ()
    kind: Literal["gauge", "counter"] = "gauge"


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of a family; the labels in the family's order."""

    name: str
    value: float
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """Families of one app, and what reads them."""

    name: str
    families: Sequence[Family]
    read: Callable[[], Iterable[Sample]]


@dataclass(frozen=True, slots=True)
class Reading:
    """All samples, and which sources gave theirs."""

    samples: tuple[Sample, ...]
    has_worked: tuple[tuple[str, bool], ...]


_sources: dict[str, Source] = {}
BUILD: Final = Family("fleet_build_info", "1; what runs.", ("version", "python", "django"))
SOURCE_UP: Final = Family(
    "fleet_watch_source_up", "1 when a source of gauges could be read.", ("source",)
)
AGE: Final = Family("fleet_watch_age_seconds", "How old the gauges of the database are.")
OWN_FAMILIES: Final = (BUILD, SOURCE_UP, AGE)


def register_source(source: Source) -> None:
    """Let an app add its gauges; a name registered again is replaced."""
    _sources[source.name] = source


def sources() -> tuple[Source, ...]:
    """All sources, in the order they came."""
    return tuple(_sources.values())


def read_all() -> Reading:
    """Ask every source now. Never raises for what one of them met."""
    samples: list[Sample] = []
    has_worked = []
    for source in sources():
        try:
            samples += source.read()
        except (DatabaseError, OSError) as error:
            logger.warning("watch_source_failed", source=source.name, kind=type(error).__name__)
            has_worked.append((source.name, False))
        else:
            has_worked.append((source.name, True))
    return Reading(tuple(samples), tuple(has_worked))


def build() -> tuple[str, str, str]:
    """Versions of the console, of Python and of Django."""
    import django

    try:
        own = version("hermes-fleet")
    except PackageNotFoundError:
        own = "source"
    return own, platform.python_version(), django.get_version()


FLEET_FAMILIES: Final = (
    Family("fleet_installs", "Installs by their policy state.", ("state",)),
    Family(
        "fleet_process_seen_timestamp_seconds",
        "When worker and beat last showed life, in seconds since 1970.",
        ("process",),
    ),
    Family("fleet_scrape_clock_seconds", "This console's clock, to compare the above with."),
)


def _fleet_samples() -> Iterator[Sample]:
    counts = Install.objects.order_by().values_list("sync_state").annotate(count=Count("id"))
    for state, count in counts:
        yield Sample("fleet_installs", count, (str(state),))
    for beat in ProcessBeat.objects.all():
        yield Sample("fleet_process_seen_timestamp_seconds", beat.at.timestamp(), (beat.kind,))
    yield Sample("fleet_scrape_clock_seconds", time.time())


def register_own() -> None:
    """Register what the fleet app knows."""
    register_source(Source("fleet", FLEET_FAMILIES, lambda: list(_fleet_samples())))
