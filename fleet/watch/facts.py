"""What apps know of the console's own state, as lines of the operations page."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import structlog
from django.db import DatabaseError
from django.utils.translation import gettext as _

logger = structlog.get_logger(__name__)
type Tone = Literal["good", "warn", "bad", "quiet"]


@dataclass(frozen=True, slots=True)
class Fact:
    """One line. ``share``: of all lines of its section, for a bar; ``mend``: what to do, if any."""

    title: str
    value: str
    tone: Tone = "quiet"
    mend: str = ""
    share: float | None = None


@dataclass(frozen=True, slots=True)
class Section:
    """Lines under a title, and the part of the runbook that is about them."""

    title: str
    note: str
    facts: tuple[Fact, ...]
    runbook: str = ""


_sections: dict[str, Callable[[], Section]] = {}


def register_section(name: str, read: Callable[[], Section]) -> None:
    """Let an app add a section; a name registered again is replaced."""
    _sections[name] = read


def sections() -> Iterable[Section]:
    """All of them, read now. One that cannot be read says so, and costs no other."""
    for name, read in _sections.items():
        try:
            yield read()
        except (DatabaseError, OSError) as error:
            kind = type(error).__name__
            logger.warning("facts_not_read", section=name, kind=kind)
            yield Section(name, "", (Fact(_("Could not be read"), kind, "warn"),))
