"""The note that a restore leaves while it is between its halves, and who must not start then."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from django.conf import settings

JOURNAL: Final = "restore-pending.json"
WHAT: Final = "A restore was cut short, or goes on: database and keys may not belong together."
MEND: Final = "With the console stopped, run: manage.py restore --finish"


def journal_path() -> Path:
    """Where the note lies."""
    return Path(settings.FLEET_HOME) / JOURNAL


def is_pending() -> bool:
    """Whether a restore goes on, or was killed and not finished."""
    return journal_path().exists()


def refuse_start() -> None:
    """Errors: SystemExit in a process that would serve a console of two halves.

    System checks stop ``up``, ``migrate`` and the unit that runs it; this stops a process that is
    started alone, which runs none. With keys of another time it would refuse every agent.
    """
    if is_pending():
        raise SystemExit(f"fleet.E006: {WHAT} {MEND}")
