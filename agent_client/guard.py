"""The one broad except of the recording side: what fails here never reaches the host.

A fault is logged once per kind (by class name only: a message may hold payload)
and counted, so that silence does not hide it.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Final, ParamSpec

P = ParamSpec("P")

logger = logging.getLogger("hermes_fleet")
MAX_KINDS: Final = 256
"""Fault kinds remembered; the set is bounded because class names come from the host's objects."""

_faults: dict[tuple[str, str], int] = {}


def never_raise(place: str) -> Callable[[Callable[P, object]], Callable[P, None]]:
    """A decorator: the function returns None and swallows every Exception, counted under place.

    KeyboardInterrupt and SystemExit pass: they are the host's own.
    """

    def wrap(function: Callable[P, object]) -> Callable[P, None]:
        @functools.wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
            try:
                function(*args, **kwargs)
            except Exception as error:  # noqa: BLE001  # the one place that may
                note_fault(place, error)

        return guarded

    return wrap


def note_fault(place: str, error: BaseException) -> None:
    """Count a fault and log its class the first time. Never raises."""
    kind = (place, type(error).__name__)
    seen = _faults.get(kind, 0)
    if seen or len(_faults) < MAX_KINDS:
        _faults[kind] = seen + 1
    if not seen:
        try:
            logger.warning("telemetry fault in %s: %s", *kind)
        except Exception:  # noqa: BLE001  # a host's logging handler may raise anything
            return


def faults() -> dict[str, int]:
    """Counts by ``place:ExceptionClass`` since the process began."""
    return {f"{place}:{name}": count for (place, name), count in sorted(_faults.items())}
